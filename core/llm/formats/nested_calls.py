"""Calls whose parameters are tags named by their keys, nested as the values are."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from .json_text import DEPTH_LIMIT, escape
from .tape import Script
from .tools import NAME_LIMIT, Body, Section, ToolParser, is_name
from .values import property_kinds, read_value

__all__ = ["NestedCalls"]

_ITEM = "item"
_HEAD_ENDS = (">",)


@dataclass(frozen=True)
class NestedCalls(Body):
    """A call like `<invoke name="f"><a>1</a><b><item>x</item></b></invoke>`, each tag behind a mark of its own.

    Args:
        mark: stands before each tag.
    """

    mark: str

    @property
    def marks(self) -> tuple[str, ...]:
        """Return the marks that may be special tokens."""
        return (self.mark,)

    def starts(self, parser: ToolParser) -> tuple[str, ...]:
        """Return what begins a call."""
        return (f"{self.mark}<invoke",)

    def read(self, parser: ToolParser, section: Section) -> Script[bool]:
        """Read one call."""
        tape = parser.tape
        yield from tape.match(self.starts(parser))
        head, mark = yield from tape.collect(_HEAD_ENDS, NAME_LIMIT)
        name = head.strip().removeprefix("name=").strip("\"' ")
        if mark is None or not is_name(name):
            return False
        tape.take(tape.at + 1)
        parser.begin(name)
        is_whole = yield from _Tree(self.mark, parser, parser.context.tools.get(name, {})).read()
        parser.end()
        return is_whole


@dataclass(slots=True)
class _Node:
    """A value that holds others."""

    schema: Any
    is_list: bool
    count: int = 0


class _Tree:
    """The parameters of one call as they are read."""

    def __init__(self, mark: str, parser: ToolParser, schema: Mapping[str, Any]) -> None:
        self.opens, self.closes, self.item = f"{mark}<", f"{mark}</", f"{mark}<{_ITEM}>"
        self.tape = parser.tape
        self.sink = parser.out.arguments
        self.nodes = [_Node(schema, is_list=False)]
        self.is_begun = False

    def read(self) -> Script[bool]:
        """Read all up to the end of the call."""
        tape = self.tape
        while self.nodes:
            yield from tape.skip()
            if not (yield from tape.more()):
                return False
            mark = yield from tape.match((self.closes, self.opens))
            if mark is None:
                if tape.rest_begins((self.closes,)):
                    tape.take(len(tape.text))  # cut off within the mark
                return False
            tag, end = yield from tape.collect(_HEAD_ENDS, NAME_LIMIT)
            if end is None:
                return False
            tape.take(tape.at + 1)
            if mark == self.closes:
                self._close()
            elif not (yield from self._read_member(tag.strip())):
                return False
        return True

    def _close(self) -> None:
        node = self.nodes.pop()
        if not self.is_begun:
            self.sink("{")
        self.sink("]" if node.is_list else "}")

    def _read_member(self, tag: str) -> Script[bool]:
        parent = self.nodes[-1]
        self.sink("" if self.is_begun else "{")
        self.is_begun = True
        self.sink(", " if parent.count else "")
        if not parent.is_list:
            self.sink(f'"{escape(tag)}": ')
        parent.count += 1
        schema = _child(parent, tag)
        kinds = property_kinds({"properties": {tag: schema}}, tag) if isinstance(schema, Mapping) else frozenset()
        blank = yield from self.tape.skip()
        first = yield from self.tape.peek((self.closes, self.item, self.opens))
        if first in (self.item, self.opens):
            if len(self.nodes) >= DEPTH_LIMIT:
                return False
            is_list = kinds == {"array"} or (first == self.item and "object" not in kinds)
            self.nodes.append(_Node(schema, is_list))
            self.sink("[" if is_list else "{")
            return True
        if first == self.closes and kinds in ({"array"}, {"object"}):
            self.sink("[]" if kinds == {"array"} else "{}")
        else:
            ends = (self.closes,)
            if (yield from read_value(self.tape, ends, kinds, self.sink, trims_line=False, start=blank)) is None:
                return False
        self.tape.take(self.tape.at + len(self.closes))
        _, end = yield from self.tape.collect(_HEAD_ENDS, NAME_LIMIT)
        if end is not None:
            self.tape.take(self.tape.at + 1)
        return end is not None


def _child(parent: _Node, tag: str) -> Any:
    """Return the schema of a member, as far as it is plainly written."""
    schema = parent.schema
    if not isinstance(schema, Mapping):
        return None
    if parent.is_list:
        return schema.get("items")
    properties = schema.get("properties")
    return properties.get(tag) if isinstance(properties, Mapping) else None
