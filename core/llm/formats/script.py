"""Parsers that are written as scripts over a tape."""

from abc import abstractmethod
from collections.abc import Sequence

from .base import CallArguments, CallStart, Content, OutputParser, ParserContext, Piece, Reasoning
from .tape import Script, Sink, Tape

__all__ = ["BLANK_LIMIT", "Outlet", "ScriptedParser", "Trimmed"]

BLANK_LIMIT = 4096
"""Most white space that is held back because a call may follow."""


class Outlet:
    """Gathers what comes out: joins what is of one kind, and drops the white space around calls.

    White space at the end of content is held back. If a call follows, it is dropped, and so is what stands between a
    call and the next text; otherwise it comes out as it is.

    Args:
        holds_blanks: False: there are no calls, so nothing is held back.
    """

    __slots__ = ("_blank", "_holds_blanks", "_is_after_call", "_kind", "_parts", "_pieces", "calls")

    def __init__(self, *, holds_blanks: bool = True) -> None:
        self.calls = 0
        self._holds_blanks = holds_blanks
        self._pieces: list[Piece] = []
        self._kind: type[Content | Reasoning | CallArguments] = Content
        self._parts: list[str] = []
        self._blank = ""
        self._is_after_call = False

    def content(self, text: str) -> None:
        """Add text of the answer."""
        if self._is_after_call:
            text = text.lstrip()
        if not text:
            return
        self._is_after_call = False
        shown = text.rstrip() if self._holds_blanks else text
        if shown:
            self._put(Content, self._blank + shown)
            self._blank = text[len(shown) :]
        else:
            self._blank += text
        while len(self._blank) > BLANK_LIMIT:
            self._put(Content, self._blank[:BLANK_LIMIT])
            self._blank = self._blank[BLANK_LIMIT:]

    def reasoning(self, text: str) -> None:
        """Add text of the reasoning."""
        if text:
            self._put(Reasoning, text)

    def start(self, name: str) -> None:
        """Begin a call."""
        self._flush()
        self._blank = ""
        self._is_after_call = True
        self._pieces.append(CallStart(self.calls, name))
        self.calls += 1

    def arguments(self, text: str) -> None:
        """Add to the arguments of the latest call."""
        if text:
            self._put(CallArguments, text)

    def call(self, name: str, arguments: str) -> None:
        """Add a call that is known as a whole."""
        self.start(name)
        self.arguments(arguments)

    def end(self) -> None:
        """Give out what was held back."""
        if self._blank:
            self._put(Content, self._blank)
            self._blank = ""

    def drain(self) -> Sequence[Piece]:
        """Return what has come out since the last time."""
        self._flush()
        pieces, self._pieces = self._pieces, []
        return pieces

    def _put(self, kind: type[Content | Reasoning | CallArguments], text: str) -> None:
        if kind is not self._kind:
            self._flush()
            self._kind = kind
        self._parts.append(text)

    def _flush(self) -> None:
        if not self._parts:
            return
        text = "".join(self._parts)
        self._parts.clear()
        if self._kind is CallArguments:
            self._pieces.append(CallArguments(self.calls - 1, text))
        else:
            self._pieces.append(Content(text) if self._kind is Content else Reasoning(text))


class Trimmed:
    """Passes a text on without the white space at its ends."""

    __slots__ = ("_blank", "_sink")

    def __init__(self, sink: Sink) -> None:
        self._sink = sink
        self._blank: str | None = None

    def add(self, text: str) -> None:
        """Add to the text."""
        if self._blank is None:
            text = text.lstrip()
            if not text:
                return
            self._blank = ""
        shown = text.rstrip()
        if shown:
            self._sink(self._blank + shown)
            self._blank = text[len(shown) :]
        else:
            self._blank += text
        while len(self._blank) > BLANK_LIMIT:
            self._sink(self._blank[:BLANK_LIMIT])
            self._blank = self._blank[BLANK_LIMIT:]


class ScriptedParser(OutputParser):
    """A parser whose work is one script, which waits wherever the text has not gone on yet."""

    def __init__(self, context: ParserContext, *, holds_blanks: bool = True) -> None:
        super().__init__(context)
        self.tape = Tape()
        self.out = Outlet(holds_blanks=holds_blanks)
        self._running = self.script()
        self._is_running = True

    @abstractmethod
    def script(self) -> Script[None]:
        """Read the whole answer from `tape` into `out`."""

    def feed(self, text: str) -> Sequence[Piece]:
        """Take the next text."""
        self.tape.add(text)
        self._run()
        return self.out.drain()

    def finish(self) -> Sequence[Piece]:
        """Hear that the answer is over."""
        self.tape.is_over = True
        self._run()
        self.out.end()
        return self.out.drain()

    def _run(self) -> None:
        if self._is_running:
            try:
                next(self._running)
            except StopIteration:
                self._is_running = False
