"""JSON that arrives in pieces: where a value ends, and what its strings say."""

import json
import re
from collections.abc import Callable
from typing import Any, Literal

__all__ = ["DEPTH_LIMIT", "JsonScanner", "StringDecoder", "escape", "loads"]

DEPTH_LIMIT = 256
"""Deepest nesting of a value; what is deeper is malformed."""

_BETWEEN = re.compile(r"[\s:,0-9A-Za-z.+\-]*")
_LITERAL = re.compile(r"[0-9A-Za-z.+\-]*")
_IN_STRING = re.compile(r'[^"\\\x00-\x1f]*')
_CLOSERS = {"{": "}", "[": "]"}
_ESCAPES = {'"': '"', "\\": "\\", "/": "/", "b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t"}


def escape(text: str) -> str:
    """Return a text as it stands between the quotes of a JSON string; scripts other than Latin are left readable."""
    return json.dumps(text, ensure_ascii=False)[1:-1]


def loads(text: str) -> Any:
    """Return a value of strict JSON, in which numbers are all 0: only what kind of value it is matters.

    Raises: ValueError: it is not JSON, or nested too deep.
    """
    try:
        return json.loads(text, parse_int=lambda _: 0, parse_float=lambda _: 0.0, parse_constant=_refuse)
    except RecursionError:
        raise ValueError("it is nested too deep") from None


def _refuse(word: str) -> None:
    raise ValueError(f"{word} is not JSON")


class JsonScanner:
    """Finds the end of one value. Brackets, strings and escapes are checked; words, numbers and commas are not.

    Control characters within strings, which models write and JSON forbids, are escaped on the way.
    """

    __slots__ = ("_closers", "_mode", "state")

    def __init__(self) -> None:
        self.state: Literal["open", "done", "bad"] = "open"
        self._closers: list[str] = []
        self._mode: Literal["first", "between", "string", "escape", "literal"] = "first"

    def scan(self, text: str, at: int, end: int, sink: Callable[[str], None]) -> int:
        """Read from a place on, give what belongs to the value to `sink`, and return the place after it."""
        start = at
        while at < end and self.state == "open":
            if self._mode == "string":
                hit = _IN_STRING.match(text, at, end)
                assert hit is not None
                at = hit.end()
                if at == end:
                    break
                character = text[at]
                if character < " ":
                    sink(text[start:at] + escape(character))
                    start = at + 1
                at += 1
                self._in_string(character)
            elif self._mode == "escape":
                if text[at] < " ":  # a backslash before a real line break: both are kept, as valid JSON
                    sink(text[start:at] + "\\" + escape(text[at]))
                    start = at + 1
                at += 1
                self._mode = "string"
            else:
                at = self._outside(text, at, end)
        if at > start:
            sink(text[start:at])
        return at

    def end(self) -> bool:
        """Hear that nothing more comes; tell whether the value is whole."""
        if self._mode == "literal" and not self._closers:
            self.state = "done"
        return self.state == "done"

    def _in_string(self, character: str) -> None:
        if character == "\\":
            self._mode = "escape"
        elif character == '"':
            self._close()

    def _close(self) -> None:
        self._mode = "between"
        if not self._closers:
            self.state = "done"

    def _outside(self, text: str, at: int, end: int) -> int:
        if self._mode != "first":
            hit = (_BETWEEN if self._closers else _LITERAL).match(text, at, end)
            assert hit is not None
            at = hit.end()
            if at == end:
                return at
            if self._mode == "literal" and not self._closers:
                self.state = "done"
                return at
        character = text[at]
        if character == '"':
            self._mode = "string"
        elif character in _CLOSERS and len(self._closers) < DEPTH_LIMIT:
            self._closers.append(_CLOSERS[character])
            self._mode = "between"
        elif self._closers and character == self._closers[-1]:
            self._closers.pop()
            self._close()
        elif self._mode == "first" and _LITERAL.match(character).end():  # type: ignore[union-attr]  # matches always
            self._mode = "literal"
        else:
            self.state = "bad"
            return at
        return at + 1


class StringDecoder:
    """Reads the characters of a string in JSON, or as Python writes it, from after its first quote to its last."""

    __slots__ = ("_escape", "_high", "_lengths", "_text", "is_done")

    def __init__(self, quote: str = '"', *, is_python: bool = False) -> None:
        self.is_done = False
        self._escape = ""
        self._high = ""
        self._text = _STRING_TEXT[quote]
        self._lengths = _PYTHON_CODES if is_python else _JSON_CODES

    def scan(self, text: str, at: int, end: int, sink: Callable[[str], None]) -> int:
        """Read from a place on, give the characters to `sink`, and return the place after what was read."""
        while at < end and not self.is_done:
            if self._escape:
                self._escape += text[at]
                at += 1
                self._unescape(sink)
                continue
            hit = self._text.match(text, at, end)
            assert hit is not None
            if hit.end() > at:
                self._put(hit.group(), sink)
                at = hit.end()
            elif text[at] == "\\":
                self._escape = "\\"
                at += 1
            else:
                self._put("", sink)
                self.is_done = True
                at += 1
        return at

    def end(self, sink: Callable[[str], None]) -> None:
        """Hear that nothing more comes."""
        self._put(self._escape, sink)
        self._escape = ""

    def _unescape(self, sink: Callable[[str], None]) -> None:
        written = self._escape
        length = self._lengths.get(written[1], 0)
        if not length:
            known = _ESCAPES if self._lengths is _JSON_CODES else _PYTHON_ESCAPES
            self._put(known.get(written[1], written), sink)
        elif len(written) > 2 and written[-1] not in _HEX:
            self._put(written, sink)  # no escape after all
        elif len(written) < 2 + length:
            return
        else:
            self._put_code(int(written[2:], 16), sink)
        self._escape = ""

    def _put_code(self, code: int, sink: Callable[[str], None]) -> None:
        if self._high and 0xDC00 <= code < 0xE000:
            sink(chr(0x10000 + ((ord(self._high) - 0xD800) << 10) + (code - 0xDC00)))
            self._high = ""
        elif 0xD800 <= code < 0xDC00:
            self._put("", sink)
            self._high = chr(code)
        else:
            self._put("�" if 0xDC00 <= code < 0xE000 or code > 0x10FFFF else chr(code), sink)

    def _put(self, text: str, sink: Callable[[str], None]) -> None:
        """Give a text on; a half of a pair before it stands for nothing."""
        if self._high:
            text = "�" + text
            self._high = ""
        if text:
            sink(text)


_STRING_TEXT = {quote: re.compile(rf"[^{quote}\\\\]*") for quote in "\"'"}
_JSON_CODES = {"u": 4}
_PYTHON_CODES = {"u": 4, "x": 2, "U": 8}
_PYTHON_ESCAPES = {**_ESCAPES, "'": "'", "a": "\a", "v": "\v", "0": "\0", "\n": ""}
_HEX = frozenset("0123456789abcdefABCDEF")
