"""From the public requests to vLLM's: pure functions of a request and the model."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import orjson

from modelrack.api.chat import ChatRequest
from modelrack.api.common import SamplingRequest
from modelrack.api.completions import CompletionRequest
from modelrack.errors import BadRequest
from modelrack.llm.contract import Constraint
from modelrack.llm.requests import check_ids, stop_strings, token_biases

from .served import Served
from .settings import LORA_PREFIX, NULL_LORA

__all__ = ["Ask", "chat_logprobs", "completion_body", "media_parts", "sampling_body", "stops", "structured"]

_SAME = (
    *("temperature", "top_p", "min_p", "frequency_penalty", "presence_penalty", "repetition_penalty"),
    *("ignore_eos", "min_tokens", "skip_special_tokens", "stop_token_ids", "cache_salt"),
)
"""Fields that vLLM has under the same names."""
_GREEDY = 1e-5
"""What vLLM takes for a temperature of 0."""
_SEEDS = 2**63 - 256
"""vLLM counts its seeds up for each of several answers, and takes -1 for none."""
_MOST_SALT = 1024


@dataclass(slots=True)
class Ask:
    """What vLLM is asked for.

    Args:
        body: for vLLM.
        path: of vLLM.
        constraint: what the answer must be, for errors.
        reader: makes what reads each choice of a chat; None: vLLM's answer stands as it is.
        logprobs: alternatives of each token; None: none were asked for.
        count: the prompts by which tokens are counted, for errors.
        has_media: there are images in it.
    """

    path: str
    body: dict[str, Any]
    constraint: Constraint | None = None
    reader: Any = None
    logprobs: int | None = None
    count: list[Any] = field(default_factory=list)
    has_media: bool = False


def sampling_body(request: SamplingRequest, served: Served, request_id: str) -> dict[str, Any]:
    """Return what chats and completions have in common.

    Raises: BadRequest: a field does not fit to the model.
    """
    body: dict[str, Any] = {"model": _model(request.lora_name, served), "request_id": request_id}
    for name in _SAME:
        value = getattr(request, name)
        if value is not None:
            body[name] = value
    if request.top_k is not None:
        body["top_k"] = max(0, request.top_k)
    if request.typical_p is not None and request.typical_p < 1:
        body["vllm_xargs"] = {"typical_p": request.typical_p}
    if request.seed is not None:
        body["seed"] = request.seed % _SEEDS
    _add_limits(request, served, body)
    if request.stop_token_ids:
        check_ids(request.stop_token_ids, served.n_vocab, "stop_token_ids")
    if request.logit_bias:
        biases = token_biases(request.logit_bias, served.n_vocab)
        body["logit_bias"] = {str(token): bias for token, bias in biases.items()}
    if request.cache_salt is not None and not 0 < len(request.cache_salt) <= _MOST_SALT:
        raise BadRequest(f"'cache_salt' must have 1 to {_MOST_SALT} characters.", param="cache_salt")
    _add_several(request, body)
    if request.stream:
        body["stream"] = True
        if request.include_usage:
            body["stream_options"] = {"include_usage": True}
    return body


def _add_limits(request: SamplingRequest, served: Served, body: dict[str, Any]) -> None:
    limit, least = request.token_limit, request.min_tokens or 0
    if limit is not None and least > limit:
        raise BadRequest(f"'min_tokens' is {least}, but at most {limit} tokens are asked for.", param="min_tokens")
    # vLLM cuts this to what the prompt leaves. Without a limit it would take 16, or what the model's folder recommends.
    body["max_tokens"] = min(limit or served.n_ctx, served.n_ctx)
    if least >= served.n_ctx:
        raise BadRequest(
            f"'min_tokens' is {least}, but the context of this model holds {served.n_ctx}.", param="min_tokens"
        )


def _add_several(request: SamplingRequest, body: dict[str, Any]) -> None:
    """Ask for several answers; vLLM gives several greedy ones only if they are sampled from one token."""
    count = request.n or 1
    if count == 1:
        return
    body["n"] = count
    temperature = body.get("temperature")
    if temperature is not None and temperature < _GREEDY:
        body.update(temperature=1.0, top_k=1, top_p=1.0, min_p=0.0)


def _model(name: str | None, served: Served) -> str:
    """Return what vLLM calls the model with an adapter."""
    settings = served.settings
    known = settings.lora
    if name is None:
        return NULL_LORA if settings.null_lora else settings.model_uid
    if name in known:
        return f"{LORA_PREFIX}{name}"
    if not known:
        raise BadRequest(f"There is no adapter '{name}': none was given at the launch.", param="lora_name")
    raise BadRequest(f"There is no adapter '{name}'; this model has: {', '.join(known)}.", param="lora_name")


def stops(request: SamplingRequest, further: Sequence[str] = ()) -> list[str]:
    """Return the strings that end the answer.

    Raises: BadRequest: there is too much of them.
    """
    stop_strings(request.stop, further)
    return [*(request.stop or ()), *further]


def structured(grammar: str) -> dict[str, Any]:
    """Return a grammar of llguidance as vLLM's `structured_outputs`.

    Args:
        grammar: Lark, or the JSON form with one grammar.
    """
    if not grammar.lstrip().startswith("{"):
        return {"grammar": grammar}
    (only,) = orjson.loads(grammar)["grammars"]
    if only.get("json_schema") is not None:
        return {"json": only["json_schema"]}
    return {"grammar": only["lark_grammar"]}


def completion_body(request: CompletionRequest, served: Served, request_id: str) -> dict[str, Any]:
    """Return the body for a completion, all but its constraint.

    Raises: BadRequest: a field does not fit to the model.
    """
    body = sampling_body(request, served, request_id)
    prompts: Any = request.prompts
    for prompt in prompts:
        if isinstance(prompt, list):
            check_ids(prompt, served.n_vocab, "prompt")
    if any(prompt == "" for prompt in prompts):
        prompts = [prompt or _begin(served) for prompt in prompts]
        if len({type(prompt) for prompt in prompts}) > 1:
            raise BadRequest("'prompt' has an empty text among others.", param="prompt")
    body["prompt"] = prompts[0] if len(prompts) == 1 else prompts
    if request.add_special_tokens is not None:
        body["add_special_tokens"] = request.add_special_tokens
    stop = stops(request)
    if stop:
        body["stop"] = stop
    if request.echo:
        body["echo"] = True
    if request.logprobs is not None:
        body["logprobs"] = request.logprobs
    return body


def _begin(served: Served) -> list[int]:
    bos = served.tokens.traits.bos_id
    if bos is None:
        raise BadRequest("'prompt' is empty, and this model has no token to begin a text with.", param="prompt")
    return [bos]


def chat_logprobs(request: ChatRequest, body: dict[str, Any]) -> int | None:
    """Ask for log probabilities; return how many alternatives are wanted, or None."""
    if not request.logprobs:
        return None
    body["logprobs"] = True
    # vLLM counts the token that was chosen among them, wherever it ranks.
    if request.top_logprobs:
        body["top_logprobs"] = request.top_logprobs + 1
    return request.top_logprobs or 0


def media_parts(messages: Sequence[Mapping[str, Any]]) -> list[tuple[str, Mapping[str, Any]]]:
    """Return the parts of messages that are no text, with their places (`messages.0.content.1`)."""
    found = []
    for index, message in enumerate(messages):
        content = message.get("content")
        if isinstance(content, list):
            for number, part in enumerate(content):
                if part["type"] not in ("text", "refusal"):
                    found.append((f"messages.{index}.content.{number}", part))
    return found
