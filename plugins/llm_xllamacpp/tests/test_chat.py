"""Chat completions of a real worker, compared with the engine used bare where there is something to compare."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import orjson
import pytest
from llama_worker import UID, Start, WorkerProcess

from modelrack.testing.conformance import TOOLS

CHAT = "/v1/chat/completions"
HELLO = [{"role": "user", "content": "hello"}]


def text_of(events: list[dict[str, Any]], index: int = 0) -> str:
    """Return the text that a stream's chunks add up to."""
    return "".join(
        choice["delta"]["content"] for event in events for choice in event["choices"] if choice["index"] == index
    )


def test_answer_has_the_shape_of_the_contract(worker: WorkerProcess) -> None:
    answer = worker.ok(CHAT, messages=HELLO, max_tokens=5, temperature=0)
    assert answer["object"] == "chat.completion"
    assert answer["model"] == UID
    assert answer["id"].startswith("chatcmpl-")
    (choice,) = answer["choices"]
    assert choice["finish_reason"] == "length"
    assert choice["message"] == {"role": "assistant", "content": choice["message"]["content"]}
    assert choice["message"]["content"]
    usage = answer["usage"]
    assert usage["completion_tokens"] == 5
    assert usage["total_tokens"] == usage["prompt_tokens"] + 5
    assert set(answer) == {"id", "object", "created", "model", "choices", "usage"}


def test_stream_keeps_the_contract(worker: WorkerProcess) -> None:
    """No null content, one id and time, no chunk without choices: llama.cpp's own streams break each of these."""
    events = worker.events(CHAT, messages=HELLO, max_tokens=12, temperature=0)
    assert len({event["id"] for event in events}) == 1
    assert len({event["created"] for event in events}) == 1
    assert {event["model"] for event in events} == {UID}
    assert {event["object"] for event in events} == {"chat.completion.chunk"}
    assert all(set(event) == {"id", "object", "created", "model", "choices"} for event in events)
    assert all(isinstance(choice["delta"]["content"], str) for event in events for choice in event["choices"])
    assert all(len(event["choices"]) == 1 for event in events)
    assert events[0]["choices"][0]["delta"]["role"] == "assistant"
    assert events[-1]["choices"][0]["finish_reason"] == "length"
    whole = worker.ok(CHAT, messages=HELLO, max_tokens=12, temperature=0)
    assert text_of(events) == whole["choices"][0]["message"]["content"]


def test_usage_comes_last_and_only_when_asked_for(worker: WorkerProcess) -> None:
    events = worker.events(CHAT, messages=HELLO, max_tokens=4, stream_options={"include_usage": True})
    assert events[-1]["choices"] == []
    assert events[-1]["usage"]["completion_tokens"] == 4
    assert all("usage" not in event for event in events[:-1])


def test_greedy_text_equals_that_of_the_bare_engine(worker: WorkerProcess, bare_text: str) -> None:
    answer = worker.ok(CHAT, messages=HELLO, max_tokens=24, temperature=0)
    assert answer["choices"][0]["message"]["content"] == bare_text


def test_greedy_text_is_the_same_in_a_batch(worker: WorkerProcess) -> None:
    def ask(number: int) -> str:
        answer = worker.ok(CHAT, messages=HELLO, max_tokens=24, temperature=0, stream=False)
        return str(answer["choices"][0]["message"]["content"])

    alone = ask(0)
    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(ask, range(8))) == {alone}


@pytest.mark.parametrize("stream", [False, True])
def test_n_gives_as_many_answers_and_adds_them_up(worker: WorkerProcess, stream: bool) -> None:
    """More answers than slots too; llama.cpp tells the usage of the first alone."""
    body = {"messages": HELLO, "max_tokens": 3, "n": 6, "seed": 1}
    if stream:
        events = worker.events(CHAT, **body, stream_options={"include_usage": True})
        assert {choice["index"] for event in events for choice in event["choices"]} == set(range(6))
        usage = events[-1]["usage"]
    else:
        answer = worker.ok(CHAT, **body)
        assert [choice["index"] for choice in answer["choices"]] == list(range(6))
        assert len({choice["message"]["content"] for choice in answer["choices"]}) > 1
        usage = answer["usage"]
    assert usage["completion_tokens"] == 18
    single = worker.ok(CHAT, messages=HELLO, max_tokens=3)["usage"]["prompt_tokens"]
    assert usage["prompt_tokens"] == single


def test_a_seed_repeats_an_answer(worker: WorkerProcess) -> None:
    texts = [
        worker.ok(CHAT, messages=HELLO, max_tokens=12, seed=seed)["choices"][0]["message"]["content"]
        for seed in (5, 5, 6)
    ]
    assert texts[0] == texts[1] != texts[2]


@pytest.mark.parametrize("stream", [False, True])
def test_logprobs_have_openais_shape(worker: WorkerProcess, stream: bool) -> None:
    body = {"messages": HELLO, "max_tokens": 5, "temperature": 0, "logprobs": True, "top_logprobs": 2}
    if stream:
        events = worker.events(CHAT, **body)
        found = [choice["logprobs"] for event in events for choice in event["choices"] if choice["logprobs"]]
        tokens = [token for logprobs in found for token in logprobs["content"]]
        text = text_of(events)
    else:
        choice = worker.ok(CHAT, **body)["choices"][0]
        tokens, text = choice["logprobs"]["content"], choice["message"]["content"]
    assert "".join(token["token"] for token in tokens) == text
    assert len(tokens) == 5
    for token in tokens:
        assert set(token) == {"token", "logprob", "bytes", "top_logprobs"}
        assert bytes(token["bytes"]).decode() == token["token"]
        assert token["logprob"] <= 0
        assert len(token["top_logprobs"]) == 2
        assert token["top_logprobs"][0]["token"] == token["token"]


def test_stop_ends_before_the_string(worker: WorkerProcess) -> None:
    text = worker.ok(CHAT, messages=HELLO, max_tokens=12, temperature=0)["choices"][0]["message"]["content"]
    stop = text[4:7]
    for events in (
        worker.ok(CHAT, messages=HELLO, max_tokens=12, temperature=0, stop=stop)["choices"],
        worker.ok(CHAT, messages=HELLO, max_tokens=12, temperature=0, stop=[stop, "zzz"])["choices"],
    ):
        assert events[0]["message"]["content"] == text[: text.index(stop)]
        assert events[0]["finish_reason"] == "stop"
    streamed = worker.events(CHAT, messages=HELLO, max_tokens=12, temperature=0, stop=stop)
    assert text_of(streamed) == text[: text.index(stop)]
    assert streamed[-1]["choices"][0]["finish_reason"] == "stop"


@pytest.mark.parametrize("stream", [False, True])
def test_stop_token_ids_end_the_answer(worker: WorkerProcess, stream: bool) -> None:
    body: dict[str, Any] = {"messages": HELLO, "max_tokens": 12, "temperature": 0}
    text = worker.ok(CHAT, **body)["choices"][0]["message"]["content"]
    tokens = worker.ok("/v1/tokenize", prompt=text, return_token_strs=True, add_special_tokens=False)
    stop, kept = tokens["tokens"][3], "".join(tokens["token_strs"][:3])
    assert stop not in tokens["tokens"][:3]
    body |= {"stop_token_ids": [stop], "stream_options": {"include_usage": True} if stream else None}
    if stream:
        events = worker.events(CHAT, **body)
        assert text_of(events) == kept
        assert events[-2]["choices"][0]["finish_reason"] == "stop"
        usage = events[-1]["usage"]
    else:
        answer = worker.ok(CHAT, **body)
        assert answer["choices"][0]["message"]["content"] == kept
        assert answer["choices"][0]["finish_reason"] == "stop"
        usage = answer["usage"]
    assert usage["completion_tokens"] == 4
    assert usage["prompt_tokens"] == worker.ok(CHAT, messages=HELLO, max_tokens=1)["usage"]["prompt_tokens"]


def test_logit_bias_forbids_a_token(worker: WorkerProcess) -> None:
    body: dict[str, Any] = {"messages": HELLO, "max_tokens": 1, "temperature": 0}
    first = worker.ok(CHAT, **body)["choices"][0]["message"]["content"]
    (token,) = worker.ok("/v1/tokenize", prompt=first, add_special_tokens=False)["tokens"]
    other = worker.ok(CHAT, **body, logit_bias={str(token): -100})["choices"][0]["message"]["content"]
    assert other != first
    forced = worker.ok(CHAT, **body, logit_bias={"72": 100})["choices"][0]["message"]["content"]
    assert forced == "H"
    assert worker.post(CHAT, **body, logit_bias={"99999": 1}).status_code == 400
    assert worker.post(CHAT, **body, logit_bias={"hello": 1}).status_code == 400


@pytest.mark.parametrize(
    "fields",
    [
        {"top_k": 1},
        {"top_p": 0.000001},
        {"min_p": 1.0},
        {"typical_p": 0.000001, "top_k": 1},
    ],
)
def test_sampling_fields_reach_the_sampler(worker: WorkerProcess, fields: dict[str, Any]) -> None:
    """Each of these leaves nothing but the likeliest token, so the answer is the greedy one."""
    greedy = worker.ok(CHAT, messages=HELLO, max_tokens=12, temperature=0)["choices"][0]["message"]["content"]
    answer = worker.ok(CHAT, messages=HELLO, max_tokens=12, temperature=2, **fields)
    assert answer["choices"][0]["message"]["content"] == greedy


@pytest.mark.parametrize("fields", [{"repetition_penalty": 5}, {"frequency_penalty": 2, "presence_penalty": 2}])
def test_penalties_change_a_repetitive_answer(worker: WorkerProcess, fields: dict[str, Any]) -> None:
    body: dict[str, Any] = {"messages": HELLO, "max_tokens": 100, "temperature": 0}
    plain = worker.ok(CHAT, **body)["choices"][0]["message"]["content"]
    assert worker.ok(CHAT, **body, **fields)["choices"][0]["message"]["content"] != plain


def test_a_prompt_that_is_too_long_is_refused_with_the_numbers(worker: WorkerProcess) -> None:
    response = worker.post(CHAT, messages=[{"role": "user", "content": "hello " * 1000}], max_tokens=2)
    assert response.status_code == 400
    error = response.json()["error"]
    assert error["code"] == "context_length_exceeded"
    assert error["context_length"] == 2048
    assert error["prompt_tokens"] > 2048
    assert str(error["prompt_tokens"]) in error["message"]
    streamed = worker.post(CHAT, messages=[{"role": "user", "content": "hello " * 1000}], stream=True)
    assert streamed.status_code == 400


def test_max_tokens_beyond_the_context_ends_with_length(worker: WorkerProcess) -> None:
    answer = worker.ok(CHAT, messages=HELLO, max_tokens=100_000, temperature=0, logit_bias={"414": -100})
    assert answer["choices"][0]["finish_reason"] == "length"
    assert answer["usage"]["total_tokens"] == 2048


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"min_tokens": 3}, "min_tokens"),
        ({"cache_salt": "x"}, "cache_salt"),
        ({"skip_special_tokens": False}, "skip_special_tokens"),
        ({"lora_name": "none"}, "lora_name"),
        ({"guided_regex": "((("}, "guided_regex"),
        ({"guided_regex": "(?=a)b"}, "guided_regex"),
        ({"guided_json": {"type": "nonsense"}}, "guided_json"),
        ({"guided_json": "{"}, "guided_json"),
        ({"guided_json": {"type": "string", "pattern": "((("}}, "guided_json"),
        ({"guided_grammar": "bad ::="}, "guided_grammar"),
        ({"guided_grammar": '\0root ::= "a"'}, "guided_grammar"),
        ({"guided_choice": [f"c{number}" for number in range(5000)]}, "guided_choice"),
        ({"guided_regex": "((a{100}){100}){100}"}, "guided_regex"),
        ({"guided_json": {"type": "object", "properties": {"a": {"$ref": "#"}}, "required": ["a"]}}, "guided_json"),
        ({"chat_template_kwargs": {"messages": []}}, "chat_template_kwargs"),
        ({"guided_grammar": "%llguidance {}\nstart: nothing"}, "guided_grammar"),
        ({"tools": TOOLS}, "tools"),
        ({"continue_final_message": True}, "messages"),
    ],
)
def test_what_cannot_be_honoured_is_refused_by_name(worker: WorkerProcess, fields: dict[str, Any], param: str) -> None:
    for stream in (False, True):
        response = worker.post(CHAT, messages=HELLO, max_tokens=2, stream=stream, **fields)
        assert response.status_code == 400, response.text
        assert response.json()["error"]["param"] == param


def test_images_need_a_projector(worker: WorkerProcess) -> None:
    part = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
    response = worker.post(CHAT, messages=[{"role": "user", "content": [{"type": "text", "text": "hi"}, part]}])
    assert response.status_code == 400
    assert response.json()["error"]["param"] == "messages.0.content.1"


def test_content_in_parts_is_joined(worker: WorkerProcess) -> None:
    parts = [{"type": "text", "text": "hel"}, {"type": "text", "text": "lo"}]
    body: dict[str, Any] = {"max_tokens": 6, "temperature": 0}
    one = worker.ok(CHAT, messages=[{"role": "user", "content": parts}], **body)
    assert one["choices"][0] == worker.ok(CHAT, messages=HELLO, **body)["choices"][0]


def test_guided_answers_satisfy_their_guide(worker: WorkerProcess) -> None:
    def ask(**fields: Any) -> str:
        choice = worker.ok(CHAT, messages=HELLO, max_tokens=60, seed=3, **fields)["choices"][0]
        assert choice["finish_reason"] == "stop", choice
        return str(choice["message"]["content"])

    schema = {
        "type": "object",
        "properties": {"a": {"type": "integer", "minimum": 0, "maximum": 99}, "b": {"enum": ["x", "y"]}},
        "required": ["a", "b"],
        "additionalProperties": False,
    }
    assert ask(guided_choice=["red", 'gr"een']) in ("red", 'gr"een')
    assert ask(guided_grammar='root ::= "yes" | "no"') in ("yes", "no")
    assert ask(guided_regex=r"^[0-9]{3}/(ab|cd)$")[3:] in ("/ab", "/cd")
    for fields in (
        {"guided_json": schema},
        {"guided_json": orjson.dumps(schema).decode()},
        {"response_format": {"type": "json_schema", "json_schema": {"name": "s", "schema": schema}}},
    ):
        value = orjson.loads(ask(**fields))
        assert 0 <= value["a"] <= 99
        assert value["b"] in ("x", "y")
    assert isinstance(orjson.loads(ask(response_format={"type": "json_object"}, temperature=0)), dict)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("choice", ["required", "switch", "get_weather"])
def test_forced_tools_are_called(worker: WorkerProcess, choice: str, stream: bool) -> None:
    """Random weights would never call a tool: that they do proves that they must."""
    named = {"type": "function", "function": {"name": choice}}
    body: dict[str, Any] = {
        "messages": HELLO,
        "tools": TOOLS,
        "tool_choice": "required" if choice == "required" else named,
        "max_tokens": 100,
        "seed": 2,
    }
    if stream:
        events = worker.events(CHAT, **body)
        pieces = [call for event in events for one in event["choices"] for call in one["delta"].get("tool_calls") or ()]
        name = pieces[0]["function"]["name"]
        assert pieces[0]["id"]
        assert {piece["index"] for piece in pieces} == {0}
        arguments = "".join(piece["function"]["arguments"] for piece in pieces)
        finish = events[-1]["choices"][0]["finish_reason"]
        assert text_of(events) == ""
    else:
        answer = worker.ok(CHAT, **body)["choices"][0]
        (call,) = answer["message"]["tool_calls"]
        assert call["type"] == "function"
        assert answer["message"]["content"] is None
        name, arguments, finish = call["function"]["name"], call["function"]["arguments"], answer["finish_reason"]
    assert finish == "tool_calls"
    assert name in ("switch", "get_weather") if choice == "required" else name == choice
    value = orjson.loads(arguments)
    assert isinstance(value["on"], bool) if name == "switch" else len(value["city"]) <= 8


def test_a_conversation_with_tool_calls_goes_on(worker: WorkerProcess) -> None:
    messages = [
        *HELLO,
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [{"id": "c", "type": "function", "function": {"name": "switch", "arguments": "{}"}}],
        },
        {"role": "tool", "tool_call_id": "c", "content": "done"},
    ]
    assert worker.ok(CHAT, messages=messages, max_tokens=3)["usage"]["prompt_tokens"] > 30


def test_a_final_message_is_continued_only_when_asked_for(worker: WorkerProcess) -> None:
    messages = [*HELLO, {"role": "assistant", "content": "I am"}]
    body: dict[str, Any] = {"messages": messages, "max_tokens": 3, "temperature": 0}
    answers = [worker.ok(CHAT, **body, **extra) for extra in ({}, {"continue_final_message": True})]
    prompts = [answer["usage"]["prompt_tokens"] for answer in answers]
    assert prompts[0] > prompts[1]
    assert not answers[1]["choices"][0]["message"]["content"].startswith("I am")


def test_template_variables_reach_the_template(start: Start, tiny_model: Path) -> None:
    template = (
        "{% for m in messages %}{{ m['content'] }}{% endfor %}"
        "{% if enable_thinking is defined and not enable_thinking %}!!!!{% endif %}{{ mood | default('') }}"
    )
    worker = start(tiny_model, chat_template=template, n_parallel=1)
    worker.wait("ready")

    def count(**fields: Any) -> int:
        return int(worker.ok(CHAT, messages=HELLO, max_tokens=1, **fields)["usage"]["prompt_tokens"])

    plain = count()
    assert count(enable_thinking=False) == plain + 4
    assert count(chat_template_kwargs={"mood": "??"}) == plain + 2
    assert worker.stop() == 0


def test_dry_reaches_the_sampler(worker: WorkerProcess) -> None:
    """A strong penalty on what is repeated makes a repetitive answer another one; switched off it changes nothing."""
    body: dict[str, Any] = {"messages": HELLO, "max_tokens": 100, "temperature": 0}
    plain = worker.ok(CHAT, **body)["choices"][0]["message"]["content"]
    strong = {"dry_multiplier": 50, "dry_base": 4, "dry_allowed_length": 1, "dry_sequence_breakers": ["\x01"]}
    assert worker.ok(CHAT, **body, **strong)["choices"][0]["message"]["content"] != plain
    assert worker.ok(CHAT, **body, dry_multiplier=0)["choices"][0]["message"]["content"] == plain
