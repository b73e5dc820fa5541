"""Completions: request, answer and chunks, and the fast way to write them."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal, TypeAlias

import orjson
from pydantic import BeforeValidator, ConfigDict, Field

from .common import FinishReason, ResponseModel, SamplingRequest, Usage, make_id, now, usage_dict

__all__ = ["Completion", "CompletionChunk", "CompletionRequest", "CompletionWriter", "completion_answer"]

_SHAPES = "must be a string, a list of strings, a list of token ids, or a list of lists of token ids"


def _is_ids(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(type(item) is int and item >= 0 for item in value)


def _check_prompt(value: Any) -> Any:
    """Refuse with one message for all four shapes, instead of one for each that did not fit."""
    if isinstance(value, str):
        return value
    if not isinstance(value, list):
        raise ValueError(_SHAPES)
    if not value:
        raise ValueError("must not be an empty list")
    if all(isinstance(item, str) for item in value) or _is_ids(value) or all(_is_ids(item) for item in value):
        return value
    raise ValueError(_SHAPES)


Prompt: TypeAlias = Annotated[str | list[str] | list[int] | list[list[int]], BeforeValidator(_check_prompt)]


class CompletionRequest(SamplingRequest):
    """A request for a completion: OpenAI's fields, and those of Xinference and vLLM beside them."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"model": "demo-chat", "prompt": "The largest animal is", "max_tokens": 16}]}
    )

    refused: ClassVar[Mapping[str, str]] = {
        **SamplingRequest.refused,
        "best_of": "it is not implemented; ask for n and choose",
        "suffix": "the model cannot fill in the middle",
    }
    neutral: ClassVar[Mapping[str, tuple[Any, ...]]] = {
        **SamplingRequest.neutral,
        "response_format": ({"type": "text"},),
        "suffix": ("",),
    }

    prompt: Prompt
    best_of: int | None = Field(None, ge=1, le=128)
    echo: bool | None = Field(None, description="Begin the answer with the prompt.")
    logprobs: int | None = Field(None, ge=0, le=5, description="Alternatives to give for each token.")
    suffix: str | None = Field(None, description="Text that follows the answer, where the model can fill in.")
    add_special_tokens: bool | None = None
    response_format: dict[str, Any] | None = Field(None, description="As for a chat.")

    @property
    def prompts(self) -> list[str] | list[list[int]]:
        """Return the prompts as a list, whatever shape they came in."""
        prompt: Any = self.prompt
        if isinstance(prompt, str) or isinstance(prompt[0], int):
            return [prompt]
        return list(prompt)


class CompletionLogprobs(ResponseModel):
    """Log probabilities, token by token."""

    tokens: list[str]
    token_logprobs: list[float | None]
    top_logprobs: list[dict[str, float] | None] | None = None
    text_offset: list[int]


class CompletionChoice(ResponseModel):
    """One answer; with several prompts, those of the first come first."""

    index: int
    text: str
    logprobs: CompletionLogprobs | None = None
    finish_reason: FinishReason | None


class Completion(ResponseModel):
    """The answer to a request that is not streamed."""

    id: str
    object: Literal["text_completion"] = "text_completion"
    created: int
    model: str
    choices: list[CompletionChoice]
    usage: Usage


class CompletionChunk(ResponseModel):
    """One event of a streamed answer."""

    id: str
    object: Literal["text_completion"] = "text_completion"
    created: int
    model: str
    choices: list[CompletionChoice]
    usage: Usage | None = None


def completion_answer(model: str, choices: Sequence[Mapping[str, Any]], usage: Mapping[str, Any]) -> dict[str, Any]:
    """Return the answer to a request that is not streamed, from choices as `CompletionChoice` describes them."""
    return {
        "id": make_id("cmpl"),
        "object": "text_completion",
        "created": now(),
        "model": model,
        "choices": list(choices),
        "usage": dict(usage),
    }


class CompletionWriter:
    """Write the chunks of one streamed answer as JSON bytes; what is the same in all of them is written once."""

    __slots__ = ("_head",)

    def __init__(self, model: str) -> None:
        head = {"id": make_id("cmpl"), "object": "text_completion", "created": now(), "model": model}
        self._head = orjson.dumps(head)[:-1] + b',"choices":['

    def text(self, text: str, index: int = 0) -> bytes:
        """Return a chunk that adds text."""
        return self._head + (
            b'{"index":%d,"text":%b,"logprobs":null,"finish_reason":null}]}' % (index, orjson.dumps(text))
        )

    def finish(self, reason: FinishReason, index: int = 0) -> bytes:
        """Return the last chunk of a choice."""
        return self._head + (
            b'{"index":%d,"text":"","logprobs":null,"finish_reason":"%b"}]}' % (index, reason.encode())
        )

    def chunk(
        self,
        text: str,
        index: int = 0,
        logprobs: Mapping[str, Any] | None = None,
        finish_reason: FinishReason | None = None,
    ) -> bytes:
        """Return a chunk with log probabilities, or one that both adds text and ends."""
        choice = {"index": index, "text": text, "logprobs": logprobs, "finish_reason": finish_reason}
        return self._head + orjson.dumps(choice) + b"]}"

    def usage(self, prompt_tokens: int, completion_tokens: int) -> bytes:
        """Return the chunk that ends a stream whose request asked for its usage."""
        return self._head + b'],"usage":%b}' % orjson.dumps(usage_dict(prompt_tokens, completion_tokens))
