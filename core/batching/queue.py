"""What waits to be run, in the order of a fair share for each request, and batches of like length from it."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from heapq import heapify, heappop, heappush
from math import log2
from typing import Any, Generic, TypeVar

from .contract import Prepared

__all__ = ["FairQueue", "Flow", "Item"]

_CLASSES = 4
"""Classes of length for each doubling."""
_PADDING = 0.25
"""Most share of a batch that may be padding."""
_KEPT = 1024
"""Items without an owner that are kept rather than looked for."""

FlowT = TypeVar("FlowT", bound="Flow")


@dataclass(slots=True, eq=False)
class Flow:
    """What belongs together and has one share: a request.

    Args:
        is_over: nobody wants its items any more.
        queued: its items in the queue.
        tag: the clock at which the last of its items is due.
    """

    is_over: bool = False
    queued: int = 0
    tag: float = 0.0


@dataclass(slots=True, eq=False)
class Item(Generic[FlowT]):
    """One item of a request, at its place there."""

    flow: FlowT
    index: int
    prepared: Prepared[Any]


_Entry = tuple[float, int, Item[FlowT]]


@dataclass(slots=True)
class _Batch(Generic[FlowT]):
    """A batch that is being put together."""

    most_tokens: int
    most_items: int
    most_padding: int
    items: list[Item[FlowT]] = field(default_factory=list)
    tokens: int = 0
    longest: int = 0

    def takes(self, tokens: int) -> bool:
        """Tell whether an item of this length fits: into the limits, and without much padding."""
        longest = max(self.longest, tokens)
        padded = longest * (len(self.items) + 1)
        if padded > self.most_tokens or len(self.items) >= self.most_items:
            return not self.items
        return padded - self.tokens - tokens <= max(self.most_padding, _PADDING * padded)

    def add(self, item: Item[FlowT]) -> None:
        """Add an item."""
        self.items.append(item)
        self.tokens += item.prepared.tokens
        self.longest = max(self.longest, item.prepared.tokens)


class FairQueue(Generic[FlowT]):
    """A queue that lets short items pass long ones, and small requests pass large ones, but none for ever.

    Each request has an equal share of the tokens that are run, as if all were served at once: an item is due when its
    request would have had so many. What is due first begins a batch, and others of like length are taken along. So a
    long item waits until the others have had about as many tokens each, and the 2,000th item of a request until others
    have had 2,000. Not for threads.

    Source: the order is that of weighted fair queueing (Demers, Keshav and Shenker 1989), with tokens for bits.
    """

    def __init__(self) -> None:
        self._heaps: dict[tuple[Any, int], list[_Entry[FlowT]]] = {}
        self._clock = 0.0
        self._flows = 0
        self._serial = 0
        self._ownerless = 0
        self._size = 0

    def __len__(self) -> int:
        """Return the number of items that are wanted."""
        return self._size

    def add(self, flow: FlowT, items: Sequence[Item[FlowT]]) -> None:
        """Add items of a request, behind those it has here."""
        if flow.is_over:
            return
        self._flows += bool(items) and flow.queued == 0
        for item in items:
            tokens = item.prepared.tokens
            flow.tag = max(flow.tag, self._clock) + tokens
            self._serial += 1
            key = (item.prepared.group, _class_of(tokens))
            heap = self._heaps.get(key)
            if heap is None:
                heap = self._heaps[key] = []
            heappush(heap, (flow.tag, self._serial, item))
        flow.queued += len(items)
        self._size += len(items)

    def drop(self, flow: FlowT) -> None:
        """Take a request's items out; no others of it are accepted."""
        if flow.is_over:
            return
        flow.is_over = True
        self._flows -= flow.queued > 0
        self._size -= flow.queued
        self._ownerless += flow.queued
        flow.queued = 0
        # Each is looked at when its turn comes; many are cleared away before, so that they hold no memory.
        if self._ownerless > max(_KEPT, self._size):
            self._clear()

    def flows(self) -> Iterator[FlowT]:
        """Return the requests that have items here; each at least once."""
        return (item.flow for heap in self._heaps.values() for _, _, item in heap if not item.flow.is_over)

    def first(self) -> Item[FlowT] | None:
        """Return the item that the next batch begins with."""
        key = self._find_first()
        return None if key is None else self._heaps[key][0][2]

    def shortest(self) -> Item[FlowT] | None:
        """Return one of the shortest items, by its class."""
        wanted = [key for key in list(self._heaps) if self._wanted(key)]
        return self._heaps[min(wanted, key=lambda key: key[1])][0][2] if wanted else None

    def take(self, most_tokens: int, most_items: int, most_padding: int) -> list[Item[FlowT]]:
        """Take the items that are next, sorted by length; none if there are none.

        Args:
            most_tokens: of the batch, padding among them; only an item that is longer by itself is over it.
            most_padding: what the batch may have whatever its share is.
        """
        first = self._find_first()
        if first is None:
            return []
        batch: _Batch[FlowT] = _Batch(most_tokens, most_items, most_padding)
        group, size = first
        near = sorted((abs(key[1] - size), key) for key in self._heaps if key[0] == group)
        for _, key in near:
            self._fill(batch, key)
        self._clock += batch.tokens / self._flows
        self._size -= len(batch.items)
        for item in batch.items:
            item.flow.queued -= 1
            self._flows -= item.flow.queued == 0
        batch.items.sort(key=lambda item: item.prepared.tokens)
        return batch.items

    def _find_first(self) -> tuple[Any, int] | None:
        """Return the class of the item that is due first."""
        first: tuple[Any, int] | None = None
        for key in list(self._heaps):
            if self._wanted(key) and (first is None or self._heaps[key][0] < self._heaps[first][0]):
                first = key
        return first

    def _wanted(self, key: tuple[Any, int]) -> list[_Entry[FlowT]] | None:
        """Return the items of a class, the first of which is wanted; None if there are none."""
        heap = self._heaps[key]
        while heap and heap[0][2].flow.is_over:
            heappop(heap)
            self._ownerless -= 1
        if heap:
            return heap
        del self._heaps[key]
        return None

    def _fill(self, batch: _Batch[FlowT], key: tuple[Any, int]) -> None:
        """Move items of a class into a batch, as long as they fit."""
        while (heap := self._wanted(key)) is not None and batch.takes(heap[0][2].prepared.tokens):
            batch.add(heappop(heap)[2])
            if not heap:
                del self._heaps[key]
                return

    def _clear(self) -> None:
        for key, heap in list(self._heaps.items()):
            heap[:] = [entry for entry in heap if not entry[2].flow.is_over]
            heapify(heap)
            if not heap:
                del self._heaps[key]
        self._ownerless = 0


def _class_of(tokens: int) -> int:
    return int(_CLASSES * log2(max(1, tokens)))
