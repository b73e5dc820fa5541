"""A text that arrives in pieces, read by generators that yield where they need more of it."""

import re
from collections.abc import Callable, Generator
from functools import lru_cache
from typing import TypeAlias, TypeVar

from .json_text import JsonScanner, StringDecoder
from .marks import marks_of

__all__ = ["HEAD_LIMIT", "Script", "Sink", "Tape", "ignore"]

T = TypeVar("T")

Script: TypeAlias = Generator[None, None, T]
"""Part of a parser: it yields to wait for more text, and returns what it has read."""

Sink: TypeAlias = Callable[[str], None]

HEAD_LIMIT = 65536
"""Most characters that are held back until it is certain that they belong to a call."""

_BLANKS = " \t\r\n"


class Tape:
    """The part of a text that is not read yet, and what must be given back if it turns out to be no call.

    All methods but the first few are scripts: `yield from` them. How the text was cut changes nothing in what they
    return and where they stop.
    """

    __slots__ = ("_kept", "at", "is_over", "text")

    def __init__(self) -> None:
        self.text = ""
        self.at = 0
        self.is_over = False
        self._kept: list[str] | None = None

    def add(self, text: str) -> None:
        """Append what has arrived."""
        self.text = self.text[self.at :] + text
        self.at = 0

    def keep(self) -> None:
        """Begin to keep what is read."""
        self._kept = []

    def drop(self) -> None:
        """Forget what was kept: it has come out otherwise."""
        self._kept = None

    def give_back(self) -> str:
        """Return what was read since `keep`, and keep no more."""
        text = "".join(self._kept or ())
        self._kept = None
        return text

    def take(self, end: int) -> str:
        """Read up to a place in `text`."""
        piece = self.text[self.at : end]
        self.at = end
        if self._kept is not None and piece:
            self._kept.append(piece)
        return piece

    def unread(self, piece: str) -> None:
        """Put back what was read last."""
        if not self.text.startswith(piece, self.at - len(piece)) or self.at < len(piece):
            self.text = piece + self.text[self.at :]
            self.at = 0
        else:
            self.at -= len(piece)
        if self._kept is not None:
            kept = "".join(self._kept)
            self._kept = [kept[: len(kept) - len(piece)]]

    def rest_begins(self, words: tuple[str, ...]) -> bool:
        """Tell whether the text is over, and all that is left of it, something, is the beginning of a mark."""
        rest = self.text[self.at :] if self.is_over and len(self.text) - self.at < 64 else ""
        return bool(rest) and any(word.startswith(rest) for word in words)

    def more(self) -> Script[bool]:
        """Wait until there is a character to read; False: the text is over."""
        while self.at >= len(self.text):
            if self.is_over:
                return False
            yield
        return True

    def seek(self, words: tuple[str, ...], sink: Sink) -> Script[str | None]:
        """Give to `sink` what stands before the first of some marks, and return the mark, not read yet; None: over."""
        marks = marks_of(words)
        while True:
            place, word = marks.find(self.text, self.at, len(self.text), self.is_over)
            if place > self.at:
                sink(self.take(place))
            if word is not None:
                return word
            if self.is_over:
                return None
            yield

    def until(self, words: tuple[str, ...], sink: Sink) -> Script[str | None]:
        """Do as `seek`, and read the mark too."""
        word = yield from self.seek(words, sink)
        if word is not None:
            self.take(self.at + len(word))
        return word

    def collect(self, words: tuple[str, ...], limit: int) -> Script[tuple[str, str | None]]:
        """Read up to one of some marks, not read yet itself; None: there is none within `limit` characters."""
        marks = marks_of(words)
        parts: list[str] = []
        left = limit
        while True:
            end = min(len(self.text), self.at + left + marks.longest)
            place, word = marks.find(self.text, self.at, end, self.is_over)
            is_near = place - self.at <= left
            place = min(place, self.at + left)
            left -= place - self.at
            parts.append(self.take(place))
            if word is not None and is_near:
                return "".join(parts), word
            if left == 0 or self.is_over:
                found = yield from self.peek(words) if left == 0 else _nothing()
                return "".join(parts), found
            yield

    def peek(self, words: tuple[str, ...]) -> Script[str | None]:
        """Return which of some marks stands here, or None."""
        marks = marks_of(words)
        while True:
            is_certain, word = marks.match(self.text, self.at, self.is_over)
            if is_certain:
                return word
            yield

    def match(self, words: tuple[str, ...]) -> Script[str | None]:
        """Read one of some marks if it stands here."""
        word = yield from self.peek(words)
        if word is not None:
            self.take(self.at + len(word))
        return word

    def skip(self, characters: str = _BLANKS) -> Script[str]:
        """Read all of some characters that stand here, and return them."""
        pattern = _run_of(characters)
        parts: list[str] = []
        while True:
            hit = pattern.match(self.text, self.at)
            assert hit is not None
            parts.append(self.take(hit.end()))
            if self.at < len(self.text) or self.is_over:
                return "".join(parts)
            yield

    def json(self, sink: Sink, limit: int | None = None) -> Script[bool]:
        """Give the JSON value that begins here to `sink`, as it comes; False: it is malformed, cut off or too long."""
        scanner = JsonScanner()
        left = limit
        while True:
            end = len(self.text) if left is None else min(len(self.text), self.at + left)
            place = scanner.scan(self.text, self.at, end, sink)
            if left is not None:
                left -= place - self.at
            self.take(place)
            if scanner.state != "open":
                return scanner.state == "done"
            if self.is_over and self.at == len(self.text):
                return scanner.end()
            if left == 0:
                return False
            yield

    def json_string(self, sink: Sink, limit: int | None = None) -> Script[bool]:
        """Give the characters of a JSON string to `sink`; its first quote has been read already."""
        return self.string(StringDecoder(), sink, limit)

    def string(self, decoder: StringDecoder, sink: Sink, limit: int | None = None) -> Script[bool]:
        """Give the characters of a string to `sink`; False: it is cut off or too long."""
        left = limit
        while True:
            end = len(self.text) if left is None else min(len(self.text), self.at + left)
            place = decoder.scan(self.text, self.at, end, sink)
            if left is not None:
                left -= place - self.at
            self.take(place)
            if decoder.is_done:
                return True
            if left == 0 or (self.is_over and self.at == len(self.text)):
                decoder.end(sink)
                return False
            yield


def ignore(text: str) -> None:
    """Let a text go."""


def _nothing() -> Script[None]:
    return None
    yield


@lru_cache(maxsize=64)
def _run_of(characters: str) -> re.Pattern[str]:
    return re.compile(f"[{re.escape(characters)}]*")
