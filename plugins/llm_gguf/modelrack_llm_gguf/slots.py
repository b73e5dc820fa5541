"""A generation under way, and its choices."""

from collections.abc import Callable, Hashable, Sequence
from typing import Any, Protocol

from modelrack.errors import ModelrackError
from modelrack.llm.contract import EndReason, Generation, Listener, TokenLogprob

from .cache import Span
from .logprobs import Floats
from .sampling import Chain

__all__ = ["Job", "Matcher", "Media", "Slot"]


class Matcher(Protocol):
    """What holds the tokens of one choice to a constraint (see `modelrack.llm.guided`)."""

    def mask(self, logits: Floats) -> bool:
        """Take away, in place, what may not come; True: nothing more can."""

    def accept(self, token: int) -> None:
        """Go on past a token."""

    def fork(self) -> "Matcher":
        """Return another of the same state."""

    def valid(self, tokens: Sequence[int]) -> int:
        """Return how many of the tokens may come."""


class Media(Protocol):
    """A prompt with images (see `vision.py`)."""

    tokens: list[int]
    positions: list[int] | None
    shift: int

    def image_at(self, index: int) -> Any:
        """Return the image that begins at a token, or None."""


class Job:
    """One generation: what the listener hears comes from here, on the event loop. It is the caller's ticket."""

    def __init__(
        self,
        generation: Generation,
        listener: Listener,
        *,
        prompt: list[int],
        limit: int,
        ends: frozenset[int],
        wake: Callable[["Job"], None],
        matcher: Matcher | None = None,
        media: Media | None = None,
    ) -> None:
        self.generation = generation
        self.listener = listener
        self.prompt = prompt
        self.limit = limit
        self.ends = ends
        self.key: Hashable = (generation.lora, generation.cache_salt)
        self.lora = generation.lora
        self.media = media
        self.cached = 0
        self.prompt_logprobs: list[TokenLogprob | None] | None = [None] if generation.prompt_logprobs else None
        self.error: ModelrackError | None = None
        self.is_read = False
        self.slots = [Slot(self, index) for index in range(generation.n)]
        if matcher is not None:
            for slot in self.slots:
                slot.matcher = matcher if slot.index == 0 else matcher.fork()
        # On the event loop:
        self.is_begun = False
        self.is_over = False
        self.open = generation.n
        self._wake = wake

    def cancel(self, index: int | None = None) -> None:
        """Stop one choice, or all of them, before the next step."""
        for slot in self.slots if index is None else (self.slots[index],):
            if not (slot.is_cancelled or slot.is_told):
                slot.is_cancelled = True
                self.open -= 1
        self._wake(self)

    def next_waiting(self) -> "Slot | None":
        """Return the first choice that has not begun."""
        return next((slot for slot in self.slots if slot.state == "new" and not slot.is_cancelled), None)


class Slot:
    """One choice: its tokens, and what of them is in the cache.

    Tokens are the prompt's and those chosen. The first `n_past` of them are in the cache, in the sequence `number`; the
    rest is to be computed. One that only has its last token left chooses a further one in every step.
    """

    __slots__ = (
        "age",
        "careful",
        "chain",
        "draft",
        "generated",
        "inbox",
        "index",
        "is_cancelled",
        "is_told",
        "job",
        "logprob_inbox",
        "matcher",
        "n_past",
        "number",
        "reason",
        "row",
        "shift",
        "span",
        "speculation",
        "state",
        "tokens",
    )

    def __init__(self, job: Job, index: int) -> None:
        self.job = job
        self.index = index
        self.tokens = list(job.prompt)
        self.n_past = 0
        self.number = -1
        self.span: Span | None = None
        self.state = "new"
        """`new`, `waiting`, `reading`, `running`, `over`."""
        self.age = 0
        self.row = -1
        self.generated = 0
        self.shift = job.media.shift if job.media is not None else 0
        self.chain: Chain | None = None
        self.matcher: Matcher | None = None
        self.careful = False
        self.draft: list[int] = []
        self.speculation: Any = None
        self.is_cancelled = False
        """Set on the event loop, read by the decode loop."""
        # On the event loop:
        self.inbox: list[int] = []
        self.logprob_inbox: list[TokenLogprob] = []
        self.reason: EndReason | None = None
        self.is_told = False
        """The listener knows that it is over."""

    def position(self, index: int) -> int:
        """Return the position of a token."""
        media = self.job.media
        if media is not None and media.positions is not None and index < len(media.positions):
            return media.positions[index]
        return index + self.shift
