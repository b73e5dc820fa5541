"""What a chat asks of a model, whichever engine answers: tools, what reads the answer, and the reasoning before it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ..api.chat import ChatRequest
from ..errors import UnsupportedParameter
from .chat_answers import MakeParser
from .contract import Constraint
from .formats.base import Content, OutputParser, ParserContext
from .formats.choice import Chosen, make_parser
from .formats.reasoning import is_opened
from .prompts import ChatPrompt, ChatPrompts
from .tools import ForcedParser, ForcedTools, ParserChain, clean_tool, introduce, tool_parameters

__all__ = ["ChatRules", "ToolUse"]

_TAIL = 2000
"""Characters of the prompt's end that parsers look at."""


@dataclass(frozen=True, slots=True)
class ToolUse:
    """What a request makes of its tools.

    Args:
        messages: of the request, with an introduction of the tools if the template knows none.
        shown: tools for the template.
        forced: the choice that the model has no way around.
        parameters: of the tools that the model may call if it wants to, by name.
    """

    messages: Sequence[Mapping[str, Any]]
    shown: Sequence[Mapping[str, Any]] = ()
    forced: ForcedTools | None = None
    parameters: Mapping[str, Mapping[str, Any]] | None = None

    @property
    def constraint(self) -> Constraint | None:
        """Return what the answer must be for the forced choice."""
        if self.forced is None:
            return None
        return Constraint(kind="json_schema", value=self.forced.schema(), field="tools")


class ChatRules:
    """The rules for the chats of one model.

    Args:
        chosen: how it writes tool calls and reasoning.
    """

    def __init__(self, prompts: ChatPrompts, chosen: Chosen) -> None:
        self._prompts = prompts
        self._chosen = chosen
        marks = chosen.reasoning_marks()
        self._marks = marks if len(marks) == 2 else None

    def tools(self, request: ChatRequest, constraint: Constraint | None) -> ToolUse:
        """Return what becomes of a request's tools.

        Args:
            constraint: that the request has besides.

        Raises: UnsupportedParameter: the template knows no tools, and none is forced; tools and a constraint.
        """
        messages: Sequence[Mapping[str, Any]] = request.messages
        if not request.tools:
            return ToolUse(messages)
        choice = request.tool_choice
        tools = [clean_tool(tool) for tool in request.tools]
        knows_tools = self._prompts.abilities.tools
        shown = tools if knows_tools else ()
        if choice == "none":
            return ToolUse(messages, shown)
        if constraint is not None:
            raise UnsupportedParameter("Tools cannot be had together with a constraint on the answer.", param="tools")
        name = choice["function"]["name"] if isinstance(choice, dict) else None
        if name is None and choice != "required":
            if not knows_tools or self._chosen.tools is None:
                raise _no_tools(knows_tools)
            functions = [tool["function"] for tool in request.tools]
            return ToolUse(messages, shown, None, {one["name"]: tool_parameters(one) for one in functions})
        if not knows_tools:
            messages = introduce(messages, tools, has_system=self._prompts.abilities.system)
        return ToolUse(messages, shown, ForcedTools(tools, name, bool(request.parallel_tool_calls)))

    def parser(self, prompt: ChatPrompt, use: ToolUse) -> MakeParser | None:
        """Return what makes the parser of each choice; None: all is content."""
        chosen, forced = self._chosen, use.forced
        if chosen.reasoning is None and forced is None and use.parameters is None:
            return None
        context = ParserContext(tools=use.parameters or {}, prompt=prompt.text[-_TAIL:])

        def make() -> OutputParser:
            first = make_parser(chosen, context)
            return first if forced is None else ParserChain(context, first, ForcedParser(context, forced))

        return make

    def before_answer(
        self, prompt: ChatPrompt, variables: Mapping[str, Any], *, can_wait: bool
    ) -> tuple[ChatPrompt, bool]:
        """Return the prompt for an answer under a constraint, and whether the model thinks before that begins.

        A model that has not begun to think by the end of the prompt might never do so, and a constraint that waits
        would never begin: its reasoning is opened for it. Where a constraint cannot wait, the reasoning is closed.

        Args:
            can_wait: the constraint can begin after the reasoning.
        """
        if self._marks is None:
            return prompt, False
        opens, closes = self._marks
        tail = prompt.text[-_TAIL:]
        is_open = is_opened(tail, opens, closes)
        if not is_open and (tail.rstrip().endswith(closes) or not self._prompts.thinks(variables)):
            return prompt, False
        if can_wait:
            return (prompt if is_open else replace(prompt, text=f"{prompt.text}{opens}\n")), True
        endings = (f"\n{closes}\n\n" if is_open else f"{opens}\n\n{closes}\n\n", closes)
        ending = next((one for one in endings if self._answers_after(prompt.text + one)), endings[0])
        return replace(prompt, text=prompt.text + ending), False

    def _answers_after(self, prompt: str) -> bool:
        """Tell whether what follows a prompt would be read as the answer."""
        parser = make_parser(self._chosen, ParserContext(prompt=prompt[-_TAIL:]))
        pieces = [*parser.feed("{}"), *parser.finish()]
        return all(type(piece) is Content for piece in pieces)


def _no_tools(knows_tools: bool) -> UnsupportedParameter:
    lack = "it is not known how this model writes calls" if knows_tools else "this model's template knows no tools"
    remedy = "so it may only be made to call one; send a tool_choice of 'required' or with a name"
    return UnsupportedParameter(f"'tools' cannot be honoured: {lack}, {remedy}.", param="tools")
