"""Tool calls in an answer: where they begin and end, and who reads them."""

import re
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

from .base import ParserContext
from .script import ScriptedParser
from .tape import Script

__all__ = ["NAME_LIMIT", "Body", "Section", "ToolParser", "is_name", "marks_in"]

NAME_LIMIT = 256
"""Most characters of a tool's name."""

_BLANKS = " \t\r\n"
_SEPARATORS = " \t\r\n,;"
_NAME = re.compile(r"[\w.:/$-]{1,256}")


class Body(ABC):
    """How calls are written within a section."""

    @property
    def marks(self) -> tuple[str, ...]:
        """Return marks in it that may be special tokens."""
        return ()

    @abstractmethod
    def starts(self, parser: "ToolParser") -> tuple[str, ...] | None:
        """Return the marks with which such a call begins, of which `read` finds one unread.

        Returns: None if it may begin with anything; it is asked last then.
        """

    @abstractmethod
    def read(self, parser: "ToolParser", section: "Section") -> Script[bool]:
        """Read a call, or several of them; False: what the tape has kept is no call.

        Call `parser.begin` once a name is certain, and `parser.end` when the arguments are complete.
        """


@dataclass(frozen=True, eq=False)
class Section:
    """A part of the answer that holds calls.

    Args:
        opens: marks that begin it; one that is also the start of a body is read by that body. None (in one section of
            a parser): the bodies' own starts begin it, but only at the answer's start, at a line's, or after a call.
        closes: marks that end it; none: it ends where no body begins.
        bodies: the ways in which calls in it may be written, asked in this order.
        noise: marks that may stand between its calls.
    """

    bodies: tuple[Body, ...]
    opens: tuple[str, ...] = ()
    closes: tuple[str, ...] = ()
    noise: tuple[str, ...] = ()


def is_name(text: str) -> bool:
    """Tell whether a text may be a tool's name."""
    return _NAME.fullmatch(text) is not None


class ToolParser(ScriptedParser):
    """Reads tool calls out of text, in the sections that a subclass names.

    What looks like a call but is not comes out as content. A call whose name is complete when the answer ends stays a
    call, with the arguments as far as they came.
    """

    sections: ClassVar[tuple[Section, ...]] = ()

    def __init__(self, context: ParserContext) -> None:
        self._by_open = {mark: section for section in self.sections for mark in section.opens}
        self._bare = next((section for section in self.sections if not section.opens), None)
        self._closes: tuple[str, ...] = ()
        self.opens = tuple(self._by_open)
        self.marks = marks_in(self.sections)
        super().__init__(context)
        self._choices = {section: [(body, body.starts(self)) for body in section.bodies] for section in self.sections}
        self._words = {
            section: tuple(word for _, starts in choices for word in starts or ())
            for section, choices in self._choices.items()
        }

    def begin(self, name: str) -> None:
        """Begin a call: from here on the text cannot become content again."""
        self.tape.drop()
        self.out.start(name)

    def end(self) -> None:
        """Hear that a call's arguments are complete; what follows may turn out to be content."""
        self.tape.keep()

    def script(self) -> Script[None]:
        """Read the answer."""
        while True:
            if self._bare is not None:
                yield from self._read_bare(self._bare)
            line = ("\n",) if self._bare is not None else ()
            mark = yield from self.tape.seek((*self._by_open, *self._closes, *line), self.out.content)
            if mark is None:
                return
            if mark in self._by_open:
                yield from self._read_section(mark)
                continue
            self.tape.take(self.tape.at + len(mark))
            if mark == "\n":
                self.out.content(mark)
            else:
                self._closes = ()

    def _read_section(self, mark: str) -> Script[None]:
        section = self._by_open[mark]
        self._closes = ()
        self.tape.keep()
        if mark not in self._words[section]:
            self.tape.take(self.tape.at + len(mark))
        before = self.out.calls
        is_closed = yield from self._read_calls(section)
        self.out.content(self.tape.give_back())
        if self.out.calls > before and not is_closed:
            self._closes = section.closes

    def _read_bare(self, section: Section) -> Script[None]:
        self.tape.keep()
        yield from self.tape.skip()
        if (yield from self._choose(section)) is not None:
            yield from self._read_calls(section)
        self.out.content(self.tape.give_back())

    def _read_calls(self, section: Section) -> Script[bool]:
        """Read calls up to the section's end; what the tape keeps afterwards is content.

        Returns: whether the mark that ends it was there.
        """
        before = self.out.calls
        while True:
            is_first = self.out.calls == before
            yield from self._skip(section, _BLANKS if is_first else _SEPARATORS)
            if not is_first:
                if section.closes and (yield from self.tape.match(section.closes)):
                    self.tape.drop()
                    return True
                if (yield from self._stops(section)):
                    return False
            body = yield from self._choose(section)
            if body is None or not (yield from body.read(self, section)):
                return False
            self.tape.keep()

    def _skip(self, section: Section, characters: str) -> Script[None]:
        """Read what stands between calls."""
        yield from self.tape.skip(characters)
        while section.noise and (yield from self.tape.match(section.noise)):
            yield from self.tape.skip(characters)

    def _stops(self, section: Section) -> Script[bool]:
        """Tell whether no further call can begin here: another section does, or the answer is over."""
        if not (yield from self.tape.more()):
            return True
        if self.tape.rest_begins((*section.closes, *section.noise)):
            self.tape.drop()  # cut off within a mark that ends a call
            self.tape.take(len(self.tape.text))
            return True
        words = self._words[section]
        mark = (yield from self.tape.peek((*words, *self._by_open))) if words or self._by_open else None
        if mark is not None and mark not in words:
            self.tape.drop()
            return True
        return mark is None and not section.closes

    def _choose(self, section: Section) -> Script[Body | None]:
        """Return who reads what comes next."""
        if not (yield from self.tape.more()):
            return None
        words = self._words[section]
        start = (yield from self.tape.peek(words)) if words else None
        for body, starts in self._choices[section]:
            if start is None if starts is None else start in starts:
                return body
        return None


def marks_in(sections: tuple[Section, ...]) -> tuple[str, ...]:
    """Return all marks of some sections, those of one character aside."""
    words = [
        mark
        for section in sections
        for mark in (
            *section.opens,
            *section.closes,
            *section.noise,
            *(mark for body in section.bodies for mark in body.marks),
        )
    ]
    return tuple(dict.fromkeys(word for word in words if len(word) > 1))
