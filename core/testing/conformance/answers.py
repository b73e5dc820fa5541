"""Read answers, whole or streamed, into one form, and check on the way that they have the shapes of the public API."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ...api.chat import ChatChunk, ChatCompletion, Logprobs
from ...api.common import Usage
from ...api.completions import Completion, CompletionChunk, CompletionLogprobs

__all__ = ["Answer", "Call", "Choice", "Token", "check_error", "read_answer", "read_events", "read_stream"]


@dataclass(slots=True)
class Call:
    """A tool call."""

    id: str = ""
    name: str = ""
    arguments: str = ""

    @property
    def value(self) -> Any:
        """Return the arguments as what they are in JSON."""
        return json.loads(self.arguments)


@dataclass(slots=True)
class Token:
    """A token with its log probability.

    Args:
        top: the likeliest tokens, best first.
        offset: where it begins in the text, in completions.
    """

    text: str
    logprob: float | None
    top: list[tuple[str, float]]
    offset: int | None = None
    data: bytes | None = None


@dataclass(slots=True)
class Choice:
    """One answer.

    Args:
        pieces: how many chunks added something to it.
    """

    text: str = ""
    reasoning: str = ""
    calls: list[Call] = field(default_factory=list)
    finish: str | None = None
    tokens: list[Token] | None = None
    pieces: int = 0

    @property
    def said(self) -> tuple[Any, ...]:
        """Return what must be the same whether an answer is streamed or not."""
        calls = [(call.name, call.arguments) for call in self.calls]
        tokens = None if self.tokens is None else [(one.text, one.offset) for one in self.tokens]
        return self.text, self.reasoning, calls, self.finish, tokens


@dataclass(slots=True)
class Answer:
    """An answer with all its choices."""

    choices: dict[int, Choice]
    usage: Usage | None

    @property
    def only(self) -> Choice:
        """Return its one choice."""
        assert list(self.choices) == [0], f"one choice was asked for, and {sorted(self.choices)} came"
        return self.choices[0]

    @property
    def text(self) -> str:
        """Return the text of its one choice."""
        return self.only.text

    @property
    def texts(self) -> list[str]:
        """Return the texts of all choices, in their order."""
        return [self.choices[index].text for index in sorted(self.choices)]

    @property
    def said(self) -> dict[int, tuple[Any, ...]]:
        """Return what must be the same whether an answer is streamed or not."""
        return {index: choice.said for index, choice in sorted(self.choices.items())}

    @property
    def counts(self) -> tuple[int, int]:
        """Return the counts of the prompt's and the answer's tokens."""
        assert self.usage is not None, "the answer has no usage"
        return self.usage.prompt_tokens, self.usage.completion_tokens

    @property
    def cached(self) -> int:
        """Return how many of the prompt's tokens came from a cache."""
        details = self.usage.prompt_tokens_details if self.usage is not None else None
        assert details is not None and details.cached_tokens is not None, "the usage names no cached_tokens"
        return details.cached_tokens


def read_answer(body: Any, uid: str) -> Answer:
    """Read an answer that came in one piece."""
    is_chat = body.get("object") == "chat.completion"
    whole = (ChatCompletion if is_chat else Completion).model_validate(body, strict=True)
    assert whole.model == uid, f"the answer's model is {whole.model!r}, not {uid!r}"
    assert whole.id.startswith("chatcmpl-" if is_chat else "cmpl-"), f"the answer's id is {whole.id!r}"
    assert [choice.index for choice in whole.choices] == list(range(len(whole.choices))), "choices are not in order"
    check_usage(whole.usage)
    choices = {}
    for choice in whole.choices:
        assert choice.finish_reason is not None, "a whole answer has a choice without a finish_reason"
        choices[choice.index] = one = Choice(finish=choice.finish_reason)
        message = getattr(choice, "message", None)
        if message is None:
            one.text = choice.text  # type: ignore[union-attr]
        else:
            _add(one, message.model_dump())
            assert message.content is not None or one.calls, "content may be null beside tool calls only"
        _add_tokens(one, choice.logprobs)
        _check_choice(one)
    return Answer(choices, whole.usage)


def read_events(text: str) -> list[dict[str, Any]]:
    """Return the events of a stream that ended well."""
    *events, done, rest = text.split("\n\n")
    assert (done, rest) == ("data: [DONE]", ""), f"the stream ends with {text[-200:]!r}"
    assert all(event.startswith("data: {") and "\n" not in event for event in events), "an event is no JSON object"
    return [json.loads(event.removeprefix("data: ")) for event in events]


def read_stream(events: Sequence[Mapping[str, Any]], uid: str, *, usage: bool) -> Answer:
    """Put a stream's events together.

    Args:
        usage: whether it was asked for.
    """
    assert events, "the stream has no events"
    errors = [event["error"] for event in events if "error" in event]
    assert not errors, f"the stream ended with an error: {errors[0]}"
    is_chat = events[0].get("object") == "chat.completion.chunk"
    model = ChatChunk if is_chat else CompletionChunk
    chunks: list[Any] = [model.model_validate(event, strict=True) for event in events]
    for name in ("id", "created", "model"):
        assert len({getattr(chunk, name) for chunk in chunks}) == 1, f"chunks of one stream differ in their {name}"
    assert chunks[0].model == uid, f"the stream's model is {chunks[0].model!r}, not {uid!r}"
    total: Usage | None = None
    if usage:
        last = chunks.pop()
        assert last.choices == [] and last.usage is not None, "the last chunk must have the usage, and no choices"
        total = last.usage
        check_usage(total)
    assert all(event.get("usage") is None for event in events[: len(chunks)]), "usage came where it was not asked for"
    assert all(chunk.choices for chunk in chunks), "a chunk has no choices"
    choices: dict[int, Choice] = {}
    for event, chunk in zip(events, chunks, strict=False):
        for raw, part in zip(event["choices"], chunk.choices, strict=True):
            _add_part(choices, raw, part, is_chat=is_chat)
    for one in choices.values():
        assert one.finish is not None, "a choice of the stream has no finish_reason"
        _check_choice(one)
    return Answer(choices, total)


def _add_part(choices: dict[int, Choice], raw: Mapping[str, Any], part: Any, *, is_chat: bool) -> None:
    is_first = part.index not in choices
    one = choices.setdefault(part.index, Choice())
    assert one.finish is None, "a chunk came after the finish_reason"
    if is_chat:
        assert raw["delta"].get("content", "") is not None, "a delta's content is null"
        assert not is_first or part.delta.role == "assistant", "the first delta does not name the role"
        delta = part.delta.model_dump()
        one.pieces += any(delta[name] for name in ("content", "reasoning_content", "tool_calls"))
        _add(one, delta)
    else:
        one.text += part.text
        one.pieces += bool(part.text)
    _add_tokens(one, part.logprobs)
    one.finish = part.finish_reason


def _add(one: Choice, delta: Mapping[str, Any]) -> None:
    one.text += delta["content"] or ""
    one.reasoning += delta["reasoning_content"] or ""
    for number, piece in enumerate(delta["tool_calls"] or ()):
        index = piece["index"] if piece["index"] is not None else number
        assert index <= len(one.calls), f"tool call {index} came before {len(one.calls)}"
        if index == len(one.calls):
            assert piece["id"] and piece["function"]["name"], "a tool call begins without its id or name"
            one.calls.append(Call())
        call, function = one.calls[index], piece["function"]
        call.id += piece["id"] or ""
        call.name += function["name"] or ""
        call.arguments += function["arguments"] or ""


def _add_tokens(one: Choice, logprobs: Logprobs | CompletionLogprobs | None) -> None:
    if logprobs is None:
        return
    one.tokens = one.tokens or []
    if isinstance(logprobs, Logprobs):
        for entry in logprobs.content or ():
            data = bytes(entry.bytes) if entry.bytes is not None else None
            top = [(other.token, other.logprob) for other in entry.top_logprobs]
            one.tokens.append(Token(entry.token, entry.logprob, top, None, data))
        return
    tops = logprobs.top_logprobs or [None] * len(logprobs.tokens)
    rows = zip(logprobs.tokens, logprobs.token_logprobs, tops, logprobs.text_offset, strict=True)
    for text, logprob, others, offset in rows:
        one.tokens.append(Token(text, logprob, list((others or {}).items()), offset))


def _check_choice(one: Choice) -> None:
    assert bool(one.calls) <= (one.finish in ("tool_calls", "length")), f"tool calls, but it ended with {one.finish!r}"
    ids = [call.id for call in one.calls]
    assert len(set(ids)) == len(ids), "two tool calls have one id"


def check_usage(usage: Usage) -> None:
    """Check that counts add up."""
    assert usage.prompt_tokens >= 0 and usage.completion_tokens >= 0, usage
    assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens, usage
    details = usage.prompt_tokens_details
    if details is not None and details.cached_tokens is not None:
        assert 0 <= details.cached_tokens <= usage.prompt_tokens, usage


def check_error(body: Any) -> dict[str, Any]:
    """Return the error of an error's body, whose shape both OpenAI's and Xinference's clients must be able to read."""
    assert isinstance(body, dict) and isinstance(body.get("error"), dict), f"this is no error's body: {body!r}"
    error: dict[str, Any] = body["error"]
    assert isinstance(error.get("message"), str) and error["message"], error
    assert {"type", "param", "code"} <= error.keys(), f"the error lacks type, param or code: {error}"
    assert body.get("detail") == error["message"], "'detail' is not the message"
    return error
