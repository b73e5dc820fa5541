"""A generation under way, and its choices."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from modelrack.errors import ModelrackError
from modelrack.llm.contract import EndReason, Generation, Listener, TokenLogprob
from modelrack.llm.guided import Matcher

if TYPE_CHECKING:
    from .sampling import Sampler

__all__ = ["Job", "Slot"]


class Job:
    """One generation: what the listener hears comes from here, on the event loop. It is the caller's ticket.

    Args:
        prompt: tokens, media included as the processor expands them.
        limit: most tokens of each choice.
        ends: tokens that end a choice.
        wake: hears that a choice was cancelled, on the event loop.
        media: what belongs to a prompt with images (see `vision.py`).
    """

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
        media: Any = None,
    ) -> None:
        self.generation = generation
        self.listener = listener
        self.prompt = prompt
        self.limit = limit
        self.ends = ends
        self.lora = generation.lora
        self.media = media
        self.cached = 0
        self.prompt_logprobs: list[TokenLogprob | None] | None = [None] if generation.prompt_logprobs else None
        self.error: ModelrackError | None = None
        self.has_started = False
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
    """One choice and its tokens: the prompt's, and those chosen."""

    __slots__ = (
        "generated",
        "inbox",
        "index",
        "is_cancelled",
        "is_told",
        "job",
        "logprob_inbox",
        "matcher",
        "place",
        "reason",
        "sampler",
        "speculation",
        "state",
        "tokens",
    )

    def __init__(self, job: Job, index: int) -> None:
        self.job = job
        self.index = index
        self.tokens = list(job.prompt)
        self.generated = 0
        self.state = "new"
        """`new`, then the runner's own words, at the end `over`."""
        self.place: Any = None
        """What the runner keeps of it."""
        self.sampler: Sampler | None = None
        self.matcher: Matcher | None = None
        self.speculation: Any = None
        self.is_cancelled = False
        """Set on the event loop, read by the decode loop."""
        # On the event loop:
        self.inbox: list[int] = []
        self.logprob_inbox: list[TokenLogprob] = []
        self.reason: EndReason | None = None
        self.is_told = False
        """The listener knows that it is over."""
