"""What a parser of a model's output implements, and the pieces it cuts the output into."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

__all__ = ["CallArguments", "CallStart", "Content", "OutputParser", "ParserContext", "Piece", "Reasoning"]


@dataclass(frozen=True, slots=True)
class Content:
    """Text of the answer."""

    text: str


@dataclass(frozen=True, slots=True)
class Reasoning:
    """Text of the model's reasoning."""

    text: str


@dataclass(frozen=True, slots=True)
class CallStart:
    """A tool call begins.

    Args:
        index: of the call in this answer, from 0.
    """

    index: int
    name: str


@dataclass(frozen=True, slots=True)
class CallArguments:
    """A piece of a call's arguments, which are JSON: the pieces of one index, joined, are all of it."""

    index: int
    text: str


Piece: TypeAlias = Content | Reasoning | CallStart | CallArguments


@dataclass(frozen=True, slots=True, kw_only=True)
class ParserContext:
    """What a parser may know of the request.

    Args:
        tools: the tools' parameters (JSON schemas) by name; empty: tool calls are not looked for.
        prompt: the end of the rendered prompt (some hundred characters): it may already have opened the reasoning.
        reasoning_tags: the marks around the reasoning, where the family names them.
    """

    tools: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    prompt: str = ""
    reasoning_tags: tuple[str, str] | None = None


class OutputParser(ABC):
    """Cuts one answer, as it arrives, into content, reasoning and tool calls. One is made for each choice.

    It never raises on what a model writes: what is malformed comes out as content, and no text is lost. How the text
    was cut into pieces changes nothing but the borders of the pieces that come out.
    """

    marks: tuple[str, ...] = ()
    """Marks that the parser looks for. Those that are special tokens of the model stay in the text it is fed."""

    def __init__(self, context: ParserContext) -> None:
        self.context = context

    @abstractmethod
    def feed(self, text: str) -> Iterable[Piece]:
        """Take the next text, and return what is certain by now; nothing that can be certain is held back."""

    @abstractmethod
    def finish(self) -> Iterable[Piece]:
        """Hear that the answer is over, and return the rest."""
