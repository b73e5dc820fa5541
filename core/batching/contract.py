"""What a model implements so that its items can be run in batches, and the limits of these."""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from ..errors import ModelrackError

__all__ = ["BatchLimits", "BatchModel", "Done", "Prepared"]

Work = TypeVar("Work")
Payload = TypeVar("Payload")
Result = TypeVar("Result")
Work_contra = TypeVar("Work_contra", contravariant=True)
Result_co = TypeVar("Result_co", covariant=True)


@dataclass(slots=True)
class Prepared(Generic[Payload]):
    """An item that is ready to be run.

    Args:
        payload: what `BatchModel.run` needs of it.
        tokens: its length as the model reads it, special tokens among them, at least 1; what it costs.
        group: only items of one group share a batch.
    """

    payload: Payload
    tokens: int
    group: Hashable = None


@dataclass(slots=True)
class Done(Generic[Result]):
    """An item's result, with the tokens that were read for it."""

    result: Result
    tokens: int


class BatchModel(Protocol[Work_contra, Payload, Result_co]):
    """A model as `Batcher` sees it.

    `run` is always called in the same thread. `prepare` is called there as well, or in another while `run` is at work.
    Neither is ever called twice at once.

    A model may have a method `interrupt() -> None` too. It is called when everybody who waits for the batch that is
    being run has left, from any thread; it returns at once, and `run` then raises anything as soon as it can. It is
    never called when no batch is being run, but `run` may not have begun yet.
    """

    def prepare(self, works: Sequence[Work_contra]) -> Sequence[Prepared[Payload] | ModelrackError]:
        """Turn items of any requests into what the model reads, in order; an error stands for an item that cannot be.

        An error fails only the request that the item belongs to. If it raises, the requests are prepared apart.
        """

    def run(self, batch: Sequence[Payload]) -> Sequence[Result_co]:
        """Return the results of items of one group, in order.

        They come sorted by length. If it raises, the requests in the batch are run apart, so that only the one at
        fault fails; if it is for want of memory (MemoryError, or torch's kind of it), then smaller batches are tried.
        """


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchLimits:
    """How much is run at once and how much may wait.

    Args:
        batch_tokens: most tokens of a batch, padding among them; a longer item is a batch of its own. What comes while
            a batch runs waits for its end, so no more than makes the model fast: about a thousand on a CPU; a GPU wants
            tens of thousands.
        batch_items: most items of a batch.
        padding_tokens: padding that a batch may have whatever its share of the batch: as many tokens as take the time
            that a batch takes beside its tokens.
        queue_tokens: about the most tokens that may wait; beyond it, a request is refused with 429. One that comes to
            an empty queue is always taken.
        queue_items: most items that may wait.
    """

    batch_tokens: int = 8192
    batch_items: int = 128
    padding_tokens: int = 256
    queue_tokens: int = 1_000_000
    queue_items: int = 8192
