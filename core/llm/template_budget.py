"""What one rendering of a chat template may cost: steps, text and time."""

import time
from collections.abc import Iterable, Sized
from itertools import islice
from typing import Any

from jinja2 import TemplateError
from jinja2.runtime import Undefined
from jinja2.utils import Namespace

__all__ = ["Budget", "TooExpensive"]

_STEPS = 300_000
_STEPS_A_MESSAGE = 1_000
_CHARACTERS = 64 * 1024 * 1024
_SECONDS = 1.0
_LOOK = 1_000
"""Steps between two looks at the clock."""
_NODES = 200_000
"""Most values within one list or object that a template builds: lists of themselves grow without a loop."""
_VIEWS: tuple[type, ...] = (type({}.keys()), type({}.values()), type({}.items()))


class TooExpensive(TemplateError):
    """A template does more than a prompt can need."""


class Budget:
    """What is left for one rendering. Everything is charged before it is done.

    Args:
        messages: number of the chat's messages: longer chats need more steps.
    """

    __slots__ = ("_characters", "_deadline", "_look", "_steps")

    def __init__(self, messages: int) -> None:
        self._steps = _STEPS + _STEPS_A_MESSAGE * messages
        self._look = self._steps - _LOOK
        self._characters = _CHARACTERS
        self._deadline = time.thread_time() + _SECONDS

    def step(self, count: int = 1) -> None:
        """Charge steps: iterations, calls, members of lists."""
        self._steps -= count
        if self._steps < self._look:
            if self._steps < 0:
                raise TooExpensive("it takes too many steps")
            if time.thread_time() > self._deadline:
                raise TooExpensive("it takes too long")
            self._look = self._steps - _LOOK

    def text(self, length: int) -> None:
        """Charge text that is about to be made."""
        self._characters -= length
        if self._characters < 0:
            raise TooExpensive("it makes too much text")

    def listed(self, values: Iterable[Any]) -> list[Any]:
        """Return the members as a list, charged."""
        if isinstance(values, Sized):
            self.step(len(values))
            return list(values)
        found = list(islice(values, self._steps + 1))
        self.step(len(found))
        return found

    def weigh(self, value: Any) -> int:
        """Charge all that is within a value, and return about how long it is as text."""
        length = count = 0
        stack = [value]
        while stack:
            one = stack.pop()
            kind = type(one)
            count += 1
            length += 8
            if count > _NODES:
                raise TooExpensive("it builds a value that is too large")
            if kind is str:
                length += len(one)
            elif kind is list or kind is tuple or kind in _VIEWS:
                stack.extend(one)
            elif kind is dict:
                stack.extend(one)
                stack.extend(one.values())
            elif kind is Namespace:
                stack.extend(one._Namespace__attrs.values())
        self.step(count)
        return length

    def write(self, value: Any) -> str:
        """Return a value as text, charged. Undefined ones are empty, as Jinja has it."""
        kind = type(value)
        if kind is str:
            self.text(len(value))
            return str(value)
        if kind in _CONTAINERS:
            self.text(2 * self.weigh(value))
        elif kind not in _SCALARS and not isinstance(value, Undefined):
            raise TemplateError(f"it writes a {kind.__name__}, which is no text")
        return str(value)


_CONTAINERS = (list, tuple, dict, *_VIEWS)
_SCALARS = (int, float, bool, type(None))
