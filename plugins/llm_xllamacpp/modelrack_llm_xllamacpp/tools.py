"""Tool calls that must happen: forced by a grammar of our own.

llama.cpp's own `required` lets text come first, and it takes a named tool for `auto` (both seen in b11549); a template
that knows no tools makes it drop them without a word. A grammar of our own holds for every model.
"""

from typing import Any

from modelrack.api.chat import ChatRequest
from modelrack.errors import UnsupportedParameter
from modelrack.llm.tools import ForcedTools as _ForcedTools
from modelrack.llm.tools import clean_tool, introduce

from .facts import ModelFacts
from .requests import json_limits

__all__ = ["ForcedTools", "apply_tools"]


class ForcedTools(_ForcedTools):
    """A tool choice that leaves the model no other.

    `limits` are the fields of the request to llama.cpp that force it.
    """

    limits: dict[str, Any]


def apply_tools(
    request: ChatRequest, body: dict[str, Any], facts: ModelFacts, *, is_constrained: bool
) -> ForcedTools | None:
    """Put the tools into the body; return the forced choice, if there is one.

    Raises: UnsupportedParameter: the model's template knows no tools, and none is forced; tools and a constraint.
    """
    choice = request.tool_choice
    tools = [clean_tool(tool) for tool in request.tools or ()]
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
        has_system = facts.template.get("supports_system_role", True)
        body["messages"] = introduce(body["messages"], tools, has_system=has_system)
    return forced
