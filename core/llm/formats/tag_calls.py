"""Calls that are written with tags around the name and around each parameter."""

import re
from dataclasses import dataclass
from typing import Any

from .json_text import escape
from .tape import Script
from .tools import NAME_LIMIT, Body, Section, ToolParser, is_name
from .values import STRING, property_kinds, read_value

__all__ = ["TagCalls"]

_HEAD = re.compile(r"""\s*(?:name\s*=\s*)?(["']?)(?P<word>.*?)\1(?P<rest>\s+\w+\s*=.*)?\s*""", re.DOTALL)
_IS_STRING = re.compile(r"""\bstring\s*=\s*["']?(true|false)""")


@dataclass(frozen=True)
class TagCalls(Body):
    """A call like `<function=f><parameter=a>1</parameter></function>`; the arguments are made JSON by the schema.

    Where JSON stands instead of the parameters it is taken as the arguments. A missing closing mark is made up for by
    the next mark.

    Args:
        call_open: begins a call; empty: the name stands at the start of the section.
        name_ends: marks that end the name, and are read with it.
        name_ends_kept: marks that end it as well, but belong to what follows.
        call_close: ends it; empty: the section's end does.
        param_open: begins a parameter, before its key.
        key_end: ends the key.
        value_open: stands between key and value.
        param_close: ends the value.
        trims_line: values stand on lines of their own.
    """

    call_open: str = "<function="
    name_ends: tuple[str, ...] = (">",)
    name_ends_kept: tuple[str, ...] = ()
    call_close: str = "</function>"
    param_open: str = "<parameter="
    key_end: str = ">"
    value_open: str = ""
    param_close: str = "</parameter>"
    trims_line: bool = True

    @property
    def marks(self) -> tuple[str, ...]:
        """Return the marks that may be special tokens."""
        words = (self.call_open, self.call_close, self.param_open, self.value_open, self.param_close, self.key_end)
        return tuple(word for word in words if len(word) > 1)

    def starts(self, parser: ToolParser) -> tuple[str, ...] | None:
        """Return what begins a call."""
        return (self.call_open,) if self.call_open else None

    def read(self, parser: ToolParser, section: Section) -> Script[bool]:
        """Read one call."""
        tape = parser.tape
        if self.call_open:
            yield from tape.match((self.call_open,))
        kept = (*self.name_ends_kept, *(section.closes if not self.call_open else ()))
        head, mark = yield from tape.collect((*self.name_ends, *kept), NAME_LIMIT)
        found = _HEAD.fullmatch(head)
        if mark is None or found is None or not is_name(found["word"]):
            return False
        name = found["word"]
        if mark in section.closes and name not in parser.context.tools:
            return False  # a word between two marks
        if mark not in kept:
            tape.take(tape.at + len(mark))
        parser.begin(name)
        is_whole = yield from _Parameters(self, parser, section, parser.context.tools.get(name, {})).read()
        parser.end()
        return is_whole


class _Parameters:
    """The parameters of one call as they are read."""

    def __init__(self, syntax: TagCalls, parser: ToolParser, section: Section, schema: Any) -> None:
        self.syntax = syntax
        self.parser = parser
        self.tape = parser.tape
        self.closes = section.closes
        self.schema = schema if isinstance(schema, dict) else {}
        self.sink = parser.out.arguments
        self.count = 0

    def read(self) -> Script[bool]:
        """Read them all, and the end of the call."""
        tape, syntax = self.tape, self.syntax
        ends = (syntax.call_close,) if syntax.call_close else ()
        while True:
            yield from tape.skip()
            if not (yield from tape.more()):
                return False
            words = (syntax.param_open, *ends, *self.closes, *(() if self.count else ("{",)))
            mark = yield from tape.peek(words)
            if mark == "{":
                return (yield from self._read_json(ends))
            if mark != syntax.param_open:
                if mark is None and tape.rest_begins(words):
                    tape.take(len(tape.text))  # cut off within a mark
                    return False
                self.sink("}" if self.count else "{}")
                if mark in ends:
                    tape.take(tape.at + len(syntax.call_close))
                return mark is not None
            tape.take(tape.at + len(mark))
            if not (yield from self._read_parameter()):
                return False

    def _read_json(self, ends: tuple[str, ...]) -> Script[bool]:
        if not (yield from self.tape.json(self.sink)):
            return False
        yield from self.tape.skip()
        if ends:
            yield from self.tape.match(ends)
        return True

    def _read_parameter(self) -> Script[bool]:
        tape, syntax = self.tape, self.syntax
        tape.keep()
        head, mark = yield from tape.collect((syntax.key_end,), NAME_LIMIT)
        self.sink(", " if self.count else "{")
        if mark is None:
            if tape.is_over:
                tape.drop()
                self.sink(f'"{escape(head)}')
            else:
                self.sink("}")
            return False
        tape.drop()
        self.count += 1
        tape.take(tape.at + len(mark))
        found = _HEAD.fullmatch(head)
        key = found["word"] if found else head.strip()
        self.sink(f'"{escape(key)}": ')
        if syntax.value_open:
            yield from tape.skip()
            yield from tape.match((syntax.value_open,))
        kinds = property_kinds(self.schema, key)
        if found and found["rest"] and (flag := _IS_STRING.search(found["rest"])):
            kinds = STRING if flag[1] == "true" else kinds - STRING
        ends = (syntax.param_close, syntax.param_open, *((syntax.call_close,) if syntax.call_close else self.closes))
        end = yield from read_value(tape, ends, kinds, self.sink, trims_line=syntax.trims_line)
        if end == syntax.param_close:
            tape.take(tape.at + len(end))
        return end is not None
