"""What models write, as it was recorded, and how it is read back."""

import codecs
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from modelrack.hooks import OutputFormat
from modelrack.llm.formats.base import CallArguments, CallStart, Content, OutputParser, ParserContext, Piece, Reasoning
from modelrack.llm.formats.choice import TAGGED, Chosen, make_parser
from modelrack.llm.formats.registered import FORMATS

STRING = {"type": "string"}
TOOLS: dict[str, dict[str, Any]] = {
    "get_weather": {
        "type": "object",
        "properties": {
            "city": STRING,
            "unit": {"enum": ["celsius", "fahrenheit"]},
            "days": {"type": "integer"},
        },
    },
    "search": {
        "type": "object",
        "properties": {
            "query": STRING,
            "filters": {"type": "object"},
            "tags": {"type": "array", "items": STRING},
            "limit": {"anyOf": [{"type": "integer"}, {"type": "null"}]},
            "exact": {"type": "boolean"},
            "after": {"type": ["string", "null"]},
        },
    },
    "write_file": {"type": "object", "properties": {"path": STRING, "content": {"$ref": "#/$defs/text"}}}
    | {"$defs": {"text": STRING}},
    "add": {"type": "object", "properties": {"a": {"type": "number"}, "b": {"type": "number"}}},
    "get_time": {"type": "object", "properties": {}},
}


@dataclass(frozen=True)
class Shape:
    """One answer of a model, and what is to be read out of it."""

    name: str
    tools: str | None
    reasoning: str | None
    text: str
    expected: dict[str, Any]
    prompt: str = ""
    reasoning_tags: Sequence[str] = ()

    def chosen(self) -> Chosen:
        if self.reasoning_tags:
            return Chosen(named(self.tools), TAGGED, (self.reasoning_tags[0], self.reasoning_tags[1]))
        return Chosen(named(self.tools), named(self.reasoning))

    def parser(self) -> OutputParser:
        return make_parser(self.chosen(), ParserContext(tools=TOOLS, prompt=self.prompt))

    def with_value(self, value: str) -> "Shape":
        """Return the same shape with another city."""
        return replace(self, text=self.text.replace("Paris", value))

    def read(self, pieces: Iterable[str]) -> "Read":
        return read(self.parser(), pieces)


@dataclass
class Read:
    """What came out of a parser, joined."""

    content: str = ""
    reasoning: str = ""
    names: list[str] = field(default_factory=list)
    arguments: list[str] = field(default_factory=list)

    def add(self, piece: Piece) -> None:
        if isinstance(piece, Content):
            self.content += piece.text
        elif isinstance(piece, Reasoning):
            self.reasoning += piece.text
        elif isinstance(piece, CallStart):
            assert piece.index == len(self.names)
            self.names.append(piece.name)
            self.arguments.append("")
        else:
            assert type(piece) is CallArguments
            assert piece.index == len(self.names) - 1
            self.arguments[piece.index] += piece.text
        assert isinstance(piece, CallStart) or piece.text

    def values(self) -> dict[str, Any]:
        calls = [{"name": n, "arguments": json.loads(a)} for n, a in zip(self.names, self.arguments, strict=True)]
        return {"content": self.content, "reasoning": self.reasoning, "calls": calls}


def read(parser: OutputParser, pieces: Iterable[str]) -> Read:
    found = Read()
    for text in pieces:
        for piece in parser.feed(text):
            found.add(piece)
    for piece in parser.finish():
        found.add(piece)
    return found


def named(name: str | None) -> OutputFormat | None:
    if name is None:
        return None
    return next(each for each in FORMATS if name in (each.name, *each.aliases))


def cuts(text: str) -> Iterator[tuple[str, str]]:
    """Yield the text in two pieces, cut at every byte of its UTF-8 and decoded as a stream is."""
    data = text.encode()
    for place in range(1, len(data)):
        decoder = codecs.getincrementaldecoder("utf-8")()
        yield decoder.decode(data[:place]), decoder.decode(data[place:], final=True)


SHAPES = [Shape(**each) for each in json.loads(Path(__file__).with_name("recorded.json").read_text("utf-8"))]
