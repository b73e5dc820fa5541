"""Chat completions: request, answer and chunks, and the fast way to write them."""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal, Self

import orjson
from pydantic import ConfigDict, Field, model_validator

from ..errors import BadRequest
from .common import FinishReason, ResponseModel, SamplingRequest, Usage, make_id, now, usage_dict
from .messages import Message, NamedTool, ReasoningEffort, ResponseFormat, Tool, text_messages, text_of

__all__ = [
    "ChatChunk",
    "ChatCompletion",
    "ChatRequest",
    "ChatWriter",
    "Message",
    "Tool",
    "chat_answer",
    "text_messages",
    "text_of",
]

_NO_EFFECT = "Accepted for clients that send it; has no effect on the answer."


class ChatRequest(SamplingRequest):
    """A request for a chat completion: OpenAI's fields, and those of Xinference and vLLM beside them."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"model": "demo-chat", "messages": [{"role": "user", "content": "What is the largest animal?"}]}
            ]
        }
    )

    refused: ClassVar[Mapping[str, str]] = {
        **SamplingRequest.refused,
        "audio": "no engine here speaks in a chat; use /v1/audio/speech",
        "echo": "a chat has no prompt to echo",
        "function_call": "this form is older than tools; use tool_choice",
        "functions": "this form is older than tools; use tools",
        "mm_processor_kwargs": "no engine here has such a processor",
        "modalities": "only text is answered",
        "moderation": "nothing here moderates",
        "verbosity": "no model here knows it",
        "web_search_options": "nothing here searches the web",
    }
    neutral: ClassVar[Mapping[str, tuple[Any, ...]]] = {
        **SamplingRequest.neutral,
        "add_generation_prompt": (True,),
        "chat_template_kwargs": ({},),
        "continue_final_message": (False,),
        "logprobs": (False,),
        "modalities": (["text"],),
        "parallel_tool_calls": (True,),
        "response_format": ({"type": "text"},),
        "tool_choice": ("auto", "none"),
        "tools": ([],),
        "top_logprobs": (0,),
        "verbosity": ("medium",),
    }

    messages: list[Message] = Field(min_length=1)
    max_completion_tokens: int | None = Field(None, ge=1, description="The same as max_tokens, and wins over it.")
    logprobs: bool | None = None
    top_logprobs: int | None = Field(None, ge=0, le=20)
    tools: list[Tool] | None = None
    tool_choice: Literal["none", "auto", "required"] | NamedTool | None = None
    parallel_tool_calls: bool | None = None
    response_format: ResponseFormat | None = None
    reasoning_effort: ReasoningEffort | None = Field(None, description="Given to the chat template.")
    enable_thinking: bool | None = Field(None, description="Given to the chat template.")
    chat_template_kwargs: dict[str, Any] | str | None = Field(
        None, description="Variables for the chat template; an object, or one as a JSON string."
    )
    add_generation_prompt: bool | None = None
    continue_final_message: bool | None = Field(None, description="Go on with the last message, an assistant's.")
    documents: list[dict[str, Any]] | None = Field(None, description="Given to the chat template.")
    echo: bool | None = None
    audio: dict[str, Any] | None = None
    modalities: list[Literal["text", "audio"]] | None = None
    functions: list[dict[str, Any]] | None = None
    function_call: str | dict[str, Any] | None = None
    web_search_options: dict[str, Any] | None = None
    mm_processor_kwargs: dict[str, Any] | None = None
    moderation: dict[str, Any] | None = None
    verbosity: Literal["low", "medium", "high"] | None = None
    prediction: dict[str, Any] | None = Field(None, description=_NO_EFFECT)
    service_tier: str | None = Field(None, description=_NO_EFFECT)
    store: bool | None = Field(None, description=_NO_EFFECT)
    metadata: dict[str, Any] | None = Field(None, description=_NO_EFFECT)
    safety_identifier: str | None = Field(None, description=_NO_EFFECT)
    prompt_cache_key: str | None = Field(None, description=_NO_EFFECT)
    prompt_cache_options: dict[str, Any] | None = Field(None, description=_NO_EFFECT)
    prompt_cache_retention: str | None = Field(None, description=_NO_EFFECT)

    @model_validator(mode="after")
    def _check_together(self) -> Self:
        if self.top_logprobs and not self.logprobs:
            raise ValueError("'top_logprobs' needs 'logprobs' to be true")
        choice = self.tool_choice
        if choice is not None and choice not in ("none", "auto"):
            names = [tool["function"]["name"] for tool in self.tools or ()]
            if not names:
                raise ValueError("'tool_choice' needs 'tools'")
            if isinstance(choice, dict) and choice["function"]["name"] not in names:
                raise ValueError(f"'tool_choice' names a tool that is not among 'tools': {', '.join(names)}")
        return self

    @property
    def token_limit(self) -> int | None:
        """Return the most tokens to generate, or None."""
        return self.max_completion_tokens if self.max_completion_tokens is not None else self.max_tokens

    @property
    def template_kwargs(self) -> dict[str, Any]:
        """Return the variables for the chat template, from all the fields that set one.

        Raises: BadRequest: `chat_template_kwargs` is a string, but no JSON object.
        """
        given = self.chat_template_kwargs
        if isinstance(given, str):
            try:
                given = orjson.loads(given)
            except orjson.JSONDecodeError as error:
                raise BadRequest(
                    f"'chat_template_kwargs' is not JSON: {error}.", param="chat_template_kwargs"
                ) from None
            if not isinstance(given, dict):
                raise BadRequest("'chat_template_kwargs' must be a JSON object.", param="chat_template_kwargs")
        kwargs = dict(given or {})
        for name in ("messages", "tools", "add_generation_prompt"):
            if name in kwargs:
                text = f"'chat_template_kwargs' must not set '{name}', which is a field of its own."
                raise BadRequest(text, param="chat_template_kwargs")
        if self.enable_thinking is not None:
            kwargs["enable_thinking"] = self.enable_thinking
        if self.reasoning_effort is not None:
            kwargs["reasoning_effort"] = self.reasoning_effort
        if self.documents is not None:
            kwargs["documents"] = self.documents
        return kwargs


class TopLogprob(ResponseModel):
    """A token that could have stood here."""

    token: str
    logprob: float
    bytes: list[int] | None = None


class TokenLogprob(TopLogprob):
    """A token of the answer, and those that could have stood in its place."""

    top_logprobs: list[TopLogprob] = Field(default_factory=list)


class Logprobs(ResponseModel):
    """Log probabilities of a choice's tokens."""

    content: list[TokenLogprob] | None = None


class AnsweredFunction(ResponseModel):
    """A call of a function."""

    name: str | None = None
    arguments: str | None = None


class AnsweredToolCall(ResponseModel):
    """A call of a tool; `index` is given in chunks."""

    id: str | None = None
    type: Literal["function"] | None = "function"
    function: AnsweredFunction
    index: int | None = None


class AnsweredMessage(ResponseModel):
    """The model's message."""

    role: Literal["assistant"] = "assistant"
    content: str | None
    reasoning_content: str | None = None
    tool_calls: list[AnsweredToolCall] | None = None


class Choice(ResponseModel):
    """One answer."""

    index: int
    message: AnsweredMessage
    logprobs: Logprobs | None = None
    finish_reason: FinishReason


class ChatCompletion(ResponseModel):
    """The answer to a request that is not streamed."""

    id: str
    object: Literal["chat.completion"] = "chat.completion"
    created: int
    model: str
    choices: list[Choice]
    usage: Usage


class Delta(ResponseModel):
    """What a chunk adds to the message."""

    role: Literal["assistant"] | None = None
    content: str = ""
    reasoning_content: str | None = None
    tool_calls: list[AnsweredToolCall] | None = None


class ChunkChoice(ResponseModel):
    """What a chunk adds to one answer."""

    index: int
    delta: Delta
    logprobs: Logprobs | None = None
    finish_reason: FinishReason | None = None


class ChatChunk(ResponseModel):
    """One event of a streamed answer."""

    id: str
    object: Literal["chat.completion.chunk"] = "chat.completion.chunk"
    created: int
    model: str
    choices: list[ChunkChoice]
    usage: Usage | None = None


def chat_answer(model: str, choices: Sequence[Mapping[str, Any]], usage: Mapping[str, Any]) -> dict[str, Any]:
    """Return the answer to a request that is not streamed, from choices as `Choice` describes them."""
    return {
        "id": make_id("chatcmpl"),
        "object": "chat.completion",
        "created": now(),
        "model": model,
        "choices": list(choices),
        "usage": dict(usage),
    }


class ChatWriter:
    """Write the chunks of one streamed answer as JSON bytes.

    What is the same in all of them is written once. Every delta has a `content` that is a string: LangChain's
    integration for Xinference (0.1.2) indexes it in each chunk, and others concatenate it.
    """

    __slots__ = ("_head",)

    def __init__(self, model: str) -> None:
        head = {"id": make_id("chatcmpl"), "object": "chat.completion.chunk", "created": now(), "model": model}
        self._head = orjson.dumps(head)[:-1] + b',"choices":['

    def start(self, index: int = 0) -> bytes:
        """Return the first chunk of a choice, which names the role."""
        return self._head + (
            b'{"index":%d,"delta":{"role":"assistant","content":""},"logprobs":null,"finish_reason":null}]}' % index
        )

    def text(self, text: str, index: int = 0) -> bytes:
        """Return a chunk that adds text."""
        return self._head + (
            b'{"index":%d,"delta":{"content":%b},"logprobs":null,"finish_reason":null}]}' % (index, orjson.dumps(text))
        )

    def finish(self, reason: FinishReason, index: int = 0) -> bytes:
        """Return the last chunk of a choice."""
        return self._head + (
            b'{"index":%d,"delta":{"content":""},"logprobs":null,"finish_reason":"%b"}]}' % (index, reason.encode())
        )

    def chunk(
        self,
        delta: Mapping[str, Any],
        index: int = 0,
        logprobs: Mapping[str, Any] | None = None,
        finish_reason: FinishReason | None = None,
    ) -> bytes:
        """Return a chunk with any delta; a missing or null `content` becomes an empty string."""
        choice = {
            "index": index,
            "delta": {**delta, "content": delta.get("content") or ""},
            "logprobs": logprobs,
            "finish_reason": finish_reason,
        }
        return self._head + orjson.dumps(choice) + b"]}"

    def usage(self, prompt_tokens: int, completion_tokens: int) -> bytes:
        """Return the chunk that ends a stream whose request asked for its usage."""
        return self._head + b'],"usage":%b}' % orjson.dumps(usage_dict(prompt_tokens, completion_tokens))
