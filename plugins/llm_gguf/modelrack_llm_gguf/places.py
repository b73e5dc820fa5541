"""Gives sequences their place in the cache, and keeps the beginnings of those that are over."""

from collections.abc import Hashable, Iterable, Sequence

from .cache import Cells, Idle, Prefix, PrefixCache
from .context import Context
from .slots import Slot

__all__ = ["Places"]

_SPARE = 16
"""Cells that each running sequence should find free after another has come."""
_WORTH = 4096
"""Cells that steps may look at for each token that idle beginnings save them from reading, about what both take."""
_CREDIT = 1 << 18
"""Cells that may be looked at before idle beginnings have saved anything."""
_SECOND_CREDIT = 4 << 20
_MOST_CREDIT = 16 << 20
_HEAD = 32
"""First tokens that tell a beginning that has left."""
_MOST_MISSED = 1024
_LEAN = 256
"""Idle cells that are kept even though nobody used any for long."""


class Places:
    """The cells and the numbers of sequences, in the engine and in the books.

    Args:
        numbers: sequences, running and idle, that the engine can tell apart.
    """

    def __init__(self, context: Context, cells: Cells, prefixes: PrefixCache, numbers: int) -> None:
        self.context = context
        self.cells = cells
        self.prefixes = prefixes
        self._numbers = list(range(numbers - 1, -1, -1))
        self._credit = _CREDIT
        self._missed: dict[int, None] = {}

    def charge(self, rows: int) -> None:
        """Hear that a step has computed so many tokens; each of them has looked at all idle cells."""
        self._credit = max(0, self._credit - self.cells.idle * rows)

    def _let_go(self, idle: Idle) -> None:
        """Let a beginning go that nobody used for long, and remember it: it may be missed."""
        self._missed[_head(idle.key, idle.tokens)] = None
        if len(self._missed) > _MOST_MISSED:
            del self._missed[next(iter(self._missed))]

    def _regret(self, slot: Slot) -> None:
        """Trust idle beginnings again when a sequence comes that would have used one that was let go."""
        head = _head(slot.job.key, slot.tokens)
        if head in self._missed:
            del self._missed[head]
            self._credit = max(self._credit, _SECOND_CREDIT)

    def enter(self, slot: Slot, present: list[Slot]) -> bool:
        """Give a sequence its place, with as much of its prompt as is there already; False: there is no room now.

        Args:
            present: the sequences that run or are being read.
        """
        cells = self.cells
        prefix = self._find(slot, present)
        length = prefix.length if prefix else 0
        wanted = len(slot.tokens) - (length if prefix and prefix.idle is None else 0)
        if present and wanted + _SPARE * len(present) > cells.capacity - (cells.used - cells.idle):
            return False
        if prefix is not None and prefix.idle is not None and self._can_take(prefix):
            self._take_over(slot, prefix, prefix.idle)
        else:
            number = self._number(prefix.idle if prefix else None)
            if number is None:
                return False
            slot.number = number
            if prefix is None:
                slot.span = cells.open()
            else:
                self.context.copy(prefix.source, number, slot.position(length))
                slot.span = cells.fork(prefix.span, prefix.depth, length)
                if prefix.idle is not None:
                    self.prefixes.touch(prefix.idle)
        if prefix is not None and prefix.idle is not None:
            self._credit = min(_MOST_CREDIT, self._credit + length * _WORTH)
        if length < _HEAD <= len(slot.tokens):
            self._regret(slot)
        slot.n_past = length
        return True

    def _find(self, slot: Slot, present: Iterable[Slot]) -> Prefix | None:
        job = slot.job
        if job.prompt_logprobs is not None and not job.is_read:
            return None
        context = self.context
        running = [
            (one.tokens, one.n_past, one.number, one.span)
            for one in present
            if one.span is not None and one.n_past and one.job.key == job.key
        ]
        prefix = self.prefixes.find(job.key, slot.tokens, running, whole=context.whole)
        if prefix is None:
            return None
        length = _before_image(slot.tokens, prefix.length)
        if length != prefix.length:
            if length < 1 or context.whole:
                return None
            prefix = Prefix(prefix.source, prefix.span, prefix.depth, length, prefix.idle)
        if not context.reaches(prefix.source, length, prefix.depth):
            return None
        return prefix

    def _can_take(self, prefix: Prefix) -> bool:
        """Tell whether an idle sequence is gone on with rather than copied: nothing of it is lost by that."""
        idle = prefix.idle
        assert idle is not None
        return prefix.length == len(idle.tokens) or not self._numbers

    def _take_over(self, slot: Slot, prefix: Prefix, idle: Idle) -> None:
        self.prefixes.take(idle)
        slot.number = idle.slot
        slot.span = self.cells.fork(idle.span, prefix.depth, prefix.length)
        self.cells.free_idle(idle.span)
        if prefix.length != prefix.depth:
            self.context.cut(slot.number, slot.position(prefix.length))

    def _number(self, spare: Idle | None = None) -> int | None:
        if not self._numbers:
            idle = self.prefixes.evict(spare)
            if idle is not None:
                self._forget(idle)
        return self._numbers.pop() if self._numbers else None

    def fork(self, slot: Slot, twin: Slot) -> bool:
        """Give another choice a place that shares all that `slot` has; False: there is no room now."""
        assert slot.span is not None
        number = self._number()
        if number is None:
            return False
        self.context.copy(slot.number, number, slot.position(slot.n_past))
        twin.number = number
        twin.span = self.cells.fork(slot.span, slot.n_past, slot.n_past)
        twin.n_past = slot.n_past
        return True

    def grow(self, slot: Slot, count: int) -> None:
        """Note that so many more tokens of a sequence have been computed."""
        assert slot.span is not None
        slot.n_past += count
        self.cells.grow(slot.span, count)

    def shrink(self, slot: Slot, count: int) -> None:
        """Remove the last computed tokens of a sequence."""
        assert slot.span is not None
        slot.n_past -= count
        self.cells.grow(slot.span, -count)
        self.context.cut(slot.number, slot.position(slot.n_past))

    def make_room(self, count: int) -> bool:
        """Drop idle beginnings until so many cells are free; False: that is not enough."""
        while self.cells.free < count:
            idle = self.prefixes.evict()
            if idle is None:
                return False
            self._forget(idle)
        return True

    def leave(self, slot: Slot, *, keep: bool) -> None:
        """Take a sequence's place away.

        Args:
            keep: what was computed may serve later sequences.
        """
        span, number = slot.span, slot.number
        if span is None:
            return
        slot.span, slot.number = None, -1
        if keep and slot.n_past >= self.prefixes.least and self.prefixes.limit > 0:
            self.cells.retire(span)
            idle = Idle(slot.job.key, slot.tokens[: slot.n_past], number, span)
            for covered in self.prefixes.keep(idle):
                self._forget(covered)
            self._bound()
        else:
            self.cells.close(span)
            self._free(number)
        slot.n_past = 0

    def _bound(self) -> None:
        prefixes = self.prefixes
        while True:
            is_full = self.cells.idle > prefixes.limit or len(prefixes) > prefixes.entries
            is_dear = not self._credit and self.cells.idle > _LEAN and len(prefixes) > 1
            idle = prefixes.evict() if is_full or is_dear else None
            if idle is None:
                return
            if not is_full:
                self._let_go(idle)
            self._forget(idle)

    def _forget(self, idle: Idle) -> None:
        self.cells.free_idle(idle.span)
        self._free(idle.slot)

    def _free(self, number: int) -> None:
        self.context.clear(number)
        self._numbers.append(number)


def _head(key: Hashable, tokens: Sequence[int]) -> int:
    return hash((key, *tokens[:_HEAD]))


def _before_image(tokens: list[int], length: int) -> int:
    """Return the length without the part of an image at its end: images (negative numbers) come whole."""
    if length >= len(tokens) or tokens[length] >= 0:
        return length
    image = tokens[length]
    while length and tokens[length - 1] == image:
        length -= 1
    return length
