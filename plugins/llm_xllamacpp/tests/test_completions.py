"""Completions and tokens of a real worker."""

from typing import Any

import pytest
from llama_worker import UID, Start, WorkerProcess

from modelrack.testing.gguf import write_random_model

COMPLETIONS = "/v1/completions"


def test_answer_has_the_shape_of_the_contract(worker: WorkerProcess) -> None:
    answer = worker.ok(COMPLETIONS, prompt="hello", max_tokens=5, temperature=0)
    assert set(answer) == {"id", "object", "created", "model", "choices", "usage"}
    assert answer["object"] == "text_completion"
    assert answer["model"] == UID
    (choice,) = answer["choices"]
    assert set(choice) == {"index", "text", "logprobs", "finish_reason"}
    assert choice["finish_reason"] == "length"
    assert answer["usage"]["prompt_tokens"] == 3
    assert answer["usage"]["completion_tokens"] == 5


def test_stream_keeps_the_contract(worker: WorkerProcess) -> None:
    """llama.cpp begins with an event `null`, and its last one has the usage unasked."""
    events = worker.events(COMPLETIONS, prompt="hello", max_tokens=12, temperature=0)
    assert all(set(event) == {"id", "object", "created", "model", "choices"} for event in events)
    assert all(isinstance(event["choices"][0]["text"], str) for event in events)
    assert len({event["id"] for event in events}) == 1
    whole = worker.ok(COMPLETIONS, prompt="hello", max_tokens=12, temperature=0)
    assert "".join(event["choices"][0]["text"] for event in events) == whole["choices"][0]["text"]
    assert [event["choices"][0]["finish_reason"] for event in events][-2:] == [None, "length"]
    with_usage = worker.events(COMPLETIONS, prompt="hello", max_tokens=2, stream_options={"include_usage": True})
    assert with_usage[-1]["choices"] == []
    assert with_usage[-1]["usage"]["total_tokens"] == 5


@pytest.mark.parametrize("stream", [False, True])
def test_lists_of_prompts_times_n(worker: WorkerProcess, stream: bool) -> None:
    body: dict[str, Any] = {"prompt": ["ab", "hello"], "n": 2, "max_tokens": 3, "temperature": 0}
    singles = [worker.ok(COMPLETIONS, prompt=prompt, max_tokens=3, temperature=0) for prompt in body["prompt"]]
    expected = [single["choices"][0]["text"] for single in singles for _ in range(2)]
    if stream:
        events = worker.events(COMPLETIONS, **body, stream_options={"include_usage": True})
        texts = ["", "", "", ""]
        for event in events:
            for choice in event["choices"]:
                texts[choice["index"]] += choice["text"]
        usage = events[-1]["usage"]
    else:
        answer = worker.ok(COMPLETIONS, **body)
        assert [choice["index"] for choice in answer["choices"]] == [0, 1, 2, 3]
        texts, usage = [choice["text"] for choice in answer["choices"]], answer["usage"]
    assert texts == expected
    assert usage["prompt_tokens"] == sum(single["usage"]["prompt_tokens"] for single in singles)
    assert usage["completion_tokens"] == 12


def test_token_ids_as_prompt(worker: WorkerProcess) -> None:
    ids = worker.ok("/v1/tokenize", prompt="hello")["tokens"]
    body: dict[str, Any] = {"max_tokens": 6, "temperature": 0}
    text = worker.ok(COMPLETIONS, prompt="hello", **body)["choices"][0]["text"]
    assert worker.ok(COMPLETIONS, prompt=ids, **body)["choices"][0]["text"] == text
    assert worker.ok(COMPLETIONS, prompt=[ids, ids], **body)["choices"][1]["text"] == text
    response = worker.post(COMPLETIONS, prompt=[1, 100_000])
    assert response.status_code == 400
    assert response.json()["error"]["param"] == "prompt"


@pytest.mark.parametrize("stream", [False, True])
def test_echo_begins_with_the_prompt(worker: WorkerProcess, stream: bool) -> None:
    body: dict[str, Any] = {"prompt": ["ab", "hello"], "echo": True, "max_tokens": 2}
    if stream:
        texts = ["", ""]
        for event in worker.events(COMPLETIONS, **body):
            for choice in event["choices"]:
                texts[choice["index"]] += choice["text"]
    else:
        texts = [choice["text"] for choice in worker.ok(COMPLETIONS, **body)["choices"]]
    assert texts[0].startswith("ab")
    assert texts[1].startswith("hello")
    assert worker.post(COMPLETIONS, **{**body, "logprobs": 1}).status_code == 400


@pytest.mark.parametrize("stream", [False, True])
def test_logprobs_have_the_legacy_shape(worker: WorkerProcess, stream: bool) -> None:
    body: dict[str, Any] = {"prompt": "hello", "max_tokens": 5, "temperature": 0, "logprobs": 2}
    parts: list[dict[str, Any]]
    if stream:
        events = worker.events(COMPLETIONS, **body)
        parts = [event["choices"][0] for event in events]
    else:
        parts = worker.ok(COMPLETIONS, **body)["choices"]
    text = "".join(part["text"] for part in parts)
    found = [part["logprobs"] for part in parts if part["logprobs"]]
    tokens = [token for one in found for token in one["tokens"]]
    offsets = [offset for one in found for offset in one["text_offset"]]
    tops = [top for one in found for top in one["top_logprobs"]]
    values = [value for one in found for value in one["token_logprobs"]]
    assert "".join(tokens) == text
    assert len(tokens) == len(offsets) == len(tops) == len(values) == 5
    assert all(text[offset:].startswith(token) for token, offset in zip(tokens, offsets, strict=True))
    assert all(len(top) == 2 and max(top.values()) == value for top, value in zip(tops, values, strict=True))


def test_suffix_is_filled_in_where_the_model_can(worker: WorkerProcess, start: Start, tmp_path: Any) -> None:
    body: dict[str, Any] = {"prompt": "def f(x):", "suffix": "return x", "max_tokens": 4, "temperature": 0}
    filled = worker.ok(COMPLETIONS, **body)
    plain = worker.ok(COMPLETIONS, **{**body, "suffix": None})
    assert filled["usage"]["prompt_tokens"] > plain["usage"]["prompt_tokens"] + 3
    other = start(write_random_model(tmp_path / "plain.gguf", fill_in=False), n_parallel=1)
    other.wait("ready")
    response = other.post(COMPLETIONS, **body)
    assert response.status_code == 400
    assert response.json()["error"]["param"] == "suffix"
    assert other.stop() == 0


def test_an_empty_prompt_begins_a_text(worker: WorkerProcess) -> None:
    assert worker.ok(COMPLETIONS, prompt="", max_tokens=2)["usage"]["prompt_tokens"] == 1


@pytest.mark.parametrize("stream", [False, True])
def test_stop_and_stop_token_ids(worker: WorkerProcess, stream: bool) -> None:
    body: dict[str, Any] = {"prompt": "hello", "max_tokens": 12, "temperature": 0}
    text = worker.ok(COMPLETIONS, **body)["choices"][0]["text"]
    tokens = worker.ok("/v1/tokenize", prompt=text, return_token_strs=True, add_special_tokens=False)
    for extra, expected in (
        ({"stop": text[3:6]}, text[:3]),
        ({"stop_token_ids": [tokens["tokens"][4]]}, "".join(tokens["token_strs"][:4])),
    ):
        if stream:
            events = worker.events(COMPLETIONS, **body, **extra)
            found = "".join(event["choices"][0]["text"] for event in events)
            finish = events[-1]["choices"][0]["finish_reason"]
        else:
            (choice,) = worker.ok(COMPLETIONS, **body, **extra)["choices"]
            found, finish = choice["text"], choice["finish_reason"]
        assert found == expected
        assert finish == "stop"


def test_ignore_eos_goes_on_to_the_limit(worker: WorkerProcess) -> None:
    body: dict[str, Any] = {"prompt": "hello", "max_tokens": 5, "logit_bias": {"414": 100}}
    assert worker.ok(COMPLETIONS, **body)["usage"]["completion_tokens"] == 1
    assert worker.ok(COMPLETIONS, **body)["choices"][0]["finish_reason"] == "stop"


def test_guided_completions(worker: WorkerProcess) -> None:
    answer = worker.ok(COMPLETIONS, prompt="a", guided_choice=["red", "blue"], max_tokens=9)
    assert answer["choices"][0]["text"] in ("red", "blue")
    assert worker.post(COMPLETIONS, prompt="a", guided_regex="(((").json()["error"]["param"] == "guided_regex"


def test_tokenize_and_back(worker: WorkerProcess) -> None:
    text = "hello <|im_end|> wörld"
    found = worker.ok("/v1/tokenize", prompt=text, return_token_strs=True)
    assert found["count"] == len(found["tokens"]) == len(found["token_strs"])
    assert found["max_model_len"] == 2048
    assert 414 in found["tokens"]
    assert worker.ok("/detokenize", tokens=found["tokens"])["prompt"] == text
    assert worker.ok("/tokenize", prompt="")["tokens"] == []
    assert worker.ok("/v1/detokenize", tokens=[])["prompt"] == ""
    assert worker.post("/v1/detokenize", tokens=[100_000]).status_code == 400


def test_tokenize_a_chat_as_the_template_writes_it(worker: WorkerProcess) -> None:
    messages = [{"role": "user", "content": "hello"}]
    count = worker.ok("/v1/tokenize", messages=messages)["count"]
    assert count == worker.ok("/v1/chat/completions", messages=messages, max_tokens=1)["usage"]["prompt_tokens"]
    assert worker.ok("/v1/tokenize", messages=messages, add_generation_prompt=False)["count"] < count


def test_convert_ids_to_tokens_names_the_vocabulary(worker: WorkerProcess) -> None:
    assert worker.ok("/v1/convert_ids_to_tokens", input=[72, 414]) == ["H", "<|im_end|>"]
    assert worker.ok("/v1/convert_ids_to_tokens", input=[[32], []]) == [["Ġ"], []]
    assert worker.post("/v1/convert_ids_to_tokens", input=[100_000]).status_code == 400
