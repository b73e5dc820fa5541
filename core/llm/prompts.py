"""From the messages of a chat to its prompt."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..errors import BadRequest
from .contract import LanguageModel, MediaPrompt
from .encoding import Encoder
from .errors import Refusals
from .messages import Abilities, prepare_messages
from .template import ChatTemplate, TemplateFailed

__all__ = ["ChatPrompt", "ChatPrompts", "find_abilities"]

_MARK = "\ue000modelrack\ue001"
"""Private characters, which no client's text has by chance."""
_SWITCHES = ("enable_thinking", "thinking")
"""Variables by which templates switch the reasoning; the first is also the request's field."""


@dataclass(frozen=True, slots=True)
class ChatPrompt:
    """A rendered chat.

    Args:
        images: what the marks in the text stand for.
    """

    text: str
    images: tuple[bytes, ...] = ()


class ChatPrompts:
    """Makes the prompts of chats with one model.

    Args:
        can_think: the model's reasoning is known by its marks.
    """

    def __init__(self, model: LanguageModel, template: ChatTemplate, refuse: Refusals, *, can_think: bool) -> None:
        self._model = model
        self._template = template
        self._refuse = refuse
        self._can_think = can_think
        self._media_mark = model.traits.media_mark
        self._bos = _bos_text(model)
        self.abilities = find_abilities(template)
        self._no_tools: list[Any] | None = [] if self.abilities.needs_tool_list else None
        self.switch = next((name for name in _SWITCHES if name in template.reads), None)
        self.thinks_by_default = self._find_default()

    def render(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        tools: Sequence[Mapping[str, Any]] = (),
        variables: Mapping[str, Any] | None = None,
        add_generation_prompt: bool | None = None,
        continue_final_message: bool = False,
    ) -> ChatPrompt:
        """Return the prompt of a chat.

        Args:
            tools: shown to the model, if the template knows tools.
            variables: for the template, checked by `variables`.

        Raises: BadRequest: the messages or the template refuse it.
        """
        prepared = prepare_messages(messages, self.abilities, self._media_mark, self._refuse)
        values: dict[str, Any] = {"tools": list(tools) or self._no_tools, "documents": None, **(variables or {})}
        if continue_final_message:
            return ChatPrompt(self._continue(prepared.messages, values, add_generation_prompt), prepared.images)
        values["messages"] = prepared.messages
        values["add_generation_prompt"] = add_generation_prompt is not False
        return ChatPrompt(self._template.render(values), prepared.images)

    def _continue(self, messages: Sequence[Mapping[str, Any]], values: dict[str, Any], prompt: bool | None) -> str:
        """Return the prompt up to the end of the last message."""
        if messages[-1]["role"] != "assistant":
            raise BadRequest("'continue_final_message' needs the last message to be an assistant's.", param="messages")
        if prompt:
            raise BadRequest(
                "'continue_final_message' and 'add_generation_prompt' exclude each other.",
                param="continue_final_message",
            )
        content = messages[-1]["content"]
        if isinstance(content, str):
            content = content + _MARK
        else:
            content = [*content[:-1], {**content[-1], "text": content[-1]["text"] + _MARK}]
        values["messages"] = [*messages[:-1], {**messages[-1], "content": content}]
        values["add_generation_prompt"] = False
        text, found, _ = self._template.render(values).rpartition(_MARK)
        if not found:
            raise BadRequest(
                "'continue_final_message': the chat template does not write the last message as it is.",
                param="continue_final_message",
            )
        return text

    async def tokens(self, prompt: ChatPrompt, encode: Encoder) -> list[int] | MediaPrompt:
        """Return a prompt as engines take it, begun as the model wants texts unless the template has done so.

        Raises: TemplateFailed: there is nothing in it.
        """
        if prompt.images:
            return MediaPrompt(text=prompt.text, images=prompt.images)
        tokens = await encode(prompt.text, add_special=not (self._bos and prompt.text.startswith(self._bos)))
        if not tokens:
            raise TemplateFailed("The chat template of this model makes no prompt of these messages.", param="messages")
        return tokens

    def variables(self, given: Mapping[str, Any], field: str | None = None) -> dict[str, Any]:
        """Return a request's variables under the names that the template knows.

        Args:
            field: the request's field that all of them come from; None: those with a field of their own come from it.

        Raises: BadRequest: the template does not read one of them.
        """
        found: dict[str, Any] = {}
        for name, value in given.items():
            if name in self._template.reads:
                found[name] = value
            elif name == _SWITCHES[0] and self.switch is not None:
                found[self.switch] = value
            elif name == _SWITCHES[0] and self.switch is None and value is self._can_think:
                continue  # it does so anyway
            elif name == "reasoning_effort" and value == "none" and (self.switch is not None or not self._can_think):
                if self.switch is not None:
                    found[self.switch] = False
            else:
                raise self._unknown(name, field)
        return found

    def thinks(self, variables: Mapping[str, Any]) -> bool:
        """Tell whether the model may think about a chat with these variables."""
        if not self._can_think:
            return False
        return bool(variables.get(self.switch, self.thinks_by_default)) if self.switch is not None else True

    def _unknown(self, name: str, field: str | None) -> BadRequest:
        own = name in (_SWITCHES[0], "reasoning_effort", "documents")
        param = field or (name if own else "chat_template_kwargs")
        known = ", ".join(sorted(self._template.variables)) or "none"
        reason = f"the chat template of this model reads no variable '{name}' (it reads: {known})"
        return self._refuse(param, reason)

    def _find_default(self) -> bool:
        """Tell whether a template makes the model think when nobody says whether it should."""
        if self.switch is None or not self._can_think:
            return self._can_think
        texts = []
        for variables in ({}, {self.switch: True}):
            try:
                texts.append(self.render([{"role": "user", "content": "hello"}], variables=variables).text)
            except BadRequest:
                return True
        return texts[0] == texts[1]


def _bos_text(model: LanguageModel) -> str:
    bos = model.traits.bos_id
    return model.special_bytes(bos).decode("utf-8", "replace") if bos is not None else ""


def find_abilities(template: ChatTemplate) -> Abilities:
    """Find out by rendering what a chat template can write."""
    return _Probe(template).abilities()


_ARGUMENTS = {"probe_key": "probe value"}
_ARGUMENTS_JSON = '{"probe_key": "probe value"}'
_TOOL = {
    "type": "function",
    "function": {
        "name": "probe_function",
        "description": "A probe.",
        "parameters": {"type": "object", "properties": {"probe_key": {"type": "string", "description": "A key."}}},
    },
}


class _Probe:
    """Renders small conversations, and looks whether what was put in comes out."""

    def __init__(self, template: ChatTemplate) -> None:
        self._template = template
        self._no_tools: list[Any] | None = None
        hello = self._render([{"role": "user", "content": _MARK}])
        if not hello:
            self._no_tools = []
            hello = self._render([{"role": "user", "content": _MARK}])
            self._no_tools = [] if hello else None
        parts = [{"type": "text", "text": _MARK}]
        self._lists_only = _MARK not in hello and _MARK in self._render([{"role": "user", "content": parts}])

    def _render(self, messages: list[dict[str, Any]], tools: list[Any] | None = None) -> str:
        tools = tools or self._no_tools
        values = {"messages": messages, "tools": tools, "documents": None, "add_generation_prompt": True}
        try:
            return self._template.render(values)
        except TemplateFailed:
            return ""

    def _text(self, role: str, text: str, **more: Any) -> dict[str, Any]:
        content = [{"type": "text", "text": text}] if self._lists_only else text
        return {"role": role, "content": content, **more}

    def abilities(self) -> Abilities:
        """Return what was found."""
        ask = self._text("user", "hello")
        tools = "probe_function" in self._render([ask], [_TOOL])
        tool_calls, objects = self._calls(ask, self._text("assistant", ""))
        alone = False
        if not tool_calls:
            tool_calls, objects = self._calls(ask, {"role": "assistant", "content": None})
            alone = tool_calls
        call = self._text("assistant", "", tool_calls=_calls(_ARGUMENTS if objects else _ARGUMENTS_JSON))
        if alone:
            call["content"] = None
        before = [ask, call] if tool_calls else [ask, self._text("assistant", "yes")]
        result = self._text("tool", _MARK, tool_call_id="call00000", name="probe_call")
        return Abilities(
            system=_MARK in self._render([self._text("system", _MARK), ask]),
            developer="developer" in self._template.source
            and _MARK in self._render([self._text("developer", _MARK), ask]),
            tools=tools,
            tool_calls=tool_calls,
            object_arguments=objects,
            calls_alone=alone,
            tool_results=self._knows_results([*before, result]),
            lists_only=self._lists_only,
            needs_tool_list=self._no_tools is not None,
        )

    def _knows_results(self, messages: list[dict[str, Any]]) -> bool:
        return _MARK in self._render(messages, [_TOOL]) or _MARK in self._render(messages)

    def _calls(self, ask: dict[str, Any], answer: dict[str, Any]) -> tuple[bool, bool]:
        """Return whether calls are written, and whether their arguments must be objects."""
        texts = []
        for arguments in (_ARGUMENTS, _ARGUMENTS_JSON):
            messages = [ask, {**answer, "tool_calls": _calls(arguments)}]
            texts.append(self._render(messages, [_TOOL]) or self._render(messages))
        by_object, by_string = texts
        # Python's way to write a dictionary, with single quotes, is no JSON: such a template wants a string.
        if "probe value" in by_object and not re.search(r"\{'probe_key'", by_object):
            return True, True
        if _ARGUMENTS_JSON in by_string:
            return True, False
        return "probe_call" in by_object, True


def _calls(arguments: Any) -> list[dict[str, Any]]:
    return [{"id": "call00000", "type": "function", "function": {"name": "probe_call", "arguments": arguments}}]
