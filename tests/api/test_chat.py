"""The request model of chats: what is taken, what is refused, and how; and the chunks."""

import inspect
import json
from typing import Any

import openai
import pytest
from openai.resources.chat import Completions
from openai.types.chat import ChatCompletion as OpenAICompletion
from openai.types.chat import ChatCompletionChunk as OpenAIChunk
from pydantic import BaseModel, ValidationError

from modelrack.api.chat import ChatChunk, ChatCompletion, ChatRequest, ChatWriter, chat_answer
from modelrack.api.common import usage_dict
from modelrack.api.messages import text_messages
from modelrack.errors import BadRequest, UnsupportedParameter

HELLO = [{"role": "user", "content": "hello"}]


def chat(**fields: Any) -> ChatRequest:
    return ChatRequest.model_validate({"model": "m", "messages": HELLO} | fields)


def refusal(**fields: Any) -> str:
    with pytest.raises(ValidationError) as caught:
        chat(**fields)
    return str(caught.value)


def parameters(method: Any) -> set[str]:
    names = set(inspect.signature(method).parameters)
    return names - {"self", "extra_headers", "extra_query", "extra_body", "timeout"}


def test_every_field_of_openais_sdk_is_known() -> None:
    assert openai.VERSION
    assert parameters(Completions.create) - set(ChatRequest.model_fields) == set()


def test_every_field_of_xinferences_client_is_known() -> None:
    """Source: PytorchGenerateConfig and CreateChatCompletion in types.py of xinference-client 4.1."""
    known = set(ChatRequest.model_fields)
    config = (
        "temperature repetition_penalty top_p top_k stream max_tokens echo stop stop_token_ids stream_interval model"
    )
    assert set(config.split()) <= known
    more = "tools lora_name stream_options request_id cache_salt ignore_eos chat_template_kwargs mm_processor_kwargs"
    assert set(more.split()) <= known


def test_null_is_not_given() -> None:
    nulls = {name: None for name in ChatRequest.model_fields if name not in ("model", "messages")}
    request = chat(**nulls)
    assert (request.stream, request.token_limit, request.include_usage, request.template_kwargs) == (
        None,
        None,
        False,
        {},
    )


@pytest.mark.parametrize(
    "message",
    [
        {"role": "system", "content": "be brief"},
        {"role": "developer", "content": [{"type": "text", "text": "be brief"}]},
        {"role": "user", "content": "x", "name": "anna"},
        {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:,", "detail": "low"}}]},
        {"role": "user", "content": [{"type": "input_audio", "input_audio": {"data": "", "format": "wav"}}]},
        {"role": "user", "content": [{"type": "video_url", "video_url": {"url": "data:,"}}]},
        {"role": "assistant", "content": None, "tool_calls": [{"function": {"name": "f", "arguments": "{}"}}]},
        {"role": "assistant", "content": "x", "refusal": None, "annotations": [], "audio": None, "function_call": None},
        {"role": "assistant", "content": "x", "reasoning_content": "hm", "tool_calls": None},
        {"role": "tool", "content": "4", "tool_call_id": "call-1"},
    ],
)
def test_messages_stay_as_they_came(message: dict[str, Any]) -> None:
    assert chat(messages=[message]).messages == [message]


@pytest.mark.parametrize(
    "messages",
    [
        [],
        "hello",
        [{}],
        [{"role": "king", "content": "x"}],
        [{"role": "user"}],
        [{"role": "user", "content": None}],
        [{"role": "user", "content": 5}],
        [{"role": "user", "content": [{"type": "text"}]}],
        [{"role": "user", "content": [{"type": "smell"}]}],
        [{"role": "user", "content": "x", "colour": "red"}],
        [{"role": "assistant", "tool_calls": [{"function": {"name": "f"}}]}],
    ],
)
def test_bad_messages(messages: Any) -> None:
    assert "messages" in refusal(messages=messages)


@pytest.mark.parametrize(
    ("field", "good", "bad"),
    [
        ("temperature", [0, 2], [-0.1, 2.1, float("nan"), "hot"]),
        ("top_p", [0.01, 1], [0, 1.1]),
        ("n", [1, 128], [0, 129]),
        ("top_logprobs", [0], [-1, 21]),
        ("max_tokens", [1], [0, -1, 1.5]),
        ("max_completion_tokens", [1], [0]),
        ("top_k", [-1, 0, 40], [-2]),
        ("min_p", [0, 1], [-0.1]),
        ("frequency_penalty", [-2, 2], [3]),
        ("presence_penalty", [-2, 2], [-3]),
        ("repetition_penalty", [1.1], [0]),
        ("seed", [0, -1, 2**63 - 1], [2**63]),
        ("stop", ["a", ["a", "b"], []], [[""], 5, [5]]),
        ("stop_token_ids", [5, [5, 6]], ["x"]),
        ("logit_bias", [{"5": -100}], [{"5": 101}]),
        ("response_format", [{"type": "text"}, {"type": "json_object"}], [{"type": "xml"}, {}]),
        ("tool_choice", ["auto", "none"], ["always", "required"]),
        ("chat_template_kwargs", [{}, "{}"], [5]),
        ("guided_choice", [["a"]], [[]]),
        ("model", ["m"], ["", None]),
    ],
)
def test_bounds(field: str, good: list[Any], bad: list[Any]) -> None:
    for value in good:
        assert getattr(chat(**{field: value}), field) is not None
    for value in bad:
        refusal(**{field: value})


def test_spellings() -> None:
    assert chat(max_tokens=5).token_limit == 5
    assert chat(max_tokens=5, max_completion_tokens=7).token_limit == 7
    assert chat(repeat_penalty=1.5).repetition_penalty == 1.5
    assert chat(repeat_penalty=1.5, repetition_penalty=1.2).repetition_penalty == 1.2
    assert chat(stop="a").stop == ["a"]
    assert chat(stop_token_ids=5).stop_token_ids == [5]
    assert chat(stream_options={"include_usage": True}).include_usage
    kwargs = chat(chat_template_kwargs='{"a": 1}', enable_thinking=False, reasoning_effort="low").template_kwargs
    assert kwargs == {"a": 1, "enable_thinking": False, "reasoning_effort": "low"}
    for text in ("{", "[]"):
        with pytest.raises(BadRequest, match="chat_template_kwargs"):
            _ = chat(chat_template_kwargs=text).template_kwargs


def test_what_contradicts_itself() -> None:
    tool = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
    named = {"type": "function", "function": {"name": "f"}}
    assert chat(tools=[tool], tool_choice=named).tool_choice == named
    assert "not among" in refusal(tools=[tool], tool_choice={"type": "function", "function": {"name": "g"}})
    assert "needs 'tools'" in refusal(tool_choice=named)
    assert "needs 'logprobs'" in refusal(top_logprobs=3)
    assert "only one of" in refusal(guided_regex="a", guided_choice=["a"])


def test_text_of_messages() -> None:
    messages: list[dict[str, Any]] = [
        {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}], "name": None},
        {"role": "assistant", "content": None},
    ]
    assert text_messages(messages) == [{"role": "user", "content": "ab"}, {"role": "assistant", "content": ""}]
    with pytest.raises(UnsupportedParameter) as caught:
        text_messages([*messages, {"role": "user", "content": [{"type": "image_url", "image_url": {"url": ""}}]}])
    assert caught.value.param == "messages.2.content.0"


def check(data: bytes | dict[str, Any], *models: type[BaseModel]) -> dict[str, Any]:
    """Check an answer against our model and the SDK's, and return it."""
    value: dict[str, Any] = json.loads(data) if isinstance(data, bytes) else data
    for model in models:
        model.model_validate(value)
    return value


def test_chunks_have_the_shape_that_clients_know() -> None:
    writer = ChatWriter('uid "quoted"')
    chunks = [
        writer.start(),
        writer.text('say "ünï"\n', 1),
        writer.chunk({"tool_calls": [{"index": 0, "id": "c", "type": "function", "function": {"name": "f"}}]}),
        writer.chunk({"content": None, "reasoning_content": "hm"}, 2, {"content": []}, "stop"),
        writer.finish("length"),
    ]
    values = [check(chunk, ChatChunk, OpenAIChunk) for chunk in chunks]
    assert len({value["id"] for value in values}) == 1
    assert all(b"\n" not in chunk for chunk in chunks)
    assert all(value["model"] == 'uid "quoted"' for value in values)
    assert all(isinstance(value["choices"][0]["delta"]["content"], str) for value in values)
    assert values[1]["choices"][0] == {
        "index": 1,
        "delta": {"content": 'say "ünï"\n'},
        "logprobs": None,
        "finish_reason": None,
    }
    assert values[4]["choices"][0]["finish_reason"] == "length"
    last = check(writer.usage(3, 4), ChatChunk, OpenAIChunk)
    assert (last["choices"], last["usage"]["total_tokens"]) == ([], 7)


def test_an_answer_has_the_shape_that_clients_know() -> None:
    choice = {"index": 0, "message": {"role": "assistant", "content": "x"}, "logprobs": None, "finish_reason": "stop"}
    answers = [chat_answer("m", [choice], usage_dict(1, 2)) for _ in range(2)]
    for answer in answers:
        check(answer, ChatCompletion, OpenAICompletion)
    assert answers[0]["id"] != answers[1]["id"]
    assert answers[0]["id"].startswith("chatcmpl-")
