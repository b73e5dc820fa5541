"""A loaded model, as the layer for LLM output wants it."""

import asyncio
from collections.abc import Callable, Mapping
from typing import Any

from modelrack.errors import EngineError, TooManyRequests
from modelrack.llm.contract import Generation, Listener, MediaPrompt, ModelTraits, Ticket
from modelrack.llm.errors import context_overflow
from modelrack.llm.guided import Constraints

from .loop import Runner
from .slots import Job
from .vocabulary import Vocabulary

__all__ = ["TransformersModel"]

_CLOSE_S = 20.0


class TransformersModel:
    """A loaded model. Made by `load_model`; used on the event loop.

    Args:
        vision: reads prompts with images (see `vision.py`); None: the model takes none.
        most: sequences that run at once.
        max_queue: sequences that wait.
    """

    def __init__(
        self,
        *,
        vocabulary: Vocabulary,
        runner: Runner,
        constraints: Constraints | None,
        vision: Any,
        traits: ModelTraits,
        most: int,
        max_queue: int,
        facts: Mapping[str, Any],
        free: Callable[[], None],
    ) -> None:
        self.traits = traits
        self.facts = facts
        self.runner = runner
        self.encode = vocabulary.encode
        self.token_bytes = vocabulary.token_bytes
        self.special_bytes = vocabulary.special_bytes
        self.token_name = vocabulary.token_name
        self._constraints = constraints
        self._vision = vision
        self._most = most
        self._max_queue = max_queue
        self._free = free
        self._is_closed = False

    async def submit(self, generation: Generation, listener: Listener) -> Ticket:
        """Queue a generation.

        Raises: BadRequest: the constraint cannot be had, or the context is too short for a prompt with media.
            TooManyRequests: the queue is full.
        """
        runner = self.runner
        self._check_open()
        matcher = None
        media = None
        if generation.constraint is not None:
            assert self._constraints is not None
            matcher = await self._constraints.prepare(generation.constraint)
        if isinstance(generation.prompt, MediaPrompt):
            assert self._vision is not None
            media = await asyncio.to_thread(self._vision.prepare, generation.prompt)
            prompt = list(media.tokens)
        else:
            prompt = list(generation.prompt)
        self._check_open()
        n_ctx = self.traits.n_ctx
        room = n_ctx - len(prompt)
        if room < 1:
            raise context_overflow(len(prompt), n_ctx)
        if runner.mailbox.loop is None:
            runner.mailbox.loop = asyncio.get_running_loop()
        job = Job(
            generation,
            listener,
            prompt=prompt,
            limit=room if generation.max_tokens is None else min(room, generation.max_tokens),
            ends=generation.stop_ids if generation.ignore_eos else self.traits.end_ids | generation.stop_ids,
            wake=runner.wake,
            matcher=matcher,
            media=media,
        )
        runner.submit(job)
        return job

    def _check_open(self) -> None:
        if self._is_closed or self.runner.is_broken:
            raise EngineError("The model is closed.")
        if self.runner.in_flight >= self._most + self._max_queue:
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
        if self.runner.close(_CLOSE_S):
            self._free()
