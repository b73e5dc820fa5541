"""A loaded model, as the layer for LLM output wants it."""

import asyncio
from collections.abc import Mapping
from typing import Any

from modelrack.errors import EngineError, TooManyRequests
from modelrack.llm.contract import Generation, Listener, MediaPrompt, ModelTraits, Ticket
from modelrack.llm.errors import context_overflow
from modelrack.llm.guided import Constraints

from . import bindings
from .bindings import Handle
from .context import Context
from .extras import Extras
from .parts import LoopCounters
from .scheduler import Scheduler
from .slots import Job, Matcher
from .vocabulary import Vocabulary

__all__ = ["GgufModel"]

_CLOSE_S = 20.0


class GgufModel:
    """A loaded model. Made by `load_model`; used on the event loop.

    Args:
        model: llama.cpp's model, which this owns from now on, with the context and the extras.
        most: sequences that run at once.
        max_queue: sequences that wait.
    """

    def __init__(
        self,
        *,
        model: Handle,
        vocabulary: Vocabulary,
        context: Context,
        scheduler: Scheduler,
        constraints: Constraints | None,
        extras: Extras,
        traits: ModelTraits,
        most: int,
        max_queue: int,
        facts: Mapping[str, Any],
    ) -> None:
        self.traits = traits
        self.facts = facts
        self.scheduler = scheduler
        self.counters: LoopCounters = scheduler.counters
        self.encode = vocabulary.encode
        self.token_bytes = vocabulary.token_bytes
        self.special_bytes = vocabulary.special_bytes
        self.token_name = vocabulary.token_name
        self._vocabulary = vocabulary
        self._model = model
        self._context = context
        self._constraints = constraints
        self._extras = extras
        self._most = most
        self._max_queue = max_queue
        self._is_closed = False

    async def submit(self, generation: Generation, listener: Listener) -> Ticket:
        """Queue a generation.

        Raises: BadRequest: the constraint cannot be had, or the context is too short for a prompt with media.
            TooManyRequests: the queue is full.
        """
        scheduler = self.scheduler
        self._check_open()
        matcher: Matcher | None = None
        media = None
        if generation.constraint is not None:
            assert self._constraints is not None
            matcher = await self._constraints.prepare(generation.constraint)
        if isinstance(generation.prompt, MediaPrompt):
            assert self._extras.vision is not None
            media = await self._extras.vision.read(generation.prompt)
            prompt = media.tokens
        else:
            prompt = list(generation.prompt)
        self._check_open()
        n_ctx = self.traits.n_ctx
        room = n_ctx - len(prompt)
        if room < 1:
            raise context_overflow(len(prompt), n_ctx)
        if scheduler.mailbox.loop is None:
            scheduler.mailbox.loop = asyncio.get_running_loop()
        job = Job(
            generation,
            listener,
            prompt=prompt,
            limit=room if generation.max_tokens is None else min(room, generation.max_tokens),
            ends=generation.stop_ids if generation.ignore_eos else self.traits.end_ids | generation.stop_ids,
            wake=scheduler.wake,
            matcher=matcher,
            media=media,
        )
        scheduler.submit(job)
        return job

    def _check_open(self) -> None:
        if self._is_closed or self.scheduler.is_broken:
            raise EngineError("The model is closed.")
        if self.scheduler.in_flight >= self._most + self._max_queue:
            raise TooManyRequests(
                f"The model answers {self._most} requests at once, and {self._max_queue} more wait already.",
                headers={"Retry-After": "1"},
            )

    def close(self) -> None:
        """End the decode loop and free the model; blocks. What is under way fails."""
        if self._is_closed:
            return
        self._is_closed = True
        if self._constraints is not None:
            self._constraints.close()
        if not self.scheduler.close(_CLOSE_S):
            # The loop is still inside llama.cpp: freeing what it works on would crash the process.
            return
        self._vocabulary.close()
        self._extras.close()
        self._context.close()
        bindings.free_model(self._model)
