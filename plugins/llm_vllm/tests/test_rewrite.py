"""vLLM's answers and errors on their way to the client."""

import json
from typing import Any

import pytest
from vllm_plans import make_served

from modelrack.api.chat import ChatRequest
from modelrack_llm_vllm.chats import ask_chat
from modelrack_llm_vllm.faults import explain, is_overflow, read_fault
from modelrack_llm_vllm.requests import Ask
from modelrack_llm_vllm.rewrite import Rewriter, make_rewriter

_TOOL = {"type": "function", "function": {"name": "switch"}}
_CALL = '<tool_call>\n{"name": "switch", "arguments": {"on": true}}\n</tool_call>'


def _event(choice: dict[str, Any] | None, **more: Any) -> bytes:
    chunk = {
        "id": "chatcmpl-1",
        "object": "chat.completion.chunk",
        "model": "it",
        "choices": [choice] if choice else [],
    }
    return b"data: " + json.dumps({**chunk, **more}, separators=(",", ":")).encode() + b"\n\n"


def _delta(index: int = 0, finish: str | None = None, **delta: Any) -> bytes:
    return _event({"index": index, "delta": delta, "logprobs": None, "finish_reason": finish})


def _reading(**fields: Any) -> Rewriter:
    request = ChatRequest(model="it", messages=[{"role": "user", "content": "hi"}], **fields)
    ask = ask_chat(request, make_served(), "id-1")
    return make_rewriter("it", ask, reads_natively=False, one_call=request.parallel_tool_calls is False)


def _deltas(data: bytes) -> list[dict[str, Any]]:
    events = [json.loads(one.removeprefix(b"data: ")) for one in data.split(b"\n\n") if one]
    return [choice for event in events for choice in event["choices"]]


def test_plain_answers_pass_byte_by_byte() -> None:
    rewriter = make_rewriter("it", Ask("/v1/chat/completions", {"model": "it"}), reads_natively=False, one_call=False)
    for data in (_delta(content="a\n\nb"), b"data: [DONE]\n\n", b": ping\n\n"):
        assert rewriter.events(data) == data
    assert rewriter.whole(b'{"x": 1}') == b'{"x": 1}'


def test_an_adapters_name_is_not_seen_and_only_the_models_place_is_changed() -> None:
    ask = Ask("/v1/completions", {"model": "modelrack-lora:a"})
    rewriter = make_rewriter("it", ask, reads_natively=False, one_call=False)
    said = json.dumps('"model":"modelrack-lora:a"')
    event = b'data: {"id":"1","model":"modelrack-lora:a","choices":[{"text":%b}]}\n\n' % said.encode()
    assert rewriter.events(event) == event.replace(b'"model":"modelrack-lora:a"', b'"model":"it"', 1)
    assert json.loads(rewriter.whole(event[6:]))["model"] == "it"


def test_calls_are_read_out_of_streams_wherever_the_pieces_end() -> None:
    for size in (1, 3, 7, 100):
        rewriter = _reading(tools=[_TOOL])
        data = rewriter.events(_delta(role="assistant", content=""))
        for place in range(0, len(_CALL), size):
            data += rewriter.events(_delta(content=_CALL[place : place + size]))
        data += rewriter.events(_delta(content="", finish="stop")) + rewriter.rest()
        choices = _deltas(data)
        assert choices[0]["delta"] == {"role": "assistant", "content": ""}
        assert all(type(choice["delta"]["content"]) is str for choice in choices)
        calls = [call for choice in choices for call in choice["delta"].get("tool_calls", ())]
        assert calls[0]["id"] and calls[0]["function"]["name"] == "switch"
        assert "".join(call["function"]["arguments"] for call in calls) == '{"on": true}'
        assert choices[-1]["finish_reason"] == "tool_calls"


def test_calls_are_read_out_of_whole_answers() -> None:
    choice = {"index": 0, "message": {"role": "assistant", "content": f"<think>a</think>{_CALL}"}, "logprobs": None}
    body = json.dumps({"model": "x", "choices": [{**choice, "finish_reason": "stop", "stop_reason": None}]})
    (answer,) = json.loads(_reading(tools=[_TOOL]).whole(body.encode()))["choices"]
    (call,) = answer["message"]["tool_calls"]
    assert call["function"] == {"name": "switch", "arguments": '{"on": true}'} and "index" not in call
    assert answer["message"]["reasoning_content"] == "a" and answer["message"]["content"] is None
    assert answer["finish_reason"] == "tool_calls"


def test_a_call_that_is_cut_off_ended_by_its_length() -> None:
    rewriter = _reading(tools=[_TOOL])
    data = rewriter.events(_delta(content=_CALL[:30])) + rewriter.events(_delta(content="", finish="length"))
    assert _deltas(data)[-1]["finish_reason"] == "length"


def test_of_several_calls_one_is_given_where_more_must_not_be() -> None:
    rewriter = _reading(tools=[_TOOL], parallel_tool_calls=False)
    data = rewriter.events(_delta(content=_CALL + _CALL, finish="stop"))
    assert len({call["index"] for one in _deltas(data) for call in one["delta"].get("tool_calls", ())}) == 1


def test_each_of_several_answers_is_read_by_itself() -> None:
    rewriter = _reading(n=2)
    data = b""
    for piece in ("<thi", "nk>a", "</think>b"):
        data += rewriter.events(_delta(0, content=piece)) + rewriter.events(_delta(1, content=f"{piece}!"))
    for index in (0, 1):
        data += rewriter.events(_delta(index, content="", finish="stop"))
    said = {0: "", 1: ""}
    for choice in _deltas(data):
        said[choice["index"]] += choice["delta"]["content"]
    assert said == {0: "b!"[:1], 1: "<thi!nk>a!</think>b!"}


def test_reasoning_that_vllm_has_read_gets_the_name_that_clients_know() -> None:
    ask = Ask("/v1/chat/completions", {"model": "it"})
    rewriter = make_rewriter("it", ask, reads_natively=True, one_call=False)
    (choice,) = _deltas(rewriter.events(_delta(reasoning="so", content=None)))
    assert choice["delta"] == {"reasoning_content": "so", "content": ""}
    named = [{"index": 0, "id": "c", "function": {"name": "switch", "arguments": "{}"}}]
    rewriter.events(_delta(tool_calls=named))
    assert _deltas(rewriter.events(_delta(finish="stop")))[0]["finish_reason"] == "tool_calls"


def _tops(*pairs: tuple[str, float]) -> list[dict[str, Any]]:
    return [{"token": token, "logprob": value, "bytes": None} for token, value in pairs]


def test_alternatives_are_in_order_and_as_many_as_were_asked_for() -> None:
    ask = Ask("/v1/chat/completions", {"model": "it"}, logprobs=2)
    rewriter = make_rewriter("it", ask, reads_natively=False, one_call=False)
    entry = {"token": "c", "logprob": -3.0, "top_logprobs": _tops(("c", -3.0), ("a", -0.1), ("b", -2.0))}
    end = {"token": "<eos>", "logprob": -0.1, "top_logprobs": []}
    choice = {"index": 0, "message": {"role": "assistant", "content": "c"}, "stop_reason": None}
    choice |= {"finish_reason": "stop", "logprobs": {"content": [entry, end]}}
    (answer,) = json.loads(rewriter.whole(json.dumps({"model": "x", "choices": [choice]}).encode()))["choices"]
    (told,) = answer["logprobs"]["content"]
    assert [one["token"] for one in told["top_logprobs"]] == ["a", "b"]


def test_completions_lose_the_token_that_ended_them_and_keep_the_others() -> None:
    ask = Ask("/v1/completions", {"model": "it"}, logprobs=1)
    for stop_reason, count in ((None, 1), (5, 1), ("stop string", 2)):
        logprobs = {
            "tokens": ["a", ""],
            "token_logprobs": [-0.5, -0.1],
            "top_logprobs": [{"a": -0.5, "b": -0.4}, {"": -0.1}],
            "text_offset": [0, 1],
        }
        choice = {"index": 0, "text": "a", "finish_reason": "stop", "stop_reason": stop_reason, "logprobs": logprobs}
        rewriter = make_rewriter("it", ask, reads_natively=False, one_call=False)
        (answer,) = json.loads(rewriter.whole(json.dumps({"model": "x", "choices": [choice]}).encode()))["choices"]
        told = answer["logprobs"]
        assert {len(values) for values in told.values()} == {count}
        assert told["top_logprobs"][0] == {"b": -0.4}


def test_usage_passes() -> None:
    usage = {"prompt_tokens": 3, "total_tokens": 5, "completion_tokens": 2}
    assert json.loads(_reading().events(_event(None, usage=usage))[6:])["usage"] == usage


# Errors


def test_a_failure_inside_a_stream_is_an_event_in_our_shape() -> None:
    event = b'data: {"error":{"message":"gone","type":"InternalServerError","param":null,"code":500}}\n\n'
    for rewriter in (Rewriter(), _reading()):
        data = json.loads(rewriter.events(event)[6:])
        assert data["detail"] == data["error"]["message"] and data["error"]["code"] == "engine_error"


@pytest.mark.parametrize(
    ("error", "status", "param", "code"),
    [
        (
            {"message": "no (parameter=max_tokens, value=5)", "param": "max_tokens", "code": 400},
            400,
            "max_tokens",
            None,
        ),
        ({"message": "x", "param": "input_text", "code": 400}, 400, "prompt", None),
        ({"message": "The model `a` does not exist.", "code": 404}, 404, "model", "model_not_found"),
        ({"message": "cannot accept: the queue is full", "code": 503}, 429, None, "too_many_requests"),
        ({"message": "scaling", "code": 503}, 503, None, "model_not_ready"),
        ({"message": "EngineCore has died", "code": 500}, 500, None, "engine_error"),
        ("Unauthorized", 401, None, None),
    ],
)
def test_errors_are_put_into_our_shape(error: Any, status: int, param: str | None, code: str | None) -> None:
    found = explain(error, 401)
    assert (found.status if status != 401 else 401) == status and found.param == param
    assert code is None or found.code == code
    assert "parameter=" not in found.message


def test_answers_that_are_no_errors_of_vllm_are_errors_still() -> None:
    for body in (b"", b"Internal Server Error", b"[]", b'{"error": null}'):
        assert read_fault(500, body).status == 500


def test_prompts_that_are_too_long_are_known() -> None:
    text = "This model's maximum context length is 512 tokens. However, your prompt contains at least 513 input tokens."
    assert is_overflow(explain({"message": text, "code": 400}))
    assert not is_overflow(explain({"message": "n must be 1", "code": 400}))
