"""Decides which choices are computed together, and for how long; computes nothing itself."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from .batches import Key
from .slots import Slot

__all__ = ["ALONE", "Line", "Turn"]

ALONE = "alone"
"""Place of a choice that is computed alone, since something went wrong when it was computed with others."""

_SHARE = 4
"""A turn takes so many times as long as it took to read what it began with, if others wait: reading it again once more
is then worth it."""
_LEAST = 4
"""Tokens of a turn, at least, before it is cut short."""


@dataclass(slots=True)
class Turn:
    """Choices that are computed together, from the reading of their tokens to the last or to a border.

    Args:
        began: when it began, in seconds.
        read: when their tokens had been read; None before that.
        steps: tokens computed of each.
    """

    slots: list[Slot]
    began: float
    read: float | None = None
    steps: int = 0

    def open_rows(self) -> list[int]:
        """Return the rows of those choices that go on."""
        return [row for row, slot in enumerate(self.slots) if slot.state == "running"]


class Line:
    """The choices that wait, in the order in which their turn comes.

    Args:
        key: tells which choices can be computed together.
        most: choices of a turn.
        room: tokens of a turn, with those that may still come; None is no limit.
        length: tells how many tokens of a choice are read.
    """

    def __init__(
        self, key: Callable[[Slot], Key], length: Callable[[Slot], int], *, most: int, room: int | None = None
    ) -> None:
        self.most = most
        self._key = key
        self._length = length
        self._room = room
        self._waiting: list[Slot] = []

    def __len__(self) -> int:
        return len(self._waiting)

    def enter(self, slots: Sequence[Slot]) -> None:
        """Let choices wait at the end of the line."""
        for slot in slots:
            slot.state = "waiting"
        self._waiting += slots

    def leave(self, slots: Sequence[Slot]) -> None:
        """Take choices out."""
        gone = set(map(id, slots))
        self._waiting = [slot for slot in self._waiting if id(slot) not in gone]

    def clear(self) -> list[Slot]:
        """Take out all, and return them."""
        everybody, self._waiting = self._waiting, []
        return everybody

    def next_turn(self, now: float) -> Turn:
        """Take out the choices whose turn it is: the first, and the next of its key as far as there is room."""
        first = self._waiting[0]
        key = self._key(first)
        chosen, longest = [first], self._end(first)
        for slot in self._waiting[1:]:
            if len(chosen) == self.most or _is_alone(first):
                break
            if _is_alone(slot) or self._key(slot) != key:
                continue
            end = max(longest, self._end(slot))
            if self._room is not None and end * (len(chosen) + 1) > self._room:
                continue
            chosen.append(slot)
            longest = end
        self.leave(chosen)
        for slot in chosen:
            slot.state = "running"
        return Turn(chosen, now)

    def _end(self, slot: Slot) -> int:
        return self._length(slot) + slot.job.limit - slot.generated

    def take_back(self, turn: Turn) -> None:
        """Let the choices of a turn that are not over wait again, behind those that could not be computed with them."""
        left = [slot for slot in turn.slots if slot.state == "running"]
        for slot in left:
            slot.state = "waiting"
        if self._has_others(turn):
            self._waiting += left
        else:
            self._waiting[:0] = left

    def _has_others(self, turn: Turn) -> bool:
        """Tell whether choices wait that those of a turn cannot be computed with."""
        going = [slot for slot in turn.slots if slot.state != "over"]
        if not going or not self._waiting:
            return False
        key = self._key(going[0])
        return any(_is_alone(slot) for slot in going) or any(
            _is_alone(slot) or self._key(slot) != key for slot in self._waiting
        )

    def is_over(self, turn: Turn, now: float) -> bool:
        """Tell whether a turn should end here: nobody goes on, or it pays to begin another."""
        going = len(turn.open_rows())
        if going == 0:
            return True
        if turn.read is None or turn.steps < _LEAST or now - turn.read < _SHARE * (turn.read - turn.began):
            return False
        if self._waiting and (going < self.most or self._has_others(turn)):
            return True
        return 2 * going <= len(turn.slots)


def _is_alone(slot: Slot) -> bool:
    return bool(slot.place == ALONE)
