"""Calls that are JSON objects: `{"name": ..., "arguments": ...}`."""

from dataclasses import dataclass

from .json_text import escape
from .tape import HEAD_LIMIT, Script, Sink, ignore
from .tools import NAME_LIMIT, Body, Section, ToolParser, is_name

__all__ = ["JsonCalls"]

_BESIDE = ("id", "type", "tool_call_id", "index")


@dataclass(frozen=True)
class JsonCalls(Body):
    """An object with the tool's name and its arguments, or a list of such; `{"function": {...}}` is looked into.

    The keys may come in any order; other keys (`id`, `type`) are dropped. Arguments that are a string are taken as the
    JSON in it, missing ones and null as `{}`.

    Args:
        is_known_only: only an object that names one of the request's tools, and has arguments, is a call.
        list_starts: what begins a list of objects, where lists of another kind may stand in the same place.
    """

    name_keys: tuple[str, ...] = ("name", "tool_name", "function")
    argument_keys: tuple[str, ...] = ("arguments", "parameters", "args")
    is_known_only: bool = False
    list_starts: tuple[str, ...] = ("[",)

    def starts(self, parser: ToolParser) -> tuple[str, ...]:
        """Return what begins an object or a list."""
        return ("{", *self.list_starts)

    def read(self, parser: ToolParser, section: Section) -> Script[bool]:
        """Read an object or a list of them."""
        if (yield from parser.tape.match(("[",))) is None:
            return (yield from _Object(self, parser).read())
        before = parser.out.calls
        while True:
            yield from parser.tape.skip(" \t\r\n,")
            if (yield from parser.tape.match(("]",))) is not None:
                return parser.out.calls > before
            if not (yield from _Object(self, parser).read()):
                return False


class _Object:
    """One call as it is read."""

    def __init__(self, syntax: JsonCalls, parser: ToolParser) -> None:
        self.syntax = syntax
        self.parser = parser
        self.tape = parser.tape
        self.name: str | None = None
        self.held: list[str] | None = None
        self.is_begun = False
        self.depth = 0

    def read(self) -> Script[bool]:
        """Read the object; what is cut off stays a call if its name is complete."""
        is_whole = yield from self._read_members()
        if is_whole:
            return self._settle()
        if self.tape.is_over and self.tape.at == len(self.tape.text) and self.name is not None and not self.is_begun:
            self._begin()
        return False

    def _settle(self) -> bool:
        if not self.is_begun:
            if self.name is None or (self.syntax.is_known_only and self.held is None):
                return False
            self._begin()
            if self.held is None:
                self.parser.out.arguments("{}")
            self.parser.end()
        return True

    def _begin(self) -> None:
        assert self.name is not None
        self.parser.begin(self.name)
        self.is_begun = True
        for text in self.held or ():
            self.parser.out.arguments(text)

    def _read_members(self) -> Script[bool]:
        tape = self.tape
        while True:
            yield from tape.skip(" \t\r\n,")
            mark = yield from tape.match(("{", "}", '"'))
            if mark == "{" and self.depth == 0:
                self.depth = 1
                continue
            if mark is None or mark == "{" or not self.depth:
                return False
            if mark == "}":
                self.depth -= 1
                if self.depth == 0:
                    return True
                continue
            key: list[str] = []
            if not (yield from tape.json_string(key.append, NAME_LIMIT)):
                return False
            yield from tape.skip()
            if not (yield from tape.match((":",))):
                return False
            yield from tape.skip()
            if not (yield from self._read_member("".join(key))):
                return False

    def _read_member(self, key: str) -> Script[bool]:
        tape = self.tape
        if key in self.syntax.argument_keys and not self.is_begun and self.held is None:
            return (yield from self._read_arguments())
        if key in self.syntax.name_keys and self.name is None:
            start = yield from tape.peek(('"', "{"))
            if start == '"':
                return (yield from self._read_name())
            if start == "{" and self.depth < 4:
                tape.take(tape.at + 1)
                self.depth += 1
                return True
        if self.syntax.is_known_only and key not in _BESIDE:
            return False  # an object of another kind: it must not be held back
        return (yield from tape.json(ignore, HEAD_LIMIT))

    def _read_name(self) -> Script[bool]:
        name: list[str] = []
        self.tape.take(self.tape.at + 1)
        if not (yield from self.tape.json_string(name.append, NAME_LIMIT)):
            return False
        text = "".join(name).strip()
        if text not in self.parser.context.tools and (self.syntax.is_known_only or not is_name(text)):
            return False
        self.name = text
        if self.held is not None:
            self._begin()
            self.parser.end()
        return True

    def _read_arguments(self) -> Script[bool]:
        sink: Sink = self.parser.out.arguments
        limit: int | None = None
        start = yield from self.tape.peek(('"', "{", "null"))
        if self.name is None:
            self.held = []
            sink, limit = self.held.append, HEAD_LIMIT
        else:
            self._begin()
        if start == '"':
            is_whole = yield from self._read_string(sink, limit)
        elif start == "null":
            is_whole = yield from self.tape.json(ignore, limit)
            sink("{}")
        else:
            is_whole = yield from self.tape.json(sink, limit)
        if self.is_begun:
            self.parser.end()
        return is_whole

    def _read_string(self, sink: Sink, limit: int | None) -> Script[bool]:
        """Give what a string holds: JSON as it is, other text as the string that it is."""
        wrap = _Unwrapped(sink)
        self.tape.take(self.tape.at + 1)
        is_whole = yield from self.tape.json_string(wrap.add, limit)
        wrap.end(is_whole)
        return is_whole


class _Unwrapped:
    """Passes an object in a string on as it is, and any other string as JSON."""

    def __init__(self, sink: Sink) -> None:
        self._sink = sink
        self._is_object: bool | None = None

    def add(self, text: str) -> None:
        if self._is_object is None:
            text = text.lstrip()
            if not text:
                return
            self._is_object = text[0] == "{"
            if not self._is_object:
                self._sink('"')
        self._sink(text if self._is_object else escape(text))

    def end(self, is_whole: bool) -> None:
        if self._is_object is None and is_whole:
            self._sink("{}")
        elif self._is_object is False and is_whole:
            self._sink('"')
