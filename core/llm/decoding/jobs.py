"""A generation under way, and its choices."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any, Generic, TypeAlias, TypeVar

from ...errors import ModelrackError
from ..contract import EndReason, Generation, Listener, TokenLogprob
from ..guided import Matcher

__all__ = ["Event", "Job", "Slot", "SlotT"]

SlotT = TypeVar("SlotT", bound="Slot")

_NEVER = float("-inf")


class Job(Generic[SlotT]):
    """One generation: what the listener hears comes from here, on the event loop. It is the caller's ticket.

    Args:
        make_slot: makes a choice, by its job and its index.
        prompt: tokens, media included as the engine counts them.
        limit: most tokens of each choice.
        ends: tokens that end a choice.
        wake: hears that a choice was cancelled, on the event loop.
        matcher: of the constraint; each choice gets one of its own.
        media: what belongs to a prompt with images, as the engine reads them.
    """

    def __init__(
        self,
        generation: Generation,
        listener: Listener,
        *,
        make_slot: Callable[[Job[SlotT], int], SlotT],
        prompt: list[int],
        limit: int,
        ends: frozenset[int],
        wake: Callable[[Job[SlotT]], None],
        matcher: Matcher | None = None,
        media: Any = None,
    ) -> None:
        self.generation = generation
        self.listener = listener
        self.prompt = prompt
        self.limit = limit
        self.ends = ends
        self.lora = generation.lora
        self.key: Hashable = (generation.lora, generation.cache_salt)
        """The same for prompts that may share what was computed of them."""
        self.media = media
        self.cached: int | None = None
        """Tokens of the prompt that were taken from a cache; the engine notes it, before the first token is chosen."""
        self.prompt_logprobs: list[TokenLogprob | None] | None = [None] if generation.prompt_logprobs else None
        """Where they are wanted, the engine appends one for each further token of the prompt."""
        self.error: ModelrackError | None = None
        self.is_read = False
        """The prompt has been read; the engine notes it."""
        self.slots = [make_slot(self, index) for index in range(generation.n)]
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

    def next_waiting(self) -> SlotT | None:
        """Return the first choice that has not begun."""
        return next((slot for slot in self.slots if slot.state == "new" and not slot.is_cancelled), None)


class Slot:
    """One choice and its tokens: the prompt's, and those chosen. Engines add what is theirs.

    Args:
        index: of the choice.
    """

    __slots__ = (
        "generated",
        "inbox",
        "index",
        "is_cancelled",
        "is_told",
        "job",
        "logprob_inbox",
        "matcher",
        "reason",
        "state",
        "tokens",
    )

    def __init__(self, job: Job[Any], index: int) -> None:
        self.job = job
        self.index = index
        self.tokens = list(job.prompt)
        self.generated = 0
        """Tokens that were chosen, with the end token, which is not among the `tokens`."""
        self.state = "new"
        """`new`, then the engine's own words, at the end `over`."""
        self.matcher: Matcher | None = None
        self.is_cancelled = False
        """Set on the event loop, read by the decode loop."""
        # On the event loop:
        self.inbox: list[int] = []
        self.logprob_inbox: list[TokenLogprob] = []
        self.reason: EndReason | None = None
        self.is_told = False
        """The listener knows that it is over."""

    def bar_ends(self, logits: Any, end_ids: Any) -> None:
        """Take away, in place, the logits of those tokens that may not come yet, or never: `ignore_eos`, `min_tokens`.

        Args:
            logits: of all tokens; an array of NumPy's or a tensor of PyTorch's.
            end_ids: the model's end tokens, as an index of `logits`.
        """
        generation = self.job.generation
        is_short = self.generated < generation.min_tokens
        if is_short or generation.ignore_eos:
            logits[end_ids] = _NEVER
        if is_short and generation.stop_ids:
            logits[list(generation.stop_ids)] = _NEVER

    def take(self, token: int, logprob: TokenLogprob | None, events: list[Event]) -> bool:
        """Go on by the token that was chosen, and note what there is to tell; True: the choice is over."""
        job = self.job
        self.generated += 1
        if token in job.ends:
            events.append((self, -1, None, "stop"))
            return True
        self.tokens.append(token)
        if self.generated >= job.limit:
            events.append((self, token, logprob, "length"))
            return True
        events.append((self, token, logprob, None))
        return False


Event: TypeAlias = tuple[Slot | Job[Any], int, TokenLogprob | None, EndReason | None]
"""A token (-1: none) of a choice, or the end of it; of a job: it has failed."""
