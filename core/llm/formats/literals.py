"""Values that are written as Python or Gemma write them, made JSON as they arrive."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from .json_text import DEPTH_LIMIT, StringDecoder, escape
from .tape import HEAD_LIMIT, Script, Sink, Tape

__all__ = ["PYTHON", "Dialect", "read_literal"]


@dataclass(frozen=True)
class Dialect:
    """How values are written.

    Args:
        quotes: marks around strings; those of one character know escapes.
        words: what stands for JSON's words; other words are strings.
        brackets: opening to closing bracket.
    """

    quotes: tuple[str, ...] = ('"""', "'''", '"', "'")
    words: Mapping[str, str] = field(
        default_factory=lambda: {
            "True": "true",
            "False": "false",
            "None": "null",
            "true": "true",
            "false": "false",
            "null": "null",
        }
    )
    brackets: Mapping[str, str] = field(default_factory=lambda: {"{": "}", "[": "]", "(": ")"})


PYTHON = Dialect()

_NUMBER = re.compile(r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?")
_ENDS = (",", "}", "]", ")", ":")
_VALUE_ENDS = (",", "}", "]", ")")


def read_literal(tape: Tape, dialect: Dialect, sink: Sink) -> Script[bool]:
    """Give the value that begins here to `sink`, as JSON; False: it is malformed, nested too deep or cut off."""
    closers: list[str] = []
    is_first = True
    while True:
        yield from tape.skip()
        if closers and (yield from tape.match((closers[-1],))):
            _close(closers, sink)
        else:
            if closers and not is_first:
                sink(", ")
            if closers and closers[-1] == "}" and not (yield from _read_key(tape, dialect, sink)):
                return False
            opened = yield from _read_item(tape, dialect, sink, len(closers))
            if opened is None:
                return False
            is_first = bool(opened)
            if opened:
                closers.append(opened)
                continue
        while closers:
            yield from tape.skip()
            mark = yield from tape.match((",", closers[-1]))
            if mark is None:
                return False
            if mark == ",":
                is_first = False
                break
            _close(closers, sink)
        if not closers:
            return True


def _close(closers: list[str], sink: Sink) -> None:
    sink("}" if closers.pop() == "}" else "]")


def _read_item(tape: Tape, dialect: Dialect, sink: Sink, depth: int) -> Script[str | None]:
    """Read a value, or the bracket that opens one; return the bracket that will close it, "" if it is whole."""
    mark = yield from tape.match((*dialect.quotes, *dialect.brackets))
    if mark is not None and mark in dialect.brackets:
        if depth >= DEPTH_LIMIT:
            return None
        sink("{" if mark == "{" else "[")
        return dialect.brackets[mark]
    if mark is not None:
        return "" if (yield from _read_string(tape, mark, sink)) else None
    word, end = yield from tape.collect(_VALUE_ENDS, HEAD_LIMIT)
    word = word.strip()
    if not word:
        return None
    if _NUMBER.fullmatch(word):
        sink(word)
    elif word in dialect.words:
        sink(dialect.words[word])
    else:
        sink(f'"{escape(word)}"' if end is not None else f'"{escape(word)}')
    return "" if end is not None else None


def _read_string(tape: Tape, quote: str, sink: Sink) -> Script[bool]:
    sink('"')
    if len(quote) > 1:
        is_whole = (yield from tape.until((quote,), lambda text: sink(escape(text)))) is not None
    else:
        is_whole = yield from tape.string(StringDecoder(quote, is_python=True), lambda text: sink(escape(text)))
    if is_whole:
        sink('"')
    return is_whole


def _read_key(tape: Tape, dialect: Dialect, sink: Sink) -> Script[bool]:
    mark = yield from tape.match(dialect.quotes)
    if mark is not None:
        if not (yield from _read_string(tape, mark, sink)):
            return False
        yield from tape.skip()
    else:
        key, end = yield from tape.collect(_ENDS, HEAD_LIMIT)
        sink(f'"{escape(key.strip())}"')
        if end != ":":
            return False
    if (yield from tape.match((":",))) is None:
        return False
    sink(": ")
    yield from tape.skip()
    return True
