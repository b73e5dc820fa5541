"""A loaded model over a decode loop, as the layer for LLM output wants it."""

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Generic, Protocol, TypeAlias, TypeVar

from ...errors import EngineError, TooManyRequests
from ..contract import Generation, Listener, MediaPrompt, ModelTraits, Ticket
from ..errors import context_overflow
from ..guided import Constraints
from .jobs import Job
from .loop import DecodeLoop

__all__ = ["DecodingModel", "Media", "Vocabulary"]

LoopT = TypeVar("LoopT", bound=DecodeLoop[Any])

_CLOSE_S = 20.0


class Vocabulary(Protocol):
    """The tokens of a model; see `LanguageModel`."""

    def encode(self, text: str, *, add_special: bool, parse_special: bool) -> list[int]:
        """Return the tokens of a text."""

    def token_bytes(self, token: int) -> bytes:
        """Return what a token adds to a text; nothing for a special token."""

    def special_bytes(self, token: int) -> bytes:
        """Return what a token adds when special tokens are written out too."""

    def token_name(self, token: int) -> str:
        """Return a token as the vocabulary writes it."""


class Media(Protocol):
    """A prompt with images, as an engine reads it."""

    @property
    def tokens(self) -> list[int]:
        """Return the tokens, with as many for each image as it takes."""


ReadMedia: TypeAlias = Callable[[MediaPrompt], Awaitable[Media]]


class DecodingModel(Generic[LoopT]):
    """A `LanguageModel` whose tokens a decode loop computes. Used on the event loop.

    Args:
        loop: has been started.
        constraints: make matchers; None where `ModelTraits.constraints` is empty.
        read_media: reads prompts with images, which become the `media` of their jobs; None: the model takes none.
        most: sequences that run at once.
        max_queue: sequences that wait.
        facts: what is known of the model only after loading; see `Loader.describe`.
        free: frees the model, after the loop has ended.
    """

    def __init__(
        self,
        *,
        loop: LoopT,
        vocabulary: Vocabulary,
        traits: ModelTraits,
        most: int,
        max_queue: int,
        constraints: Constraints | None = None,
        read_media: ReadMedia | None = None,
        facts: Mapping[str, Any] | None = None,
        free: Callable[[], None] = lambda: None,
    ) -> None:
        self.traits = traits
        self.facts = facts or {}
        self.loop = loop
        self.encode = vocabulary.encode
        self.token_bytes = vocabulary.token_bytes
        self.special_bytes = vocabulary.special_bytes
        self.token_name = vocabulary.token_name
        self._constraints = constraints
        self._read_media = read_media
        self._most = most
        self._max_queue = max_queue
        self._free = free
        self._is_closed = False

    async def submit(self, generation: Generation, listener: Listener) -> Ticket:
        """Queue a generation.

        Raises: BadRequest: the constraint cannot be had, or the context is too short for a prompt with media.
            TooManyRequests: the queue is full. EngineError: the model is closed, or the engine is broken.
        """
        loop = self.loop
        self._check_open()
        matcher = None
        media: Media | None = None
        if generation.constraint is not None:
            assert self._constraints is not None
            matcher = await self._constraints.prepare(generation.constraint)
        if isinstance(generation.prompt, MediaPrompt):
            assert self._read_media is not None
            media = await self._read_media(generation.prompt)
            prompt = media.tokens
        else:
            prompt = list(generation.prompt)
        # Others may have come meanwhile.
        self._check_open()
        n_ctx = self.traits.n_ctx
        room = n_ctx - len(prompt)
        if room < 1:
            raise context_overflow(len(prompt), n_ctx)
        job: Job[Any] = Job(
            generation,
            listener,
            make_slot=loop.slot_type,
            prompt=prompt,
            limit=room if generation.max_tokens is None else min(room, generation.max_tokens),
            ends=generation.stop_ids if generation.ignore_eos else self.traits.end_ids | generation.stop_ids,
            wake=loop.wake,
            matcher=matcher,
            media=media,
        )
        loop.submit(job)
        return job

    def _check_open(self) -> None:
        if self._is_closed or self.loop.is_broken:
            raise EngineError("The model is closed.")
        if self.loop.in_flight >= self._most + self._max_queue:
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
        # A loop that has not ended is still inside the engine: freeing what it works on would crash the process.
        if self.loop.close(_CLOSE_S):
            self._free()
