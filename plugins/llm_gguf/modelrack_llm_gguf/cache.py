"""Which cells of the cache belong to whom, and whose beginnings can be used again. Pure: it only counts."""

from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass

__all__ = ["Cells", "Idle", "Prefix", "PrefixCache", "Span", "common_prefix"]


class Span:
    """A run of cells; sequences with a common beginning share the spans of it.

    Args:
        parent: the span before it in the sequence.
    """

    __slots__ = ("length", "live", "parent", "references")

    def __init__(self, parent: "Span | None", length: int = 0) -> None:
        self.parent = parent
        self.length = length
        self.references = 1
        self.live = 0


class Cells:
    """Counts the cells in use: those that several sequences share count once.

    A sequence is known by its last span, which is its own: only there does it grow.

    Args:
        capacity: cells there are.
    """

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.used = 0
        self.idle = 0
        """Of these, the cells that no running sequence has."""

    @property
    def free(self) -> int:
        """Return how many cells nobody uses."""
        return self.capacity - self.used

    def open(self) -> Span:
        """Return the span of a new, empty sequence that runs."""
        span = Span(None)
        span.live = 1
        return span

    def grow(self, span: Span, count: int) -> None:
        """Take cells for a running sequence; a negative count gives back the last it took."""
        span.length += count
        self.used += count

    def fork(self, span: Span, depth: int, length: int) -> Span:
        """Return the span of a new running sequence that shares the beginning of another.

        Args:
            depth: cells of the other sequence.
            length: cells to share.
        """
        node: Span | None = span
        end = depth
        while node is not None and end - node.length >= length:
            end -= node.length
            node = node.parent
        if node is None or length == 0:
            return self.open()
        # The other's last span stays its own: it may grow.
        if end > length or node is span:
            node = self._split(node, length - (end - node.length))
        tail = Span(node)
        node.references += 1
        self._enliven(tail)
        return tail

    def _split(self, node: Span, length: int) -> Span:
        head = Span(node.parent, length)
        head.live = node.live
        node.parent = head
        node.length -= length
        return head

    def _enliven(self, span: Span) -> None:
        node: Span | None = span
        while node is not None:
            if node.live == 0:
                self.idle -= node.length
            node.live += 1
            node = node.parent

    def retire(self, span: Span) -> None:
        """Hear that a running sequence runs no more, though its cells stay."""
        node: Span | None = span
        while node is not None:
            node.live -= 1
            if node.live == 0:
                self.idle += node.length
            node = node.parent

    def free_idle(self, span: Span) -> None:
        """Give back the cells of a sequence that was retired, but for those that others share."""
        node: Span | None = span
        while node is not None:
            node.references -= 1
            if node.references:
                return
            self.used -= node.length
            if node.live == 0:
                self.idle -= node.length
            node = node.parent

    def close(self, span: Span) -> None:
        """Give back the cells of a running sequence, but for those that others share."""
        self.retire(span)
        self.free_idle(span)


@dataclass(eq=False, slots=True)
class Idle:
    """A sequence that runs no more, kept for those that begin like it.

    Args:
        key: only sequences of the same key may use it (adapter, salt).
        slot: its number in the engine.
    """

    key: Hashable
    tokens: list[int]
    slot: int
    span: Span


@dataclass(frozen=True, slots=True)
class Prefix:
    """The beginning that a sequence can take over.

    Args:
        source: slot that has it.
        idle: the idle sequence it is taken from; None: it runs.
        depth: cells of the source.
        length: cells to take.
    """

    source: int
    span: Span
    depth: int
    length: int
    idle: Idle | None = None


def common_prefix(first: Sequence[int], second: Sequence[int], limit: int) -> int:
    """Return how many of the first `limit` numbers are the same in both."""
    limit = min(limit, len(first), len(second))
    low, step = 0, 16
    while low < limit:
        high = min(limit, low + step)
        if first[low:high] != second[low:high]:
            if high - low == 1:
                break
            step = max(1, (high - low) // 2)
            limit = min(limit, high)
            continue
        low = high
        step *= 4
    return low


class PrefixCache:
    """Idle sequences, the one that was used longest ago first.

    Args:
        limit: most cells that are kept beside those of running sequences.
        entries: most idle sequences.
        least: shorter beginnings are not worth the taking.
    """

    def __init__(self, limit: int, entries: int, least: int = 4) -> None:
        self.limit = limit
        self.entries = entries
        self.least = least
        self._idle: dict[int, Idle] = {}

    def __len__(self) -> int:
        return len(self._idle)

    def find(
        self,
        key: Hashable,
        tokens: Sequence[int],
        running: Iterable[tuple[Sequence[int], int, int, Span]],
        *,
        whole: bool = False,
    ) -> Prefix | None:
        """Return the longest beginning of `tokens` that is there; at least the last token is always left.

        Args:
            running: tokens, cells, slot and span of each running sequence of the same key.
            whole: only all that a sequence has can be taken, not a part.
        """
        limit = len(tokens) - 1
        best: Prefix | None = None
        length = max(self.least, 1) - 1
        for idle in reversed(self._idle.values()):
            if idle.key == key:
                depth = len(idle.tokens)
                found = _longer(idle.tokens, depth, tokens, limit, length, whole)
                if found:
                    length, best = found, Prefix(idle.slot, idle.span, depth, found, idle)
                    if found == limit:
                        return best
        for other, depth, slot, span in running:
            found = _longer(other, depth, tokens, limit, length, whole)
            if found:
                length, best = found, Prefix(slot, span, depth, found)
                if found == limit:
                    break
        return best

    def keep(self, idle: Idle) -> list[Idle]:
        """Keep a sequence; returns those that it makes superfluous because it begins with them."""
        covered = [
            one
            for one in self._idle.values()
            if one.key == idle.key
            and len(one.tokens) <= len(idle.tokens)
            and idle.tokens[: len(one.tokens)] == one.tokens
        ]
        for one in covered:
            del self._idle[one.slot]
        self._idle[idle.slot] = idle
        return covered

    def touch(self, idle: Idle) -> None:
        """Note that a sequence was used."""
        self._idle[idle.slot] = self._idle.pop(idle.slot)

    def take(self, idle: Idle) -> None:
        """Remove a sequence that somebody goes on with."""
        del self._idle[idle.slot]

    def evict(self, spare: Idle | None = None) -> Idle | None:
        """Remove the sequence that was used longest ago, and return it; None: there is none.

        Args:
            spare: not this one.
        """
        for idle in self._idle.values():
            if idle is not spare:
                del self._idle[idle.slot]
                return idle
        return None


def _longer(other: Sequence[int], depth: int, tokens: Sequence[int], limit: int, length: int, whole: bool) -> int:
    """Return the length of the common beginning if it is more than `length`, else 0."""
    if depth <= length or limit <= length or other[length] != tokens[length]:
        return 0
    if whole:
        return depth if depth <= limit and common_prefix(other, tokens, depth) == depth else 0
    found = common_prefix(other, tokens, min(limit, depth))
    return found if found > length else 0
