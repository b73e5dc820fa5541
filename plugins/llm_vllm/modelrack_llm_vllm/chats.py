"""Chats: their prompts, the tools that may or must be called, and what reads the answers."""

import base64
import binascii
from collections.abc import Mapping, Sequence
from typing import Any

from modelrack.api.chat import ChatRequest
from modelrack.errors import BadRequest, UnsupportedParameter
from modelrack.llm.constraints import read_constraint
from modelrack.llm.contract import Constraint
from modelrack.llm.prompts import ChatPrompt
from modelrack.llm.tools import clean_tool

from .requests import Ask, chat_logprobs, media_parts, sampling_body, stops
from .served import Served
from .templates import PROMPT

__all__ = ["ask_chat", "chat_prompt"]


def ask_chat(request: ChatRequest, served: Served, request_id: str) -> Ask:
    """Return what vLLM is asked for by a chat.

    Raises: BadRequest: something in it does not fit to the model, or cannot be honoured.
    """
    body = sampling_body(request, served, request_id)
    stop = stops(request, served.settings.stop)
    if stop:
        body["stop"] = stop
    logprobs = chat_logprobs(request, body)
    constraint = read_constraint(request)
    ask = Ask("/v1/chat/completions", body, logprobs=logprobs)
    if served.settings.own_prompts or served.settings.own_tools:
        _ask_natively(request, served, ask, constraint)
        return ask
    prompts, rules = served.prompts, served.rules
    if prompts is None or rules is None:
        raise BadRequest("This model has no chat template, so it takes no messages.", param="messages")
    media = _check_media(request.messages, served)
    use = rules.tools(request, constraint)
    constraint = use.constraint or constraint
    variables = prompts.variables(request.template_kwargs)
    if media:
        ask.has_media = True
        prompt = ChatPrompt("")
        _add_media(request, body, use.messages, use.shown, variables)
    else:
        prompt = prompts.render(
            use.messages,
            tools=use.shown,
            variables=variables,
            add_generation_prompt=request.add_generation_prompt,
            continue_final_message=bool(request.continue_final_message),
        )
        if constraint is not None:
            prompt, _ = rules.before_answer(prompt, variables, can_wait=False)
        _add_prompt(prompt.text, served, body)
        ask.count = [prompt.text]
    ask.reader = rules.parser(prompt, use)
    if ask.reader is not None and served.has_special_marks:
        body["skip_special_tokens"] = False
    ask.constraint = constraint
    return ask


def _add_prompt(text: str, served: Served, body: dict[str, Any]) -> None:
    """Give vLLM a prompt in place of messages, begun as the model wants texts unless the template has done so."""
    bos = served.tokens.traits.bos_id
    begun = bos is not None and text.startswith(served.tokens.special_bytes(bos).decode("utf-8", "replace"))
    body["messages"] = [{"role": "user", "content": "-"}]
    body["chat_template_kwargs"] = {PROMPT: text}
    body["add_special_tokens"] = not begun


def chat_prompt(request: Any, served: Served) -> str:
    """Return the prompt of a chat whose tokens are asked for.

    Raises: BadRequest: the messages or the template refuse it.
    """
    prompts = served.prompts
    if prompts is None:
        raise BadRequest("This model has no chat template, so it takes a 'prompt', not 'messages'.", param="messages")
    if media_parts(request.messages) and served.takes_images:
        raise UnsupportedParameter("Images cannot be tokenized here.", param="messages")
    _check_media(request.messages, served)
    tools = [clean_tool(tool) for tool in request.tools or ()]
    if tools and not prompts.abilities.tools:
        raise UnsupportedParameter(
            "'tools' cannot be honoured: this model's chat template knows no tools.", param="tools"
        )
    return prompts.render(
        request.messages,
        tools=tools,
        variables=prompts.variables(request.chat_template_kwargs or {}, "chat_template_kwargs"),
        add_generation_prompt=request.add_generation_prompt,
        continue_final_message=bool(request.continue_final_message),
    ).text


# Media


def _check_media(messages: Sequence[Mapping[str, Any]], served: Served) -> bool:
    """Tell whether there are media in the messages.

    Raises: UnsupportedParameter, BadRequest: the model does not read them, or they cannot be read themselves.
    """
    parts = media_parts(messages)
    for where, part in parts:
        kind = part["type"]
        if not served.takes_images:
            error = UnsupportedParameter(
                f"This model reads text only, but {where.rpartition('.content.')[0]} has a part of type '{kind}'.",
                param=where,
            )
            raise served.refuse.with_engines(error, "images" if kind == "image_url" else "")
        if kind != "image_url":
            raise UnsupportedParameter(
                f"This model reads text and images, but '{where}' is a part of type '{kind}'.", param=where
            )
        _check_image(part["image_url"]["url"], where)
    return bool(parts)


def _check_image(url: str, where: str) -> None:
    """Refuse images by address: vLLM would fetch them itself, from wherever the client says.

    Those by http and https have been fetched by now.
    """
    head, comma, data = url.partition(",")
    if not head.startswith("data:"):
        raise UnsupportedParameter(f"'{where}': only http, https and data: URLs can be read.", param=where)
    if not comma or not head.endswith(";base64"):
        raise BadRequest(f"'{where}' is no data: URL in base64 (data:image/png;base64,…).", param=where)
    try:
        if not base64.b64decode(data, validate=True):
            raise BadRequest(f"'{where}' is an empty image.", param=where)
    except (binascii.Error, ValueError):
        raise BadRequest(f"'{where}': what follows the comma is not base64.", param=where) from None


def _add_media(
    request: ChatRequest,
    body: dict[str, Any],
    messages: Sequence[Mapping[str, Any]],
    tools: Sequence[Mapping[str, Any]],
    variables: Mapping[str, Any],
) -> None:
    """Leave the prompt to vLLM, which alone knows how the model's images stand in it."""
    body["messages"] = [{key: value for key, value in message.items() if value is not None} for message in messages]
    body["chat_template_kwargs"] = dict(variables)
    if tools:
        body["tools"] = list(tools)
        body["tool_choice"] = "none"  # they are shown; who reads the calls is decided here
    _add_ending(request, body)


def _add_ending(request: ChatRequest, body: dict[str, Any]) -> None:
    if request.continue_final_message:
        if request.messages[-1]["role"] != "assistant":
            raise BadRequest("'continue_final_message' needs the last message to be an assistant's.", param="messages")
        body.update(continue_final_message=True, add_generation_prompt=False)
    elif request.add_generation_prompt is not None:
        body["add_generation_prompt"] = request.add_generation_prompt


# What vLLM does by itself


def _ask_natively(request: ChatRequest, served: Served, ask: Ask, constraint: Constraint | None) -> None:
    """Leave prompts, tools and reasoning to vLLM."""
    body = ask.body
    _check_media(request.messages, served)
    body["messages"] = [
        {key: value for key, value in message.items() if value is not None} for message in request.messages
    ]
    variables = request.template_kwargs
    effort = variables.pop("reasoning_effort", None)
    if effort is not None:
        body["reasoning_effort"] = effort
    if variables:
        body["chat_template_kwargs"] = variables
    _add_ending(request, body)
    if request.tools:
        choice = request.tool_choice or "auto"
        if constraint is not None and choice != "none":
            raise UnsupportedParameter("Tools cannot be had together with a constraint on the answer.", param="tools")
        if choice == "auto" and not served.settings.own_tools:
            raise UnsupportedParameter("'tools' cannot be honoured: vLLM has no parser for its calls.", param="tools")
        body.update(tools=[clean_tool(tool) for tool in request.tools], tool_choice=choice)
        if request.parallel_tool_calls is not None:
            body["parallel_tool_calls"] = request.parallel_tool_calls
    ask.constraint = constraint
