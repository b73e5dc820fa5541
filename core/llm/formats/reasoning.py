"""Reasoning between two marks."""

import re
from typing import ClassVar

from .base import ParserContext
from .script import ScriptedParser, Trimmed
from .tape import Script

__all__ = ["ReasoningParser", "UnopenedReasoning", "is_opened"]

_TURN = re.compile(
    r"<[|｜]|[|｜]>|<(?:start|end)_of_turn>|\[/?[A-Z_]+\]|</?s>|<(?:bos|eos)>|\]~[a-z]?\[|(?i:\bassistant\s*:|^###)",
    re.MULTILINE,
)
"""What marks the border of a turn: after it, a mark in the prompt was somebody else's."""


def is_opened(prompt: str, opens: str, closes: str) -> bool:
    """Tell whether the end of a prompt has opened the reasoning of the answer."""
    mark = opens.strip()
    place = prompt.rfind(mark) if mark else -1
    if place < 0:
        return False
    rest = prompt[place + len(mark) :]
    if mark[0].isalpha():
        return not rest.strip()  # words may stand anywhere
    return closes.strip() not in rest and not _TURN.search(rest)


def _is_special(mark: str) -> bool:
    """Tell whether a mark looks like a special token, which nobody writes about."""
    return "|" in mark or "｜" in mark


class ReasoningParser(ScriptedParser):
    """Cuts reasoning out of an answer by the marks around it; the rest is content.

    The marks are the class's, or those of the family. White space at both ends of the reasoning is dropped, and what
    stands before it or follows it as well. Where the prompt ends within reasoning the answer begins with it.

    The opening mark counts at the start of the answer and after other reasoning; elsewhere only if nobody writes about
    it: it has a bar, as special tokens have, or `is_anywhere` says so. Marks around the `answer` are dropped.

    `interrupts` are marks with which a call begins: they end the reasoning too, at the start of a line or, if they look
    like special tokens, anywhere.

    An opening mark that is empty, or left out by the model (`is_unopened`), means that an answer begins with reasoning
    unless the prompt has closed it.
    """

    tags: ClassVar[tuple[tuple[str, str], ...]] = (("<think>", "</think>"),)
    answer: ClassVar[tuple[str, ...]] = ()
    is_unopened: ClassVar[bool] = False
    is_anywhere: ClassVar[bool] = False

    def __init__(self, context: ParserContext) -> None:
        tags = context.reasoning_tags
        self.pairs = (tags,) if tags and tags[1].strip() else self.tags
        self.marks = (*(mark.strip() for pair in self.pairs for mark in pair if mark.strip()), *self.answer)
        self.interrupts: tuple[str, ...] = ()
        super().__init__(context, holds_blanks=False)

    def script(self) -> Script[None]:
        """Read the answer."""
        tape, out = self.tape, self.out
        closes = self._opened()
        blank = yield from tape.skip()
        opens = {pair[0].strip(): pair[1].strip() for pair in self.pairs if pair[0].strip()}
        mark = (yield from tape.match(tuple(opens))) if opens else None
        if mark is None and closes is None:
            out.content(blank)
        while mark is not None or closes is not None:
            yield from self._read_reasoning(opens[mark] if mark is not None else str(closes))
            yield from tape.skip()
            mark = (yield from tape.match(tuple(opens))) if opens else None
            closes = None
        later = {mark: end for mark, end in opens.items() if self.is_anywhere or _is_special(mark)}
        yield from self._read_content(later)

    def _opened(self) -> str | None:
        """Return the closing mark of the reasoning that the answer begins within, if it does."""
        prompt = self.context.prompt
        for opens, closes in self.pairs:
            if is_opened(prompt, opens, closes):
                return closes.strip()
        for opens, closes in self.pairs:
            if (self.is_unopened or not opens.strip()) and not prompt.rstrip().endswith(closes.strip()):
                return closes.strip()
        return None

    def _read_reasoning(self, closes: str) -> Script[None]:
        """Read up to the closing mark, or to one that begins a call: some models forget to close before it."""
        tape, lines = self.tape, {f"\n{mark}": mark for mark in self.interrupts if not _is_special(mark)}
        yield from tape.skip()
        if self.interrupts and (yield from tape.peek(self.interrupts)):
            return
        words = (closes, *lines, *(mark for mark in self.interrupts if _is_special(mark)))
        mark = yield from tape.seek(words, Trimmed(self.out.reasoning).add)
        if mark == closes or mark in lines:
            tape.take(tape.at + (1 if mark in lines else len(closes)))

    def _read_content(self, opens: dict[str, str]) -> Script[None]:
        sink = Trimmed(self.out.content).add if self.answer else self.out.content
        while opens or self.answer:
            mark = yield from self.tape.until((*opens, *self.answer), sink)
            if mark is None:
                return
            if mark in opens:
                yield from self._read_reasoning(opens[mark])
            yield from self.tape.skip()
        while (yield from self.tape.more()):
            self.out.content(self.tape.take(len(self.tape.text)))


class UnopenedReasoning(ReasoningParser):
    """Reasoning whose opening mark the model leaves out: an answer begins with it."""

    is_unopened = True
