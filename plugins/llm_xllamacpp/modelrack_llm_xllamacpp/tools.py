"""Tool calls that must happen: forced by a grammar, and read back from the JSON that the model then writes.

llama.cpp's own `required` lets text come first, and it takes a named tool for `auto` (both seen in b11549); a template
that knows no tools makes it drop them without a word. A grammar of our own holds for every model.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any
from uuid import uuid4

import orjson

from modelrack.api.chat import ChatRequest
from modelrack.errors import UnsupportedParameter

from .facts import ModelFacts
from .requests import json_limits

__all__ = ["ForcedTools", "apply_tools"]

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
        self.limits: dict[str, Any] = {}
        self._several = several and name is None
        self._functions = [tool["function"] for tool in tools]

    def schema(self) -> dict[str, Any]:
        """Return the JSON schema of what the model must write."""
        if self.name is not None:
            return _parameters(next(one for one in self._functions if one["name"] == self.name))
        calls = [
            {
                "type": "object",
                "properties": {"name": {"const": one["name"]}, "arguments": _parameters(one)},
                "required": ["name", "arguments"],
                "additionalProperties": False,
            }
            for one in self._functions
        ]
        call = calls[0] if len(calls) == 1 else {"anyOf": calls}
        if self._several:
            return {"type": "array", "items": call, "minItems": 1, "maxItems": _MOST_CALLS}
        return call

    def read(self, text: str) -> list[dict[str, Any]]:
        """Return the calls in what the model wrote; of a text that was cut off, as much as there is."""
        if self.name is not None:
            return [_call(self.name, text)]
        try:
            found = orjson.loads(text)
        except orjson.JSONDecodeError:
            return _read_cut(text)
        calls = found if isinstance(found, list) else [found]
        return [_call(call["name"], orjson.dumps(call["arguments"]).decode()) for call in calls]


def _parameters(function: Mapping[str, Any]) -> dict[str, Any]:
    return function.get("parameters") or {"type": "object", "properties": {}, "additionalProperties": False}


def _call(name: str, arguments: str) -> dict[str, Any]:
    return {"id": f"call_{uuid4().hex[:24]}", "type": "function", "function": {"name": name, "arguments": arguments}}


def _read_cut(text: str) -> list[dict[str, Any]]:
    name, arguments = _NAME.search(text), _ARGUMENTS.search(text)
    if name is None:
        return []
    return [_call(orjson.loads(f'"{name[1]}"'), text[arguments.end() :] if arguments else "")]


def apply_tools(
    request: ChatRequest, body: dict[str, Any], facts: ModelFacts, *, is_constrained: bool
) -> ForcedTools | None:
    """Put the tools into the body; return the forced choice, if there is one.

    Raises: UnsupportedParameter: the model's template knows no tools, and none is forced; tools and a constraint.
    """
    choice = request.tool_choice
    tools = [_clean(tool) for tool in request.tools or ()]
    if not tools:
        return None
    name = choice["function"]["name"] if isinstance(choice, dict) else None
    knows_tools = facts.template.get("supports_tools", True)
    if knows_tools:
        body["tools"] = tools
    if choice == "none":
        body["tool_choice"] = "none"
        return None
    if is_constrained:
        raise UnsupportedParameter("Tools cannot be had together with a constraint on the answer.", param="tools")
    if name is None and choice != "required":
        if not knows_tools:
            raise UnsupportedParameter(
                "'tools' cannot be honoured: this model's chat template knows no tools, so it may only be made to call "
                "one; send a tool_choice of 'required' or with a name.",
                param="tools",
            )
        if request.parallel_tool_calls is not None:
            body["parallel_tool_calls"] = request.parallel_tool_calls
        return None
    forced = ForcedTools(tools, name, bool(request.parallel_tool_calls))
    body["tool_choice"] = "none"
    forced.limits = json_limits(forced.schema(), facts)
    if not knows_tools:
        body["messages"] = _introduce(body["messages"], tools, facts)
    return forced


def _clean(tool: Mapping[str, Any]) -> dict[str, Any]:
    function = {key: value for key, value in tool["function"].items() if value is not None and key != "strict"}
    function.setdefault("parameters", {"type": "object", "properties": {}})
    return {"type": "function", "function": function}


def _introduce(messages: list[Any], tools: Sequence[Mapping[str, Any]], facts: ModelFacts) -> list[Any]:
    """Tell the model of the tools in words, where its template cannot."""
    text = _INTRODUCTION + "\n".join(orjson.dumps(tool["function"]).decode() for tool in tools)
    first = messages[0]
    has_system = facts.template.get("supports_system_role", True)
    if isinstance(first.get("content"), str) and (first["role"] == "system" or not has_system):
        return [{**first, "content": f"{text}\n\n{first['content']}"}, *messages[1:]]
    return [{"role": "system" if has_system else "user", "content": text}, *messages]
