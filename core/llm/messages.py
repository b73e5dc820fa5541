"""Messages as a model's chat template can take them."""

import base64
import binascii
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from ..api.chat import text_messages
from ..errors import BadRequest, UnsupportedParameter
from .errors import Refusals

__all__ = ["Abilities", "Prepared", "are_plain", "as_object", "prepare_messages", "unify"]

_PLAIN = frozenset(("user", "system", "assistant"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Abilities:
    """What a chat template can write, as was found out by rendering it.

    Args:
        system: messages of the role `system`.
        developer: those of the role `developer`.
        tools: the tools that may be called.
        tool_calls: calls in an assistant's message.
        object_arguments: the arguments of such calls must be objects; else they are JSON strings.
        calls_alone: calls are written only where the content is null.
        tool_results: messages of the role `tool`.
        lists_only: contents must be lists of parts.
        needs_tool_list: without tools, an empty list of them must be given.
    """

    system: bool = True
    developer: bool = False
    tools: bool = False
    tool_calls: bool = False
    object_arguments: bool = True
    calls_alone: bool = False
    tool_results: bool = False
    lists_only: bool = False
    needs_tool_list: bool = False


@dataclass(frozen=True, slots=True)
class Prepared:
    """Messages for the template, and the images that their marks stand for, in order."""

    messages: Sequence[Mapping[str, Any]]
    images: tuple[bytes, ...] = ()


def prepare_messages(
    messages: Sequence[Mapping[str, Any]], abilities: Abilities, media_mark: str, refuse: Refusals
) -> Prepared:
    """Return the messages as the template takes them.

    Raises: BadRequest: they hold media that the model cannot read, or that cannot be read themselves.
    """
    if abilities.system and not abilities.lists_only and not media_mark and are_plain(messages):
        return Prepared(messages)
    images: list[bytes] = []
    if media_mark:
        texts = [_with_marks(message, index, media_mark, images) for index, message in enumerate(messages)]
    else:
        texts = _texts(messages, refuse)
    prepared = [_prepare(message, abilities) for message in texts]
    if not abilities.system:
        prepared = _merge_system(prepared)
    if abilities.lists_only:
        prepared = [{**one, "content": [{"type": "text", "text": one["content"] or ""}]} for one in prepared]
    return Prepared(prepared, tuple(images))


def are_plain(messages: Sequence[Mapping[str, Any]]) -> bool:
    """Tell whether any chat template can take the messages as they are: nothing but texts of the three old roles."""
    for message in messages:
        if len(message) != 2 or type(message.get("content")) is not str or message["role"] not in _PLAIN:
            return False
    return True


def _texts(messages: Sequence[Mapping[str, Any]], refuse: Refusals) -> list[dict[str, Any]]:
    try:
        return text_messages(messages)
    except UnsupportedParameter as error:
        raise refuse.with_engines(error, "images" if "image" in error.message else "") from None


def _with_marks(message: Mapping[str, Any], index: int, mark: str, images: list[bytes]) -> dict[str, Any]:
    """Return a message with text as content, in which a mark stands for each image; keep the images."""
    where = f"messages.{index}.content"
    content = message.get("content")
    kept = {key: value for key, value in message.items() if value is not None}
    parts = content if isinstance(content, list) else [{"type": "text", "text": content or ""}]
    pieces = []
    for number, part in enumerate(parts):
        kind = part["type"]
        if kind in ("text", "refusal"):
            if mark in part[kind]:
                raise BadRequest(f"'{where}' must not have the text {mark}, which stands for an image.", param=where)
            pieces.append(part[kind])
        elif kind == "image_url":
            images.append(_read_image(part["image_url"]["url"], f"{where}.{number}"))
            pieces.append(mark)
        else:
            raise UnsupportedParameter(
                f"This model reads text and images, but messages.{index} has a part of type '{kind}'.",
                param=f"{where}.{number}",
            )
    kept["content"] = "".join(pieces)
    return kept


def _read_image(url: str, where: str) -> bytes:
    head, comma, data = url.partition(",")
    if not head.startswith("data:"):
        raise UnsupportedParameter(f"'{where}': only http, https and data: URLs can be read.", param=where)
    if not comma or not head.endswith(";base64"):
        raise BadRequest(f"'{where}' is no data: URL in base64 (data:image/png;base64,…).", param=where)
    try:
        image = base64.b64decode(data, validate=True)
    except (binascii.Error, ValueError):
        raise BadRequest(f"'{where}': what follows the comma is not base64.", param=where) from None
    if not image:
        raise BadRequest(f"'{where}' is an empty image.", param=where)
    return image


def unify(message: dict[str, Any], *, developer: bool) -> None:
    """Change a message, in place, to the one form in which templates know what OpenAI writes in several.

    Args:
        developer: the template writes messages of the role `developer`.
    """
    if "reasoning" in message:
        message.setdefault("reasoning_content", message["reasoning"])
        del message["reasoning"]
    for name in ("annotations", "audio", "refusal"):
        message.pop(name, None)
    role = message["role"]
    if role == "developer" and not developer:
        message["role"] = "system"
    elif role == "function":
        message["role"] = "tool"
    call = message.pop("function_call", None)
    if call is not None:
        message["tool_calls"] = [{"id": "call_0", "type": "function", "function": call}]
    if not message.get("tool_calls"):
        message.pop("tool_calls", None)


def _prepare(message: dict[str, Any], abilities: Abilities) -> dict[str, Any]:
    unify(message, developer=abilities.developer)
    if message["role"] == "tool" and not abilities.tool_results:
        function = message.get("name")
        head = f"Result of {function}:" if function else "Result of the call:"
        return {"role": "user", "content": f"{head} {message['content']}"}
    if "tool_calls" in message:
        _prepare_calls(message, abilities)
    message.setdefault("content", "")
    return message


def _prepare_calls(message: dict[str, Any], abilities: Abilities) -> None:
    functions = [call["function"] for call in message["tool_calls"]]
    if not abilities.tool_calls or (abilities.calls_alone and message.get("content")):
        del message["tool_calls"]
        calls = [{"name": one["name"], "arguments": as_object(one["arguments"])} for one in functions]
        try:
            written = orjson.dumps(calls).decode()
        except orjson.JSONEncodeError as error:
            raise BadRequest(f"The arguments of a tool call cannot be read: {error}.", param="messages") from None
        message["content"] = "\n".join(part for part in (message.get("content"), written) if part)
    elif abilities.object_arguments:
        message["tool_calls"] = [
            {**call, "function": {**call["function"], "arguments": as_object(call["function"]["arguments"])}}
            for call in message["tool_calls"]
        ]
    if abilities.calls_alone and "tool_calls" in message:
        message["content"] = None


def as_object(text: str) -> Any:
    """Return a call's arguments as templates by Transformers' convention want them; what is no JSON stays a text."""
    if not text.strip():
        return {}
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:
        return text


def _merge_system(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Put what the application says before what the user says next, for templates without a role for it."""
    merged: list[dict[str, Any]] = []
    waiting: list[str] = []
    for message in messages:
        if message["role"] == "system":
            waiting.append(message["content"])
        elif message["role"] == "user" and waiting:
            merged.append({**message, "content": "\n\n".join([*waiting, message["content"]])})
            waiting = []
        else:
            merged.append(message)
    if waiting:
        merged.append({"role": "user", "content": "\n\n".join(waiting)})
    return merged
