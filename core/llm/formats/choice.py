"""Which format a model writes, and the parser that reads it."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib import import_module
from typing import Literal

from ...hooks.types import Family, OutputFormat
from .base import Content, OutputParser, ParserContext, Piece
from .reasoning import ReasoningParser
from .tools import ToolParser

__all__ = ["Chosen", "choose", "make_parser"]


@dataclass(frozen=True, slots=True)
class Chosen:
    """The formats that a model writes. A format of the kind `both` stands in both places.

    Args:
        tags: the marks around the reasoning that the family names.
    """

    tools: OutputFormat | None = None
    reasoning: OutputFormat | None = None
    tags: tuple[str, str] | None = None

    @property
    def marks(self) -> tuple[str, ...]:
        """Return the marks that must stay in the text that the parser is fed, even those that are special tokens."""
        return make_parser(self, ParserContext(tools={"": {}})).marks

    def reasoning_marks(self) -> tuple[str, ...]:
        """Return the opening and the closing mark of the reasoning, the closing one last; empty: it has none."""
        if self.tags is not None:
            return tuple(mark.strip() for mark in self.tags if mark.strip())
        if self.reasoning is None:
            return ()
        tags: tuple[tuple[str, str], ...] = getattr(_parser_class(self.reasoning.parser), "tags", ())
        return tuple(mark.strip() for mark in tags[0]) if tags else ()


def choose(formats: Iterable[OutputFormat], family: Family, template: str | None) -> Chosen:
    """Return how a model writes tool calls and reasoning.

    What the family says counts: its `tool_format`, a name or an alias in upper or lower case, and its
    `reasoning_tags`. Else it is the format whose marks the chat template has; of several, the one with the longest
    set of marks, and of equal ones the first. A format that reads both stands alone.

    Args:
        template: the chat template's source; None: the family's.
    """
    known = tuple(formats)
    source = template or family.chat_template or ""
    named = _named(known, family.tool_format)
    if named is not None and named.kind == "both":
        return Chosen(named, named)
    tools = named or _taught(known, ("tools", "both"), source)
    if tools is not None and tools.kind == "both":
        return Chosen(tools, tools)
    if family.reasoning_tags is not None:
        return Chosen(tools, _tagged(family.reasoning_tags, source), family.reasoning_tags)
    return Chosen(tools, _taught(known, ("reasoning",), source))


def make_parser(chosen: Chosen, context: ParserContext) -> OutputParser:
    """Return a parser for one answer: reasoning is cut out first, then tool calls out of the content.

    Without tools in `context` tool calls are not looked for.
    """
    if chosen.tags is not None and context.reasoning_tags is None:
        context = ParserContext(tools=context.tools, prompt=context.prompt, reasoning_tags=chosen.tags)
    parts: list[OutputParser] = []
    if chosen.tools is not None and chosen.tools is not chosen.reasoning and context.tools:
        parts.append(_parser_class(chosen.tools.parser)(context))
    if chosen.reasoning is not None:
        reasoning = _parser_class(chosen.reasoning.parser)(context)
        if isinstance(reasoning, ReasoningParser) and parts and isinstance(parts[0], ToolParser):
            reasoning.interrupts = tuple(mark for mark in parts[0].opens if mark[0] in "<[]")
        parts.insert(0, reasoning)
    return parts[0] if len(parts) == 1 else _Chain(context, parts)


class _Chain(OutputParser):
    """Parsers in a row: each reads the content that the one before it leaves."""

    def __init__(self, context: ParserContext, parts: Sequence[OutputParser]) -> None:
        super().__init__(context)
        self.marks = tuple(dict.fromkeys(mark for part in parts for mark in part.marks))
        self._parts = parts

    def feed(self, text: str) -> Iterable[Piece]:
        return self._pass([Content(text)] if text else [], 0)

    def finish(self) -> Iterable[Piece]:
        pieces: list[Piece] = []
        for place, part in enumerate(self._parts):
            pieces.extend(self._pass(part.finish(), place + 1))
        return pieces

    def _pass(self, pieces: Iterable[Piece], start: int) -> list[Piece]:
        """Send the content among some pieces through the parsers from `start` on."""
        for part in self._parts[start:]:
            pieces = [
                out for piece in pieces for out in (part.feed(piece.text) if type(piece) is Content else (piece,))
            ]
        return list(pieces)


def _named(formats: Sequence[OutputFormat], name: str | None) -> OutputFormat | None:
    wanted = (name or "").lower()
    tools = [each for each in formats if each.kind != "reasoning"]
    exact = next((each for each in tools if each.name.lower() == wanted), None)
    return exact or next((each for each in tools if wanted in (alias.lower() for alias in each.aliases)), None)


def _taught(formats: Sequence[OutputFormat], kinds: tuple[str, ...], template: str) -> OutputFormat | None:
    """Return the format of one of some kinds that a template teaches."""
    best: OutputFormat | None = None
    most = 0
    for each in formats:
        counts = [len(marks) for marks in each.marks if marks and all(mark in template for mark in marks)]
        if each.kind in kinds and max(counts, default=0) > most:
            best, most = each, max(counts)
    return best


def _tagged(tags: tuple[str, str], template: str) -> OutputFormat:
    """Return the format with the marks that the family names.

    A template that knows of the closing mark alone is that of a model that does not write the opening one.
    """
    opens, closes = (mark.strip() for mark in tags)
    is_unopened = closes in template and opens not in template
    return UNOPENED if is_unopened else TAGGED


@lru_cache(maxsize=256)
def _parser_class(path: str) -> type[OutputParser]:
    """Import a parser.

    Raises: ImportError, AttributeError, TypeError: there is none at this path.
    """
    module, _, name = path.partition(":")
    found = getattr(import_module(module), name)
    if not (isinstance(found, type) and issubclass(found, OutputParser)):
        raise TypeError(f"{path} is no OutputParser")
    return found


_KIND: Literal["reasoning"] = "reasoning"
_HERE = "modelrack.llm.formats.reasoning"
TAGGED = OutputFormat(name="tagged", kind=_KIND, parser=f"{_HERE}:ReasoningParser")
UNOPENED = OutputFormat(name="tagged_unopened", kind=_KIND, parser=f"{_HERE}:UnopenedReasoning")
