"""Messages in channels: reasoning, calls and answers in one format."""

import re
from typing import ClassVar

from .script import ScriptedParser, Trimmed
from .tape import Script, Sink
from .tools import is_name

__all__ = ["Harmony"]

_CHANNEL, _START, _MESSAGE = "<|channel|>", "<|start|>", "<|message|>"
_CONSTRAIN = "<|constrain|>"
_ENDS = ("<|end|>", "<|call|>", "<|return|>")
_HEADER_LIMIT = 1024
_RECIPIENT = re.compile(r"\bto=([^\s<]+)")
_CHANNEL_NAME = re.compile(r"<\|channel\|>\s*([a-z]+)")


class Harmony(ScriptedParser):
    """Messages like `<|channel|>analysis<|message|>...<|end|>`, one after another.

    The channel `analysis` is reasoning; a message to `functions.f` is a call of `f`; what else is in `commentary` and
    `final` is content. Several texts of one kind are set apart by an empty line. Text outside messages is content.
    """

    marks = (_CHANNEL, _START, _MESSAGE, _CONSTRAIN, *_ENDS)
    tags: ClassVar[tuple[tuple[str, str], ...]] = ((f"{_CHANNEL}analysis{_MESSAGE}", f"{_CHANNEL}final{_MESSAGE}"),)

    def script(self) -> Script[None]:
        """Read the answer."""
        self._shown: set[str] = set()
        header = self._open_header()
        if _MESSAGE in header:
            yield from self._read_body(header)
            header = ""
        while True:
            if header.rstrip().endswith("assistant") and (yield from self._begins_header()):
                yield from self._read_message(header)
            else:
                mark = yield from self.tape.seek((_CHANNEL, _START, _MESSAGE, *_ENDS), self.out.content)
                if mark is None:
                    return
                if mark in _ENDS:
                    self.tape.take(self.tape.at + len(mark))
                else:
                    yield from self._read_message(header)
            header = ""

    def _open_header(self) -> str:
        """Return the header of the message that the prompt has begun, as far as it goes."""
        _, start, header = self.context.prompt.rpartition(_START)
        return header if start and not any(mark in header for mark in _ENDS) else ""

    def _begins_header(self) -> Script[bool]:
        blank = yield from self.tape.skip()
        mark = yield from self.tape.peek(("to=", _CHANNEL))
        if mark is None:
            self.out.content(blank)
        return mark == "to="

    def _read_message(self, header: str) -> Script[None]:
        """Read a header and what follows it; a header that never ends is content."""
        self.tape.keep()
        text, mark = yield from self.tape.collect((_MESSAGE, *_ENDS), _HEADER_LIMIT)
        if mark != _MESSAGE:
            kept = self.tape.give_back()
            is_cut_off = self.tape.is_over and self.tape.at == len(self.tape.text)
            if not (is_cut_off and kept.startswith((_START, _CHANNEL))):
                self.out.content(kept)
            return
        self.tape.drop()
        self.tape.take(self.tape.at + len(_MESSAGE))
        yield from self._read_body(f"{header} {text}")

    def _read_body(self, header: str) -> Script[None]:
        sink = self._sink(header)
        while True:
            mark = yield from self.tape.seek((*_ENDS, _START, f"{_CHANNEL}analysis", f"{_CHANNEL}final"), sink)
            if mark in _ENDS:
                self.tape.take(self.tape.at + len(mark))
            return

    def _sink(self, header: str) -> Sink:
        """Return where a message's text goes."""
        recipient = _RECIPIENT.search(header)
        channels = _CHANNEL_NAME.findall(header)
        name = recipient[1].removeprefix("functions.") if recipient else ""
        if (
            recipient
            and self.context.tools
            and (name in self.context.tools or (recipient[1] != name and is_name(name)))
        ):
            self.out.start(name)
            return Trimmed(self.out.arguments).add
        if "analysis" in channels:
            return self._apart("reasoning", Trimmed(self.out.reasoning).add, self.out.reasoning)
        return self._apart("content", self.out.content, self.out.content)

    def _apart(self, kind: str, sink: Sink, plain: Sink) -> Sink:
        """Return a sink that sets a text apart from the one before it."""
        if kind not in self._shown:
            self._shown.add(kind)
            return sink
        is_first = True

        def add(text: str) -> None:
            nonlocal is_first
            if is_first and text.strip():
                plain("\n\n")
                is_first = False
            sink(text)

        return add
