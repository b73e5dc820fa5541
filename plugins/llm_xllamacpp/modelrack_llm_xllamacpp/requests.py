"""From the public request models to llama.cpp's requests."""

from collections.abc import Callable, Mapping
from typing import Any

import orjson

from modelrack.api.chat import ChatRequest, text_messages
from modelrack.api.common import SamplingRequest
from modelrack.api.completions import CompletionRequest
from modelrack.errors import BadRequest, UnsupportedParameter
from modelrack.llm.constraints import read_constraint
from modelrack.llm.messages import are_plain, as_object, unify
from modelrack.llm.requests import token_biases

from .facts import ModelFacts

__all__ = [
    "DRY",
    "UNSUPPORTED",
    "chat_body",
    "constraint",
    "generate_body",
    "json_limits",
    "logprobs_of",
    "prepare_messages",
]

UNSUPPORTED: Mapping[str, str] = {
    "cache_salt": "llama.cpp cannot keep the cached prompts of different salts apart",
    "guided_decoding_backend": "llama.cpp has only one",
    "guided_whitespace_pattern": "llama.cpp decides itself about white space in JSON",
    "min_tokens": "llama.cpp cannot hold back end tokens",
    "skip_special_tokens": "llama.cpp does not write special tokens out",
}
"""Request fields that this engine refuses, with the reason."""

DRY = ("dry_multiplier", "dry_base", "dry_allowed_length", "dry_penalty_last_n", "dry_sequence_breakers")
"""Fields that request models refuse by themselves, and llama.cpp knows."""

_SAME = {
    "temperature": "temperature",
    "top_p": "top_p",
    "top_k": "top_k",
    "min_p": "min_p",
    "typical_p": "typical_p",
    "frequency_penalty": "frequency_penalty",
    "presence_penalty": "presence_penalty",
    "repetition_penalty": "repeat_penalty",
    "ignore_eos": "ignore_eos",
    **{name: name for name in DRY},
}
_SEEDS = 2**32 - 1
"""llama.cpp's seeds have 32 bits, and the greatest of them means "random"."""


def _common(request: SamplingRequest, facts: ModelFacts) -> dict[str, Any]:
    body: dict[str, Any] = {}
    for name in request.model_fields_set:
        field = _SAME.get(name)
        if field is not None:
            value = getattr(request, name)
            if value is not None:
                body[field] = value
    limit = request.token_limit
    if limit is not None:
        body["n_predict"] = min(limit, 2**31 - 1)
    if request.seed is not None:
        body["seed"] = request.seed % _SEEDS
    if request.logit_bias:
        biases = token_biases(request.logit_bias, facts.n_vocab)
        body["logit_bias"] = [[token, bias] for token, bias in biases.items()]
    if facts.lora:
        body["lora"] = _lora(request.lora_name, facts)
    elif request.lora_name is not None:
        raise BadRequest(f"There is no adapter '{request.lora_name}': none was given at the launch.", param="lora_name")
    return body


def _lora(name: str | None, facts: ModelFacts) -> list[dict[str, float]]:
    """Return the scale of every adapter: those that are left out of an empty list would be on."""
    if name is not None and name not in facts.lora:
        known = ", ".join(facts.lora)
        raise BadRequest(f"There is no adapter '{name}'; this model has: {known}.", param="lora_name")
    return [{"id": number, "scale": float(one == name)} for number, one in enumerate(facts.lora)]


def constraint(request: ChatRequest | CompletionRequest, facts: ModelFacts) -> tuple[str, dict[str, Any]] | None:
    """Return the request's field that constrains the answer, and the body's: `json_schema` or `grammar`.

    Raises: BadRequest: more than one constraint is given, or one that is malformed.
    """
    asked = read_constraint(request)
    return None if asked is None else (asked.field, _LIMITS[asked.kind](asked.value, facts))


def json_limits(schema: dict[str, Any], facts: ModelFacts) -> dict[str, Any]:
    """Return the body's fields that make the answer JSON by a schema.

    Where it can be, the model is left no choice of white space: a weak one would write nothing else until the end. A
    model that thinks first needs llama.cpp's own grammar, which lets it.
    """
    if not facts.has_llguidance or facts.may_think:
        return {"json_schema": schema}
    spaces = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}
    text = orjson.dumps({"x-guidance": spaces, **schema}).decode()
    return {"grammar": f"%llguidance {{}}\nstart: %json {text}"}


def _regex(pattern: str, facts: ModelFacts) -> dict[str, Any]:
    if not facts.has_llguidance:
        raise UnsupportedParameter(
            "'guided_regex' cannot be honoured: this build of llama.cpp is without llguidance.", param="guided_regex"
        )
    text = pattern.replace("\\/", "/").replace("/", "\\/").replace("\n", "\\n")
    return {"grammar": f"%llguidance {{}}\nstart: /{text}/"}


def _choice(choices: tuple[str, ...], facts: ModelFacts) -> dict[str, Any]:
    texts = " | ".join(orjson.dumps(choice).decode() for choice in choices)
    return {"grammar": f"%llguidance {{}}\nstart: {texts}" if facts.has_llguidance else f"root ::= {texts}"}


def _grammar(text: str, facts: ModelFacts) -> dict[str, Any]:
    return {"grammar": text}


_LIMITS: Mapping[str, Callable[[Any, ModelFacts], dict[str, Any]]] = {
    "json_schema": json_limits,
    "regex": _regex,
    "choice": _choice,
    "grammar": _grammar,
}


def prepare_messages(messages: list[Any], facts: ModelFacts) -> list[Any]:
    """Return the messages as the model's chat template can take them.

    Raises: UnsupportedParameter: they hold media that the model cannot read, or media by a URL that is not `data:`.
    """
    if are_plain(messages):
        return messages
    if facts.takes_media:
        prepared = [{key: value for key, value in message.items() if value is not None} for message in messages]
        _check_media(prepared)
    else:
        prepared = text_messages(messages)
    return [_prepare(message, facts) for message in prepared]


def _prepare(message: dict[str, Any], facts: ModelFacts) -> dict[str, Any]:
    unify(message, developer=facts.has_developer_role)
    if "tool_calls" not in message:
        message.setdefault("content", "")
    elif not facts.template.get("supports_tool_calls", True):
        calls = [call["function"] for call in message.pop("tool_calls")]
        text = orjson.dumps(
            [{"name": call["name"], "arguments": as_object(call["arguments"])} for call in calls]
        ).decode()
        message["content"] = "\n".join(part for part in (message.get("content"), text) if part)
    elif not message.get("content"):
        message["content"] = ""
    return message


def _check_media(messages: list[dict[str, Any]]) -> None:
    """Refuse media by address: llama.cpp would fetch them itself, from wherever the client says.

    Images have been fetched by now.
    """
    for index, message in enumerate(messages):
        content = message.get("content")
        if not isinstance(content, list):
            continue
        for number, part in enumerate(content):
            media = part.get(part["type"])
            url = media.get("url") if isinstance(media, dict) else None
            if url is not None and not url.startswith("data:"):
                where = f"messages.{index}.content.{number}"
                raise UnsupportedParameter(
                    f"'{where}': images by http, https and data: URLs can be read, other media by data: URLs.",
                    param=where,
                )


def logprobs_of(request: ChatRequest) -> int | None:
    """Return how many alternatives are wanted for each token of a chat; None if no log probabilities are."""
    return (request.top_logprobs or 0) if request.logprobs else None


def chat_body(request: ChatRequest, facts: ModelFacts) -> dict[str, Any]:
    """Return the body for a chat, all but the tools, `n` and how it is to be streamed.

    Raises: BadRequest, UnsupportedParameter.
    """
    body = _common(request, facts)
    body["messages"] = prepare_messages(request.messages, facts)
    if facts.stop and not request.stop:
        body["stop"] = [*facts.stop]  # else they are looked for here, with the request's own
    kwargs = request.template_kwargs
    if kwargs:
        body["chat_template_kwargs"] = kwargs
    if request.add_generation_prompt is not None:
        body["add_generation_prompt"] = request.add_generation_prompt
    _continue(request, body)
    alternatives = logprobs_of(request)
    if alternatives is not None:
        body["logprobs"] = True
        body["top_logprobs"] = max(1, alternatives)
    return body


def _continue(request: ChatRequest, body: dict[str, Any]) -> None:
    """Say whether the last message is to be gone on with. llama.cpp does so unasked when it is an assistant's."""
    last = request.messages[-1]["role"]
    if request.continue_final_message:
        if last != "assistant":
            raise BadRequest("'continue_final_message' needs the last message to be an assistant's.", param="messages")
        if request.add_generation_prompt:
            raise BadRequest(
                "'continue_final_message' and 'add_generation_prompt' exclude each other.",
                param="continue_final_message",
            )
        body["continue_final_message"] = True
        body["add_generation_prompt"] = False


def generate_body(request: CompletionRequest, facts: ModelFacts) -> dict[str, Any]:
    """Return the body for a completion, all but the prompt, `n` and how it is to be streamed.

    Raises: BadRequest, UnsupportedParameter.
    """
    body = _common(request, facts)
    if request.logprobs is not None:
        if request.echo:
            raise UnsupportedParameter(
                "'echo' with 'logprobs' cannot be honoured: llama.cpp gives no probabilities of the prompt.",
                param="logprobs",
            )
        body["n_probs"] = max(1, request.logprobs)
    return body
