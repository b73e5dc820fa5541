"""The echo engine: its answers, and its faults, in real worker processes."""

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from modelrack.hooks import CommandWorker, LoadPlan, ModelFiles, PythonWorker, Route
from modelrack.worker import Job
from modelrack.worker.job import write_job
from modelrack_echo.options import EchoOptions
from modelrack_echo.plugin import register_engines, register_families
from modelrack_echo.tokens import Vocabulary, split

ROUTES = tuple(
    Route(path=f"/v1/{path}", ability=ability, request=f"modelrack.api.{model}", response="")
    for path, ability, model in (
        ("chat/completions", "chat", "chat:ChatRequest"),
        ("completions", "generate", "completions:CompletionRequest"),
        ("tokenize", "tokenize", "tokenize:TokenizeRequest"),
        ("detokenize", "detokenize", "tokenize:DetokenizeRequest"),
        ("convert_ids_to_tokens", "convert_ids_to_tokens", "tokenize:ConvertIdsRequest"),
    )
)
TEXT = "What is the largest animal? Der größte 🐋!"


class Worker:
    """An echo worker's process, of either kind."""

    def __init__(self, folder: Path, engine_name: str, options: dict[str, Any]) -> None:
        family = register_families()[0]
        engine = next(engine for engine in register_engines() if engine.name == engine_name)
        plan = LoadPlan(
            model_uid="my-echo",
            family=family,
            variant=family.variants[0],
            quantization="none",
            files=ModelFiles(path="", format="echo"),
            options=engine.options_for(family.model_type).model_validate(options).model_dump(mode="json"),
        )
        self.socket = sock = str(folder / "s")
        python = engine.worker if isinstance(engine.worker, PythonWorker) else None
        command = engine.worker.build(plan, sock) if isinstance(engine.worker, CommandWorker) else None
        job = Job(
            incarnation="i",
            replica_id=0,
            socket=sock,
            lease=None,
            lease_s=60,
            plan=plan,
            routes=ROUTES,
            loader=python.loader if python else "",
            command=command,
        )
        write_job(folder / "job.json", job)
        module = "modelrack.worker.guard" if command else "modelrack.worker"
        self.ready_path = command.ready_path if command else "/_worker/status"
        self.log = folder / "log"
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-P", "-m", module, str(folder / "job.json")],
                stdin=subprocess.DEVNULL,
                stderr=log,
                start_new_session=True,
            )
        self.client = httpx.Client(transport=httpx.HTTPTransport(uds=sock), base_url="http://w", timeout=20)

    def status(self) -> dict[str, Any]:
        with socket.socket(socket.AF_UNIX) as probe:
            # httpx leaves a socket open that cannot connect.
            if probe.connect_ex(self.socket) != 0:
                return {}
        answer: dict[str, Any] = self.client.get(self.ready_path).json()
        return answer

    def wait_ready(self) -> "Worker":
        self.wait_for(lambda: self.status().get("state", self.status().get("status")) in ("ready", "ok"))
        return self

    def wait_for(self, condition: Callable[[], bool], deadline_s: float = 20) -> None:
        end = time.monotonic() + deadline_s
        while not condition():
            assert time.monotonic() < end, self.log.read_text()
            time.sleep(0.01)

    def post(self, path: str, **body: Any) -> httpx.Response:
        return self.client.post(f"/v1/{path}", json={"model": "my-echo"} | body)

    def chat(self, text: str = TEXT, **fields: Any) -> httpx.Response:
        return self.post("chat/completions", messages=[{"role": "user", "content": text}], **fields)

    def stream(self, text: str = TEXT, **fields: Any) -> list[dict[str, Any]]:
        response = self.chat(text, stream=True, **fields)
        assert response.status_code == 200, response.text
        *events, done, end = response.text.split("\n\n")
        assert (done, end) == ("data: [DONE]", "")
        return [json.loads(event.removeprefix("data: ")) for event in events]

    def stop(self) -> None:
        self.client.close()
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


StartEcho = Callable[..., Worker]


@pytest.fixture
def start_echo() -> Iterator[StartEcho]:
    with tempfile.TemporaryDirectory(prefix="mr-") as path:
        workers: list[Worker] = []

        def start(engine: str = "echo", **options: Any) -> Worker:
            folder = Path(path) / str(len(workers))
            folder.mkdir()
            workers.append(Worker(folder, engine, options))
            return workers[-1]

        yield start
        for worker in workers:
            worker.stop()


@pytest.fixture(scope="module")
def echo() -> Iterator[Worker]:
    with tempfile.TemporaryDirectory(prefix="mr-") as path:
        worker = Worker(Path(path), "echo", {}).wait_ready()
        yield worker
        worker.stop()


@pytest.mark.parametrize("text", [TEXT, "", " ", "\n a\tb  ", "日本語、テスト。", "a_b-c", "\x00é\u0301"])
def test_tokens_joined_are_the_text(text: str) -> None:
    assert "".join(split(text)) == text
    vocabulary = Vocabulary()
    assert "".join(vocabulary.token(number) for number in vocabulary.encode(text)) == text


def test_a_vocabulary_has_an_end() -> None:
    with pytest.raises(OverflowError):
        Vocabulary(limit=2).encode("a b c")


def test_the_description_needs_no_files() -> None:
    family = register_families()[0]
    assert family.variants[0].sources == ()
    assert EchoOptions.model_validate({"repeat": "true", "token_delay_s": "0.5"}).token_delay_s == 0.5


def test_chat(echo: Worker) -> None:
    answer = echo.chat().json()
    choice = answer["choices"][0]
    assert (choice["message"]["content"], choice["finish_reason"], answer["model"]) == (TEXT, "stop", "my-echo")
    usage = answer["usage"]
    assert usage["prompt_tokens"] == usage["completion_tokens"] == len(split(TEXT))
    assert usage["total_tokens"] == 2 * len(split(TEXT))


def test_the_last_user_message_counts(echo: Worker) -> None:
    messages = [
        {"role": "system", "content": "be brief"},
        {"role": "user", "content": "one"},
        {"role": "assistant", "content": "one"},
        {"role": "user", "content": [{"type": "text", "text": "two "}, {"type": "text", "text": "three"}]},
    ]
    answer = echo.post("chat/completions", messages=messages).json()
    assert answer["choices"][0]["message"]["content"] == "two three"
    assert answer["usage"]["prompt_tokens"] == 6


def test_a_stream_is_token_for_token(echo: Worker) -> None:
    chunks = echo.stream()
    assert chunks[0]["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert [chunk["choices"][0]["delta"]["content"] for chunk in chunks[1:-1]] == split(TEXT)
    assert chunks[-1]["choices"][0]["finish_reason"] == "stop"
    assert all("usage" not in chunk for chunk in chunks)
    with_usage = echo.stream(stream_options={"include_usage": True})
    assert with_usage[-1]["choices"] == []
    assert with_usage[-1]["usage"]["completion_tokens"] == len(split(TEXT))


def test_limits_and_stops(echo: Worker) -> None:
    def finish(**fields: Any) -> tuple[str, str, int]:
        answer = echo.chat("one two three four", **fields).json()
        choice = answer["choices"][0]
        return choice["message"]["content"], choice["finish_reason"], answer["usage"]["completion_tokens"]

    assert finish(max_tokens=2) == ("one two", "length", 2)
    assert finish(max_tokens=4) == ("one two three four", "stop", 4)
    assert finish(max_completion_tokens=1, max_tokens=3) == ("one", "length", 1)
    assert finish(stop="three") == ("one two ", "stop", 3)
    assert finish(stop=["ee", "wo t"]) == ("one t", "stop", 2)
    assert finish(stop="none", max_tokens=2) == ("one two", "length", 2)


def test_several_choices(echo: Worker) -> None:
    answer = echo.chat("a b", n=3).json()
    assert [(choice["index"], choice["message"]["content"]) for choice in answer["choices"]] == [
        (0, "a b"),
        (1, "a b"),
        (2, "a b"),
    ]
    assert answer["usage"] == {"prompt_tokens": 2, "completion_tokens": 6, "total_tokens": 8}
    texts = {0: "", 1: ""}
    for chunk in echo.stream("a b", n=2):
        choice = chunk["choices"][0]
        texts[choice["index"]] += choice["delta"]["content"]
    assert texts == {0: "a b", 1: "a b"}


def test_completions(echo: Worker) -> None:
    answer = echo.post("completions", prompt=["one two", "three"], n=2).json()
    assert [(choice["index"], choice["text"]) for choice in answer["choices"]] == [
        (0, "one two"),
        (1, "one two"),
        (2, "three"),
        (3, "three"),
    ]
    assert answer["object"] == "text_completion"
    assert answer["usage"] == {"prompt_tokens": 3, "completion_tokens": 6, "total_tokens": 9}
    response = echo.post("completions", prompt="one two", stream=True)
    events = [json.loads(event.removeprefix("data: ")) for event in response.text.split("\n\n")[:-2]]
    assert "".join(event["choices"][0]["text"] for event in events) == "one two"
    assert echo.post("completions", prompt=[1, 2]).status_code == 400


def test_tokenize_and_back(echo: Worker) -> None:
    answer = echo.post("tokenize", prompt=TEXT, return_token_strs=True).json()
    assert answer["count"] == len(answer["tokens"]) == len(split(TEXT))
    assert answer["max_model_len"] == 8192
    assert answer["token_strs"][1] == "Ġis"
    assert echo.post("detokenize", tokens=answer["tokens"]).json() == {"prompt": TEXT}
    assert echo.post("convert_ids_to_tokens", input=answer["tokens"]).json() == answer["token_strs"]
    rows = echo.post("convert_ids_to_tokens", input=[answer["tokens"][:1], []]).json()
    assert rows == [["What"], []]
    messages = [{"role": "user", "content": TEXT}]
    assert echo.post("tokenize", messages=messages).json()["tokens"] == answer["tokens"]
    response = echo.post("detokenize", tokens=[10**9])
    assert (response.status_code, response.json()["error"]["param"]) == (400, "tokens")


@pytest.mark.parametrize(
    "fields",
    [
        {"tools": [{"type": "function", "function": {"name": "f"}}]},
        {"logprobs": True},
        {"response_format": {"type": "json_object"}},
        {"guided_regex": "a"},
        {"enable_thinking": False},
    ],
)
def test_what_it_cannot_do_is_refused(echo: Worker, fields: dict[str, Any]) -> None:
    response = echo.chat(**fields)
    assert response.status_code == 400
    assert response.json()["error"]["code"] == "unsupported_parameter"
    assert response.json()["error"]["param"] == next(iter(fields))


def test_no_images(echo: Worker) -> None:
    part = {"type": "image_url", "image_url": {"url": "data:,"}}
    response = echo.post("chat/completions", messages=[{"role": "user", "content": [part]}])
    assert response.json()["error"]["param"] == "messages.0.content.0"


def test_repeat_and_context_length(start_echo: StartEcho) -> None:
    worker = start_echo(repeat=True, context_length=50).wait_ready()
    answer = worker.chat("a b", max_tokens=5).json()
    assert answer["choices"][0]["message"]["content"] == "a ba ba"
    assert answer["choices"][0]["finish_reason"] == "length"
    assert worker.chat("a b").json()["usage"]["total_tokens"] == 50
    response = worker.chat("a " * 60)
    assert (response.status_code, response.json()["error"]["param"]) == (400, "messages")
    assert worker.status()["facts"] == {"context_length": 50}


def test_pace(start_echo: StartEcho) -> None:
    worker = start_echo(token_delay_s=0.02).wait_ready()
    began = time.monotonic()
    assert len(worker.stream("a b c d e")) == 7
    assert time.monotonic() - began >= 0.1


def test_load_faults(start_echo: StartEcho) -> None:
    slow, failing, crashing = (
        start_echo(load_delay_s=1),
        start_echo(load_failure="out of cheese"),
        start_echo(crash_on_load=True),
    )
    seen: set[float] = set()

    def is_ready() -> bool:
        status = slow.status()
        seen.add(status.get("progress", 0))
        return status.get("state") == "ready"

    slow.wait_for(is_ready)
    assert len(seen) > 3
    assert failing.process.wait(20) == 1
    assert failing.log.read_text().splitlines()[-1] == "out of cheese"
    assert crashing.process.wait(20) == -signal.SIGKILL
    assert "crashing, as asked" in crashing.log.read_text()


def test_a_hanging_load_can_be_stopped(start_echo: StartEcho) -> None:
    worker = start_echo(hang_on_load=True)
    worker.wait_for(lambda: worker.status().get("state") == "loading")
    worker.process.terminate()
    assert worker.process.wait(20) == 0


def test_deaf_to_sigterm(start_echo: StartEcho) -> None:
    worker = start_echo(ignore_sigterm=True).wait_ready()
    worker.process.terminate()
    with pytest.raises(subprocess.TimeoutExpired):
        worker.process.wait(1)
    loading = start_echo(ignore_sigterm=True, hang_on_load=True)
    loading.wait_for(lambda: loading.status().get("stage") == "deaf to SIGTERM")
    loading.process.terminate()
    with pytest.raises(subprocess.TimeoutExpired):
        loading.process.wait(1)


def test_crash_and_hang_in_an_answer(start_echo: StartEcho) -> None:
    crashing, hanging = start_echo(crash_after_tokens=7).wait_ready(), start_echo(hang_after_tokens=2).wait_ready()
    assert crashing.chat("a b c d e").status_code == 200
    with pytest.raises(httpx.TransportError):
        crashing.chat("a b c d e")
    assert crashing.process.wait(20) == -signal.SIGKILL
    assert hanging.chat("a b").status_code == 200
    with pytest.raises(httpx.ReadTimeout):
        hanging.client.post(
            "/v1/chat/completions",
            json={"model": "m", "messages": [{"role": "user", "content": "a b c"}]},
            timeout=0.5,
        )
    hanging.wait_for(lambda: hanging.client.get("/_worker/metrics").json()["active"] == 0)


def test_the_command_worker(start_echo: StartEcho) -> None:
    worker = start_echo("echo-command").wait_ready()
    answer = worker.chat().json()
    assert (answer["choices"][0]["message"]["content"], answer["model"]) == (TEXT, "my-echo")
    chunks = worker.stream(stream_options={"include_usage": True})
    text = "".join(chunk["choices"][0]["delta"]["content"] for chunk in chunks if chunk["choices"])
    assert text == TEXT
    assert chunks[-1]["usage"] == answer["usage"]
    assert worker.post("chat/completions", messages=5).status_code == 400
    assert worker.post("other").status_code == 404
    os.killpg(worker.process.pid, signal.SIGTERM)
    assert worker.process.wait(20) == 0


def test_faults_of_the_command_worker(start_echo: StartEcho) -> None:
    failing, crashing = start_echo("echo-command", load_failure="no"), start_echo("echo-command", crash_on_load=True)
    assert failing.process.wait(20) == 1
    assert failing.log.read_text().splitlines()[-1] == "no"
    assert crashing.process.wait(20) == 128 + signal.SIGKILL
    deaf = start_echo("echo-command", ignore_sigterm=True).wait_ready()
    os.killpg(deaf.process.pid, signal.SIGTERM)
    with pytest.raises(subprocess.TimeoutExpired):
        deaf.process.wait(1.5)
