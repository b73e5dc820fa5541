"""What the routes of all model types share: the base of request models, usage, ids, and fast ways to write chunks."""

import os
import time
from collections.abc import Mapping
from itertools import count
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

__all__ = [
    "FinishReason",
    "InferenceRequest",
    "ResponseModel",
    "SamplingRequest",
    "Stop",
    "StreamOptions",
    "Usage",
    "make_id",
    "now",
    "usage_dict",
]

FinishReason = Literal["stop", "length", "tool_calls", "content_filter", "abort"]
"""Why a choice ended; `abort` is Xinference's and vLLM's word for a request that was cancelled by its id."""


class InferenceRequest(BaseModel):
    """Base of the request models: an unknown field is refused, and null means "not given".

    A field that is declared so that its type is checked and documented, but that no engine honours by default, is in
    `refused` with the reason; a handler that does honour it lists it in its `supported`. A handler's `unsupported` adds
    to them. Values in `neutral` ask for nothing and are never a reason to refuse.
    """

    model_config = ConfigDict(
        extra="forbid",
        protected_namespaces=(),
        allow_inf_nan=False,
        str_strip_whitespace=False,
        ser_json_inf_nan="null",
    )

    refused: ClassVar[Mapping[str, str]] = {}
    neutral: ClassVar[Mapping[str, tuple[Any, ...]]] = {}

    model: str = Field(min_length=1, max_length=256, description="The uid of a running model.")


class ResponseModel(BaseModel):
    """Base of the models of answers. They describe; the hot paths write plain dictionaries of the same shape."""

    model_config = ConfigDict(protected_namespaces=())


def _as_list(value: Any) -> Any:
    return [value] if isinstance(value, (str, int)) and not isinstance(value, bool) else value


Stop = Annotated[
    list[Annotated[str, Field(min_length=1)]], BeforeValidator(_as_list, json_schema_input_type=str | list[str])
]
"""Strings that end the answer; one string is taken as a list of one."""

StopTokenIds = Annotated[list[int], BeforeValidator(_as_list, json_schema_input_type=int | list[int])]


class StreamOptions(BaseModel):
    """Options of a streamed answer."""

    model_config = ConfigDict(extra="forbid")

    include_usage: bool | None = Field(None, description="End the stream with one chunk that has the usage.")
    include_obfuscation: bool | None = Field(None, description="Accepted, no effect: nothing is padded here.")


_NO_EFFECT = "Accepted for clients that send it; has no effect on the answer."


_RULES = ("guided_json", "guided_regex", "guided_choice", "guided_grammar")


class SamplingRequest(InferenceRequest):
    """The fields that chat and completion requests share."""

    refused: ClassVar[Mapping[str, str]] = dict.fromkeys(
        ("dry_multiplier", "dry_base", "dry_allowed_length", "dry_penalty_last_n", "dry_sequence_breakers"),
        "this engine has no DRY",
    )
    neutral: ClassVar[Mapping[str, tuple[Any, ...]]] = {
        "best_of": (1,),
        "dry_multiplier": (0,),
        "echo": (False,),
        "frequency_penalty": (0,),
        "ignore_eos": (False,),
        "logit_bias": ({},),
        "min_p": (0,),
        "min_tokens": (0,),
        "n": (1,),
        "presence_penalty": (0,),
        "repetition_penalty": (1,),
        "skip_special_tokens": (True,),
        "stop_token_ids": ([],),
        "top_k": (0, -1),
        "typical_p": (1,),
    }

    stream: bool | None = False
    stream_options: StreamOptions | None = None
    max_tokens: int | None = Field(None, ge=1, description="Most tokens to generate; not given: as many as fit.")
    n: int | None = Field(None, ge=1, le=128, description="Answers to generate.")
    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float | None = Field(None, gt=0, le=1)
    top_k: int | None = Field(None, ge=-1, description="0 and -1: no limit.")
    min_p: float | None = Field(None, ge=0, le=1)
    typical_p: float | None = Field(None, gt=0, le=1)
    frequency_penalty: float | None = Field(None, ge=-2, le=2)
    presence_penalty: float | None = Field(None, ge=-2, le=2)
    repetition_penalty: float | None = Field(None, gt=0, le=10)
    repeat_penalty: float | None = Field(None, gt=0, le=10, description="The same as repetition_penalty, which wins.")
    seed: int | None = Field(None, ge=-(2**63), lt=2**63)
    stop: Stop | None = None
    stop_token_ids: StopTokenIds | None = None
    ignore_eos: bool | None = Field(None, description="Generate up to max_tokens, past end tokens.")
    min_tokens: int | None = Field(None, ge=0, description="Tokens before an end token is allowed.")
    skip_special_tokens: bool | None = None
    dry_multiplier: float | None = Field(None, ge=0, le=100, description="Strength of DRY; 0 switches it off.")
    dry_base: float | None = Field(None, ge=1, le=100)
    dry_allowed_length: int | None = Field(None, ge=0, le=2**31 - 1, description="Longest repetition without penalty.")
    dry_penalty_last_n: int | None = Field(None, ge=-1, le=2**31 - 1, description="Tokens looked at; -1: all.")
    dry_sequence_breakers: list[Annotated[str, Field(min_length=1, max_length=64)]] | None = Field(
        None, min_length=1, max_length=64
    )
    logit_bias: dict[str, Annotated[float, Field(ge=-100, le=100)]] | None = Field(None, description="By token id.")
    guided_json: dict[str, Any] | str | None = Field(None, description="JSON schema that the answer must satisfy.")
    guided_regex: str | None = None
    guided_choice: list[str] | None = Field(None, min_length=1)
    guided_grammar: str | None = None
    guided_decoding_backend: str | None = Field(None, description="Refused where there is only one.")
    guided_whitespace_pattern: str | None = None
    lora_name: str | None = Field(None, description="Adapter to use, of those given at the launch.")
    request_id: str | None = Field(None, max_length=256, description="The client's id of this request.")
    cache_salt: str | None = Field(None, description="Keeps cached prompts apart; refused where they cannot be.")
    stream_interval: int | None = Field(None, description=_NO_EFFECT)
    user: str | None = Field(None, description=_NO_EFFECT)

    @model_validator(mode="after")
    def _settle(self) -> Self:
        """Take `repeat_penalty`, llama.cpp's spelling, as `repetition_penalty`; refuse two rules for one answer."""
        if self.repeat_penalty is not None and self.repetition_penalty is None:
            self.repetition_penalty = self.repeat_penalty
        rules = [name for name in _RULES if getattr(self, name) is not None]
        if len(rules) > 1:
            raise ValueError(f"only one of {' and '.join(repr(name) for name in rules)} can be given")
        return self

    @property
    def token_limit(self) -> int | None:
        """Return the most tokens to generate, or None."""
        return self.max_tokens

    @property
    def include_usage(self) -> bool:
        """Tell whether a stream ends with its usage."""
        return self.stream_options is not None and bool(self.stream_options.include_usage)


class TokenDetails(ResponseModel):
    """Of the tokens of a prompt, those that were read from a cache."""

    cached_tokens: int | None = None


class Usage(ResponseModel):
    """Tokens of a request, over all its choices."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: TokenDetails | None = None


def usage_dict(prompt_tokens: int, completion_tokens: int) -> dict[str, int]:
    """Return the usage object of an answer."""
    return {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": completion_tokens,
        "total_tokens": prompt_tokens + completion_tokens,
    }


_PROCESS = os.urandom(8).hex()
_numbers = count(1)


def make_id(prefix: str) -> str:
    """Return an id that no other request has: `chatcmpl-…`, `cmpl-…`. Cheap: random for the process, then counted."""
    return f"{prefix}-{_PROCESS}{next(_numbers):08x}"


def now() -> int:
    """Return the time as answers give it in `created`: seconds since 1970."""
    return int(time.time())
