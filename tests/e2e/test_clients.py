"""Released clients of Xinference's and OpenAI's APIs talk to this server as they are."""

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import openai
import pytest

from modelrack.testing.serving import Server
from releases import install_client

SESSIONS = Path(__file__).parent / "clients"
QUESTION = "What is the largest animal?"

Session = Callable[[str], dict[str, Any]]


def run_session(name: str, url: str, uid: str, path: Path | None = None) -> dict[str, Any]:
    """Run one of the sessions in a process of its own and return what it saw."""
    done = subprocess.run(
        [sys.executable, str(SESSIONS / f"{name}_session.py"), url, uid],
        env={**os.environ, "PYTHONPATH": str(path or "")},
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert done.returncode == 0, done.stderr
    seen: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return seen


def describes(description: dict[str, Any]) -> None:
    """Check what clients read of a description."""
    assert description["model_name"] == "demo-chat" and description["model_type"] == "LLM"
    assert "chat" in description["model_ability"]
    assert isinstance(description["context_length"], int)


class TestXinferenceClient:
    @pytest.fixture(scope="class", params=["installed", "4.1.0"])
    @classmethod
    def seen(
        cls, request: pytest.FixtureRequest, server: Server, tmp_path_factory: pytest.TempPathFactory
    ) -> dict[str, Any]:
        path = None
        if request.param != "installed":
            path = install_client(tmp_path_factory.mktemp("client"), request.param)
        return run_session("xinference", server.url, f"xinference-{request.param}", path)

    def test_launch(self, seen: dict[str, Any]) -> None:
        assert seen["launch"].startswith("xinference-")

    def test_list(self, seen: dict[str, Any]) -> None:
        describes(seen["list"])
        assert "demo-chat" in [item["model_name"] for item in seen["registrations"]]

    def test_chat(self, seen: dict[str, Any]) -> None:
        answer = seen["chat"]
        assert "blue whale" in answer["choices"][0]["message"]["content"]
        assert answer["model"] == seen["launch"]
        assert answer["choices"][0]["finish_reason"] == "stop"
        usage = answer["usage"]
        assert usage["prompt_tokens"] + usage["completion_tokens"] == usage["total_tokens"]
        assert 0 < usage["completion_tokens"] <= 64

    def test_generate(self, seen: dict[str, Any]) -> None:
        assert seen["generate"]["usage"]["completion_tokens"] <= 8
        assert isinstance(seen["generate"]["choices"][0]["text"], str)

    def test_stream(self, seen: dict[str, Any]) -> None:
        pieces = [chunk["choices"][0]["delta"].get("content", "") for chunk in seen["stream"]]
        assert "".join(pieces) == seen["chat"]["choices"][0]["message"]["content"]
        assert len(pieces) > 2

    def test_terminate(self, seen: dict[str, Any]) -> None:
        assert seen["launch"] not in seen["left"]
        assert seen["launch"] in seen["error"]


class TestLangChain:
    @pytest.fixture(scope="class")
    @classmethod
    def seen(cls, server: Server) -> dict[str, Any]:
        return run_session("langchain", server.url, "langchain")

    def test_launch(self, seen: dict[str, Any]) -> None:
        assert seen["launch"] == "langchain"

    def test_list(self, seen: dict[str, Any]) -> None:
        describes(seen["list"])

    def test_chat(self, seen: dict[str, Any]) -> None:
        assert "blue whale" in seen["chat"]
        assert seen["async"] == seen["chat"]

    def test_stream(self, seen: dict[str, Any]) -> None:
        assert "".join(seen["stream"]) == seen["chat"]
        assert len(seen["stream"]) > 2

    def test_complete(self, seen: dict[str, Any]) -> None:
        assert seen["complete"] and "".join(seen["complete_stream"]) == seen["complete"]

    def test_terminate(self, seen: dict[str, Any]) -> None:
        assert "langchain" not in seen["left"]


class TestLlamaIndex:
    """The integration (0.6.0) calls `chat(prompt=..., chat_history=...)`, as the client had it up to release 0.15."""

    @pytest.fixture(scope="class")
    @classmethod
    def seen(cls, server: Server, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
        path = install_client(tmp_path_factory.mktemp("client"), "0.14.4")
        # The integration imports the client from the server's own package; xinference-client is the same code.
        (path / "xinference").mkdir()
        (path / "xinference" / "__init__.py").touch()
        (path / "xinference" / "client.py").write_text("from xinference_client import RESTfulClient as RESTfulClient\n")
        return run_session("llama_index", server.url, "llama-index", path)

    def test_launch(self, seen: dict[str, Any]) -> None:
        assert seen["launch"] == "llama-index"

    def test_list(self, seen: dict[str, Any]) -> None:
        describes(seen["list"])
        assert seen["context"] == seen["list"]["context_length"]

    def test_chat(self, seen: dict[str, Any]) -> None:
        assert "blue whale" in seen["chat"]
        assert seen["complete"] == seen["chat"]

    def test_stream(self, seen: dict[str, Any]) -> None:
        assert "".join(seen["stream"]) == seen["chat"]
        assert len(seen["stream"]) > 2

    def test_terminate(self, seen: dict[str, Any]) -> None:
        assert "llama-index" not in seen["left"]


class TestOpenAI:
    @pytest.fixture(scope="class")
    @classmethod
    def client(cls, server: Server) -> Iterator[openai.OpenAI]:
        with openai.OpenAI(api_key="any", base_url=f"{server.url}/v1", max_retries=0, timeout=60) as client:
            yield client

    def test_list(self, client: openai.OpenAI, demo_chat: str) -> None:
        assert demo_chat in [model.id for model in client.models.list()]
        model = client.models.retrieve(demo_chat)
        assert (model.id, model.object) == (demo_chat, "model") and model.owned_by and model.created

    def test_chat(self, client: openai.OpenAI, demo_chat: str) -> None:
        answer = client.chat.completions.create(
            model=demo_chat, messages=[{"role": "user", "content": QUESTION}], temperature=0, max_tokens=64
        )
        assert "blue whale" in (answer.choices[0].message.content or "")
        assert answer.choices[0].finish_reason == "stop" and answer.model == demo_chat
        assert answer.usage
        assert answer.usage.prompt_tokens + answer.usage.completion_tokens == answer.usage.total_tokens

    def test_length_is_told(self, client: openai.OpenAI, demo_chat: str) -> None:
        answer = client.chat.completions.create(
            model=demo_chat, messages=[{"role": "user", "content": QUESTION}], temperature=0, max_tokens=2
        )
        assert answer.choices[0].finish_reason == "length"
        assert answer.usage and answer.usage.completion_tokens == 2

    def test_chat_stream(self, client: openai.OpenAI, demo_chat: str) -> None:
        stream = client.chat.completions.create(
            model=demo_chat, messages=[{"role": "user", "content": QUESTION}], temperature=0, max_tokens=64, stream=True
        )
        chunks = list(stream)
        assert all(len(chunk.choices) == 1 and chunk.usage is None for chunk in chunks)
        assert "blue whale" in "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
        assert [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices[0].finish_reason] == ["stop"]

    def test_chat_stream_with_usage(self, client: openai.OpenAI, demo_chat: str) -> None:
        stream = client.chat.completions.create(
            model=demo_chat,
            messages=[{"role": "user", "content": QUESTION}],
            temperature=0,
            max_tokens=64,
            stream=True,
            stream_options={"include_usage": True},
        )
        *chunks, last = stream
        assert last.choices == [] and last.usage and last.usage.completion_tokens > 0
        assert all(chunk.usage is None for chunk in chunks)

    def test_completion(self, client: openai.OpenAI, demo_chat: str) -> None:
        whole = client.completions.create(model=demo_chat, prompt="The largest animal is", temperature=0, max_tokens=8)
        stream = client.completions.create(
            model=demo_chat, prompt="The largest animal is", temperature=0, max_tokens=8, stream=True
        )
        assert "".join(chunk.choices[0].text for chunk in stream) == whole.choices[0].text
        assert whole.usage and whole.usage.completion_tokens <= 8

    def test_greedy_answers_are_the_same_in_a_batch(self, client: openai.OpenAI, demo_chat: str) -> None:
        questions = [QUESTION, "Hello!", "What is the capital of France?", "Who are you?"] * 2 + [QUESTION]
        answers: dict[int, str | None] = {}

        def ask(number: int) -> None:
            answer = client.chat.completions.create(
                model=demo_chat, messages=[{"role": "user", "content": questions[number]}], temperature=0, max_tokens=48
            )
            answers[number] = answer.choices[0].message.content

        for number in range(4):
            ask(number)
        alone = dict(answers)
        threads = [threading.Thread(target=ask, args=(number,)) for number in range(len(questions))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert [answers[number] for number in range(9)] == [alone[number % 4] for number in range(9)]

    def test_errors_are_typed(self, client: openai.OpenAI, demo_chat: str) -> None:
        with pytest.raises(openai.NotFoundError) as unknown:
            client.chat.completions.create(model="nobody", messages=[{"role": "user", "content": "Hello"}])
        assert unknown.value.code == "model_not_found" and "nobody" in unknown.value.message
        with pytest.raises(openai.BadRequestError) as bad:
            client.chat.completions.create(model=demo_chat, messages=[], extra_body={"colour": "red"})
        assert isinstance(bad.value.body, dict) and bad.value.body["message"]
