"""Calls that are a name, a mark, and the arguments as JSON."""

import re
from dataclasses import dataclass

from .tape import Script
from .tools import NAME_LIMIT, Body, Section, ToolParser, is_name

__all__ = ["HeadedCalls"]

_FENCES = ("```json", "```")


@dataclass(frozen=True)
class HeadedCalls(Body):
    """A call like `<begin>name<sep>{...}<end>`.

    Args:
        opens: marks that begin a call; none: the name stands at the start of the section.
        separators: marks between name and arguments; an object may also follow the name at once.
        ids: marks between the name and an id, which is dropped.
        closes: marks that end a call; they may be missing.
        name: what of the head is the name, as the group `name`.
        kind: a word that stands in the name's place, the name following the separator on a line of its own.
        is_known_only: without a mark, only the name of one of the request's tools, alone on its line, begins a call.
    """

    opens: tuple[str, ...] = ()
    separators: tuple[str, ...] = ()
    ids: tuple[str, ...] = ()
    closes: tuple[str, ...] = ()
    name: str = r"\s*(?P<name>\S+)\s*"
    kind: str = ""
    is_known_only: bool = False

    @property
    def marks(self) -> tuple[str, ...]:
        """Return the marks that may be special tokens."""
        return (*self.opens, *self.separators, *self.ids, *self.closes)

    def starts(self, parser: ToolParser) -> tuple[str, ...] | None:
        """Return what begins a call."""
        if self.is_known_only:
            return tuple(f"{name}{gap}" for name in parser.context.tools if name for gap in ("\n{", "\r\n{", " \n{"))
        return self.opens or None

    def read(self, parser: ToolParser, section: Section) -> Script[bool]:
        """Read one call."""
        tape = parser.tape
        if self.opens:
            yield from tape.match(self.opens)
        name = yield from self._read_name(parser)
        if name is None:
            return False
        yield from tape.skip()
        is_fenced = yield from tape.match(_FENCES)
        yield from tape.skip()
        start = yield from tape.peek(("{", *self.closes, *section.closes))
        if start is None and not tape.is_over:
            return False
        parser.begin(name)
        if start == "{":
            is_whole = yield from tape.json(parser.out.arguments)
        else:
            is_whole = start is not None
            parser.out.arguments("{}" if is_whole else "")
        parser.end()
        if not is_whole:
            return False
        yield from tape.skip()
        if is_fenced and (yield from tape.match(("```",))):
            yield from tape.skip()
        words = self.closes
        if words and (yield from tape.match(words)) is None and tape.rest_begins((*words, "```")):
            tape.take(len(tape.text))  # cut off within the mark
        return True

    def _read_name(self, parser: ToolParser) -> Script[str | None]:
        """Read the name and the marks after it, up to the arguments."""
        tape = parser.tape
        head, mark = yield from tape.collect((*self.separators, *self.ids, "{"), NAME_LIMIT)
        if mark is None:
            return None
        if mark in self.ids:
            _, mark = yield from tape.collect((*self.separators, "{"), NAME_LIMIT)
            if mark is None:
                return None
        if mark != "{":
            tape.take(tape.at + len(mark))
            if self.kind and head.strip() == self.kind:
                yield from tape.skip()
                head, mark = yield from tape.collect(("\n", "```", "{"), NAME_LIMIT)
                if mark is None:
                    return None
        found = re.fullmatch(self.name, head)
        return found["name"] if found and is_name(found["name"]) else None
