"""Calls that are written as code: `f(a=1)`, and Gemma's `call:f{a:1}`."""

from dataclasses import dataclass

from .json_text import escape
from .literals import PYTHON, Dialect, read_literal
from .tape import Script
from .tools import NAME_LIMIT, Body, Section, ToolParser, is_name

__all__ = ["BraceCalls", "PythonCalls"]


@dataclass(frozen=True)
class PythonCalls(Body):
    """A call as Python writes it, or a list of them: `[f(a=1), g(b="x")]`.

    Positional arguments get their names from the schema, in its order.

    Args:
        wrappers: what may stand before a name and is dropped; a bracket in it is closed after the call.
        is_known_only: only the names of the request's tools are names.
        is_bare: no mark stands before it, so it must be a list that begins with one of these names.
    """

    wrappers: tuple[str, ...] = ("print(", "default_api.")
    is_known_only: bool = False
    is_bare: bool = False

    def starts(self, parser: ToolParser) -> tuple[str, ...] | None:
        """Return what begins a call."""
        return tuple(f"[{name}(" for name in parser.context.tools) if self.is_bare else None

    def read(self, parser: ToolParser, section: Section) -> Script[bool]:
        """Read a call, or a list."""
        tape = parser.tape
        if (yield from tape.match(("[",))) is None:
            return (yield from self._read_call(parser))
        while True:
            yield from tape.skip(" \t\r\n,")
            if (yield from tape.match(("]",))):
                return True
            if not (yield from self._read_call(parser)):
                return False

    def _read_call(self, parser: ToolParser) -> Script[bool]:
        tape = parser.tape
        brackets = 0
        while self.wrappers and (wrapper := (yield from tape.match(self.wrappers))):
            brackets += wrapper.count("(")
        name, mark = yield from tape.collect(("(", "\n"), NAME_LIMIT)
        name = name.strip().removesuffix(".call")
        if mark != "(" or not is_name(name) or (self.is_known_only and name not in parser.context.tools):
            return False
        tape.take(tape.at + 1)
        parser.begin(name)
        is_whole = yield from self._read_arguments(parser, name)
        parser.end()
        while is_whole and brackets:
            yield from tape.skip()
            yield from tape.match((")",))
            brackets -= 1
        return is_whole

    def _read_arguments(self, parser: ToolParser, name: str) -> Script[bool]:
        tape, sink = parser.tape, parser.out.arguments
        properties = parser.context.tools.get(name, {}).get("properties")
        names = list(properties) if isinstance(properties, dict) else []
        gap = "{"
        while True:
            yield from tape.skip(" \t\r\n,")
            if not (yield from tape.more()):
                return False
            if (yield from tape.match((")",))):
                sink("}" if gap != "{" else "{}")
                return True
            key = yield from _read_keyword(parser)
            if key is None:
                if not names:
                    return False
                key = names[0]
            names = [each for each in names if each != key]
            sink(f'{gap}"{escape(key)}": ')
            gap = ", "
            if not (yield from read_literal(tape, PYTHON, sink)):
                return False


def _read_keyword(parser: ToolParser) -> Script[str | None]:
    """Read `key=`; None: there is none, and nothing has been read."""
    tape = parser.tape
    if (yield from tape.peek(('"', "'", "[", "{", "(", "-", *"0123456789"))) is not None:
        return None
    key, mark = yield from tape.collect(("=", ",", ")", "(", '"', "'"), NAME_LIMIT)
    if mark == "=":
        tape.take(tape.at + 1)
        yield from tape.skip()
        return key.strip()
    tape.unread(key)
    return None


@dataclass(frozen=True)
class BraceCalls(Body):
    """A call as Gemma writes it: `call:f{a:<|"|>x<|"|>,n:3}`.

    Args:
        dialect: how the values are written.
        open: stands before the name.
    """

    dialect: Dialect
    open: str = "call:"

    @property
    def marks(self) -> tuple[str, ...]:
        """Return the marks that may be special tokens."""
        return tuple(quote for quote in self.dialect.quotes if len(quote) > 1)

    def starts(self, parser: ToolParser) -> tuple[str, ...]:
        """Return what begins a call."""
        return (self.open,)

    def read(self, parser: ToolParser, section: Section) -> Script[bool]:
        """Read one call."""
        tape = parser.tape
        yield from tape.match((self.open,))
        name, mark = yield from tape.collect(("{",), NAME_LIMIT)
        if mark is None or not is_name(name.strip()):
            return False
        parser.begin(name.strip())
        is_whole = yield from read_literal(tape, self.dialect, parser.out.arguments)
        parser.end()
        return is_whole
