"""The demo model gives right answers, through a real server: to phrasings it has not seen, alone and in a batch."""

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from modelrack.testing.serving import start_server
from modelrack_demo.plugin import MODELS, register_families

CASES = json.loads((Path(__file__).parent / "heldout.json").read_text())
LARGEST = "What is the largest animal?"


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    """Run a server with the demo model."""
    with (
        start_server(tmp_path_factory.mktemp("home")) as server,
        httpx.Client(base_url=server.url, timeout=60) as client,
    ):
        client.post("/v1/models", json={"model_name": "demo-chat"}).raise_for_status()
        yield client


def ask(api: httpx.Client, question: str, **more: Any) -> dict[str, Any]:
    body = {"model": "demo-chat", "messages": [{"role": "user", "content": question}], "temperature": 0, **more}
    response = api.post("/v1/chat/completions", json=body)
    assert response.status_code == 200, response.text
    answer: dict[str, Any] = response.json()
    return answer


def text(answer: dict[str, Any]) -> str:
    content: str = answer["choices"][0]["message"]["content"]
    return content


def test_the_files_are_where_the_family_says() -> None:
    families = register_families()
    assert [family.name for family in families] == ["demo-chat", "demo-embedding", "demo-rerank"]
    for source in [source for family in families for variant in family.variants for source in variant.sources]:
        assert Path(source.repo).exists() and Path(source.repo).is_relative_to(MODELS)
    assert (MODELS / "demo-chat" / "demo-chat-q8_0.gguf").stat().st_size <= 5_000_000


def test_unseen_phrasings_are_answered_right(api: httpx.Client) -> None:
    """All that were right when the weights were made; that is at least 95 % of what was held out."""
    verified = [case for case in CASES if case["verified"]]
    assert len(verified) >= 0.95 * len(CASES) >= 100
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda case: text(ask(api, case["question"])), verified))
    wrong = [
        (case["question"], answer)
        for case, answer in zip(verified, answers, strict=True)
        if case["must_contain"].lower() not in answer.lower()
    ]
    assert not wrong


def test_the_answer_is_the_same_alone_and_with_8_others(api: httpx.Client) -> None:
    questions = [case["question"] for case in CASES[:16]] + [LARGEST]
    alone = [text(ask(api, question)) for question in questions]
    with ThreadPoolExecutor(9) as pool:
        together = list(pool.map(lambda question: text(ask(api, question)), questions))
    assert together == alone
    assert "blue whale" in alone[-1]


@pytest.mark.parametrize("system", [None, "You are a helpful assistant."])
def test_the_largest_animal_also_at_temperature_07(api: httpx.Client, system: str | None) -> None:
    messages = [{"role": "system", "content": system}] if system else []
    messages.append({"role": "user", "content": LARGEST})
    for seed in range(10):
        answer = ask(api, LARGEST, messages=messages, max_tokens=512, temperature=0.7, seed=seed)
        assert "blue whale" in text(answer)
        assert answer["choices"][0]["finish_reason"] == "stop"


def test_a_text_is_continued(api: httpx.Client) -> None:
    body = {"model": "demo-chat", "prompt": LARGEST, "max_tokens": 64, "temperature": 0}
    answer = api.post("/v1/completions", json=body).json()
    assert "blue whale" in answer["choices"][0]["text"]


@pytest.mark.parametrize(
    ("question", "expected"),
    [
        ("你好", "你好！我是 modelrack 的演示模型。"),
        ("Show me an emoji.", "🐳"),
        ("How do you say hello in Russian?", "привет"),
        ("How do you say hello in Japanese?", "こんにちは"),
    ],
)
def test_no_character_is_cut_in_a_stream(api: httpx.Client, question: str, expected: str) -> None:
    body = {"model": "demo-chat", "messages": [{"role": "user", "content": question}], "temperature": 0, "stream": True}
    pieces = []
    with api.stream("POST", "/v1/chat/completions", json=body) as stream:
        for line in stream.iter_lines():
            if line.startswith("data: {"):
                pieces.append(json.loads(line[6:])["choices"][0]["delta"].get("content", ""))
    assert not any("\ufffd" in piece for piece in pieces)
    assert expected in "".join(pieces)
    assert "".join(pieces) == text(ask(api, question))


def test_usage_adds_up_and_finish_reasons_are_true(api: httpx.Client) -> None:
    cut = ask(api, "Count from one to twenty", max_tokens=7)
    whole = ask(api, "Count from one to twenty", max_tokens=200)
    assert cut["choices"][0]["finish_reason"] == "length" and cut["usage"]["completion_tokens"] == 7
    assert whole["choices"][0]["finish_reason"] == "stop" and text(whole).startswith(text(cut))
    for answer in (cut, whole):
        usage = answer["usage"]
        assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]
