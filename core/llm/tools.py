"""Tool calls that must happen: forced by a JSON schema, and read out of the JSON that the model then writes.

A schema holds for every model, also for one whose chat template knows no tools: it is then told of them in words.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any
from uuid import uuid4

import orjson

from ..errors import BadRequest
from .formats.base import CallArguments, CallStart, Content, OutputParser, ParserContext, Piece

__all__ = ["ForcedParser", "ForcedTools", "ParserChain", "clean_tool", "introduce", "tool_parameters"]

_MOST_CALLS = 16
_INTRODUCTION = (
    "You can call these functions. To call one, answer with a JSON object that has its name and its arguments, "
    'as {"name": "…", "arguments": {…}}, and with nothing else.\n'
)
_NAME = re.compile(r'"name"\s*:\s*"((?:[^"\\]|\\.)*)"')
_ARGUMENTS = re.compile(r'"arguments"\s*:\s*')


class ForcedTools:
    """A tool choice that leaves the model no other: the named tool, or any of them.

    Args:
        name: the tool that must be called; None is any of the request's.
        several: several calls may be made at once.
    """

    def __init__(self, tools: Sequence[Mapping[str, Any]], name: str | None, several: bool) -> None:
        self.name = name
        self.several = several and name is None
        self._functions = [tool["function"] for tool in tools]

    def schema(self) -> dict[str, Any]:
        """Return the JSON schema of what the model must write."""
        if self.name is not None:
            return tool_parameters(next(one for one in self._functions if one["name"] == self.name))
        calls = [
            {
                "type": "object",
                "properties": {"name": {"const": one["name"]}, "arguments": tool_parameters(one)},
                "required": ["name", "arguments"],
                "additionalProperties": False,
            }
            for one in self._functions
        ]
        call = calls[0] if len(calls) == 1 else {"anyOf": calls}
        if self.several:
            return {"type": "array", "items": call, "minItems": 1, "maxItems": _MOST_CALLS}
        return call

    def read(self, text: str) -> list[dict[str, Any]]:
        """Return the calls in what the model wrote; of a text that was cut off, as much as there is."""
        if self.name is not None:
            return [_call(self.name, text)]
        try:
            found = orjson.loads(text)
            calls = found if isinstance(found, list) else [found]
            return [_call(call["name"], orjson.dumps(call["arguments"]).decode()) for call in calls]
        except (orjson.JSONDecodeError, orjson.JSONEncodeError):  # cut off, or nested too deeply to be written again
            return _read_cut(text)


def tool_parameters(function: Mapping[str, Any]) -> dict[str, Any]:
    """Return the JSON schema of a function's arguments; without one it takes none."""
    return function.get("parameters") or {"type": "object", "properties": {}, "additionalProperties": False}


def _call(name: str, arguments: str) -> dict[str, Any]:
    return {"id": f"call_{uuid4().hex[:24]}", "type": "function", "function": {"name": name, "arguments": arguments}}


def _read_cut(text: str) -> list[dict[str, Any]]:
    name, arguments = _NAME.search(text), _ARGUMENTS.search(text)
    if name is None:
        return []
    return [_call(orjson.loads(f'"{name[1]}"'), text[arguments.end() :] if arguments else "")]


def clean_tool(tool: Mapping[str, Any]) -> dict[str, Any]:
    """Return a tool as chat templates want it: without what is null, and always with parameters."""
    function = {key: value for key, value in tool["function"].items() if value is not None and key != "strict"}
    function.setdefault("parameters", {"type": "object", "properties": {}})
    return {"type": "function", "function": function}


def introduce(
    messages: Sequence[Mapping[str, Any]], tools: Sequence[Mapping[str, Any]], *, has_system: bool
) -> list[Mapping[str, Any]]:
    """Tell the model of the tools in words, where its template cannot.

    Args:
        has_system: the template knows the role `system`.

    Raises: BadRequest: a tool cannot be written as JSON.
    """
    try:
        text = _INTRODUCTION + "\n".join(orjson.dumps(tool["function"]).decode() for tool in tools)
    except orjson.JSONEncodeError as error:
        raise BadRequest(f"'tools' cannot be shown to the model: {error}.", param="tools") from None
    first = messages[0]
    if isinstance(first.get("content"), str) and (first["role"] == "system" or not has_system):
        return [{**first, "content": f"{text}\n\n{first['content']}"}, *messages[1:]]
    return [{"role": "system" if has_system else "user", "content": text}, *messages]


class ForcedParser(OutputParser):
    """Reads the calls that `ForcedTools` forces, as they are written. What is not of their form is content."""

    def __init__(self, context: ParserContext, forced: ForcedTools) -> None:
        super().__init__(context)
        self._read = _NamedCall(forced.name) if forced.name is not None else _AnyCalls()

    def feed(self, text: str) -> Iterable[Piece]:
        """Take the next text."""
        return self._read.feed(text)

    def finish(self) -> Iterable[Piece]:
        """Return the rest."""
        return self._read.finish()


class _NamedCall:
    """All that is written is the arguments of one call."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._is_open = False

    def feed(self, text: str) -> list[Piece]:
        if self._is_open:
            return [CallArguments(0, text)]
        text = text.lstrip()
        if not text:
            return []
        self._is_open = True
        return [CallStart(0, self._name), CallArguments(0, text)]

    def finish(self) -> list[Piece]:
        return []


_HEAD = re.compile(r'\s*[\[,]?\s*\{\s*"name"\s*:\s*("(?:[^"\\]|\\.)*")\s*,\s*"arguments"\s*:\s*(?=\S)')
_BORDER = re.compile(r'[{}\[\]"]')
_QUOTE = re.compile(r'["\\]')


class _AnyCalls:
    """One call or a list of them, each an object with its name first: so the schema wants it."""

    def __init__(self) -> None:
        self._head = ""
        self._depth = 0
        self._is_string = False
        self._is_escaped = False
        self._is_inside = False
        self._index = -1

    def feed(self, text: str) -> list[Piece]:
        pieces: list[Piece] = []
        while text:
            if self._is_inside:
                text = self._take_arguments(text, pieces)
            else:
                self._head += text
                text = self._take_head(pieces)
        return pieces

    def _take_head(self, pieces: list[Piece]) -> str:
        """Look for the beginning of a call; return what follows it."""
        match = _HEAD.match(self._head.lstrip("}] \n\t\r") if self._index >= 0 else self._head)
        if match is None:
            return ""
        rest = match.string[match.end() :]
        self._head = ""
        self._index += 1
        self._is_inside = True
        pieces.append(CallStart(self._index, orjson.loads(match[1])))
        return rest

    def _take_arguments(self, text: str, pieces: list[Piece]) -> str:
        """Pass arguments on up to their end; return what follows it."""
        position = 0
        while position < len(text):
            if self._is_escaped:
                self._is_escaped = False
                position += 1
                continue
            found = (_QUOTE if self._is_string else _BORDER).search(text, position)
            if found is None:
                break
            character, position = found[0], found.end()
            if character == "\\":
                self._is_escaped = True
            elif character == '"':
                self._is_string = not self._is_string
            elif character in "{[":
                self._depth += 1
            else:
                self._depth -= 1
                if self._depth <= 0:
                    self._depth = 0
                    self._is_inside = False
                    pieces.append(CallArguments(self._index, text[:position]))
                    return text[position:]
        pieces.append(CallArguments(self._index, text))
        return ""

    def finish(self) -> list[Piece]:
        """Return what never became a call, unless it only closes the last one."""
        rest = self._head
        self._head = ""
        return [Content(rest)] if rest.strip("}], \n\t\r") else []


class ParserChain(OutputParser):
    """Reads the reasoning first, and what is left as forced calls."""

    def __init__(self, context: ParserContext, first: OutputParser, second: OutputParser) -> None:
        super().__init__(context)
        self._first = first
        self._second = second

    def feed(self, text: str) -> list[Piece]:
        """Take the next text."""
        return self._pass(self._first.feed(text))

    def finish(self) -> list[Piece]:
        """Return the rest."""
        return [*self._pass(self._first.finish()), *self._second.finish()]

    def _pass(self, pieces: Iterable[Piece]) -> list[Piece]:
        found: list[Piece] = []
        for piece in pieces:
            if type(piece) is Content:
                found.extend(self._second.feed(piece.text))
            else:
                found.append(piece)
        return found
