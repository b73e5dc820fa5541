"""The life of the worker's process: loads that fail, clients that leave, and the end."""

import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson
import psutil
import pytest
from llama_worker import UID, Start, WorkerProcess

from modelrack.testing.gguf import Shape, write_random_model

SLOW = Shape(width=512, layers=8, heads=8, kv_heads=8, hidden=2048, context=8192, file_type="q8_0")
"""Slow enough that a request can be caught at work."""


def cut(model: Path, path: Path) -> Path:
    """Write the first half of a model."""
    path.write_bytes(model.read_bytes()[: model.stat().st_size // 2])
    return path


def damage(model: Path, path: Path, old: bytes, new: bytes) -> Path:
    """Write a model with some bytes exchanged."""
    data = model.read_bytes()
    assert old in data
    path.write_bytes(data.replace(old, new, 1))
    return path


def text_file(model: Path, path: Path) -> Path:
    """Write something that is no model."""
    path.write_text("hello" * 1000)
    return path


@pytest.mark.parametrize(
    ("make", "options", "reason"),
    [
        (cut, {}, "cut|corrupted|truncated|incomplete|bytes"),
        (text_file, {}, "GGUF"),
        (lambda model, path: path, {}, "No such file"),
        (lambda m, p: damage(m, p, b"\x05\0\0\0\0\0\0\0llama", b"\x05\0\0\0\0\0\0\0xlama"), {}, "xlama"),
        (lambda m, p: m, {"n_ctx": 16_000_000, "n_parallel": 256}, "MiB"),
        (lambda m, p: m, {"mmproj": "/nowhere/mmproj.gguf"}, "/nowhere/mmproj.gguf"),
        (lambda m, p: m, {"draft_model": "/nowhere/draft.gguf"}, "/nowhere/draft.gguf"),
        (lambda m, p: m, {"chat_template": "{% if %}"}, "chat template cannot be read: .*%}"),
    ],
    ids=["cut", "text", "missing", "architecture", "memory", "projector", "draft", "template"],
)
def test_a_failed_load_says_why(
    start: Start,
    tiny_model: Path,
    tmp_path: Path,
    make: Callable[[Path, Path], Path],
    options: dict[str, Any],
    reason: str,
) -> None:
    import re

    worker = start(make(tiny_model, tmp_path / "model.gguf"), **options)
    status = worker.wait("failed")
    assert re.search(reason, status["error"]), status["error"]
    assert worker.process.wait(10) == 1
    assert worker.log().strip().splitlines()[-1] == status["error"]


def test_a_worker_is_small_and_quick(start: Start, tiny_model: Path) -> None:
    """The issue's figure is 120 MB beside the weights; a load takes a third of a second on an idle machine."""
    worker = start(tiny_model)
    worker.wait("ready")
    assert worker.post("/v1/chat/completions", messages=[{"role": "user", "content": "hi"}], max_tokens=4).is_success
    used = psutil.Process(worker.process.pid).memory_info().rss
    assert used < 120e6 + tiny_model.stat().st_size
    assert worker.stop() == 0


def test_it_listens_on_unix_sockets_only(worker: WorkerProcess) -> None:
    process = psutil.Process(worker.process.pid)
    assert [one for one in process.net_connections(kind="inet") if one.status == psutil.CONN_LISTEN] == []
    (inner,) = worker.folder.glob("llama-*.sock")
    assert inner.stat().st_mode & 0o077 == 0


def test_options_are_passed_on(start: Start, tiny_model: Path) -> None:
    worker = start(
        tiny_model, n_ctx=512, n_parallel=2, n_threads=1, cache_type_k="q8_0", cache_type_v="q8_0", flash_attn="on"
    )
    facts = worker.wait("ready")["facts"]
    assert facts == {"context_length": 512, "n_parallel": 2, "n_threads": 1}
    assert worker.stop() == 0
    assert not list(worker.folder.glob("llama-*.sock"))


class Leaver:
    """A client that sends a request on a raw socket and can leave at any moment."""

    def __init__(self, worker: WorkerProcess, path: str, body: dict[str, Any]) -> None:
        data = orjson.dumps({"model": UID, **body})
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.connect(str(worker.folder / "w.sock"))
        head = f"POST {path} HTTP/1.1\r\nhost: w\r\ncontent-length: {len(data)}\r\n\r\n"
        self.socket.sendall(head.encode() + data)

    def leave(self) -> None:
        """Go away."""
        self.socket.close()


def cpu_share(worker: WorkerProcess, seconds: float) -> float:
    """Return what part of one processor the worker used over a time."""
    process = psutil.Process(worker.process.pid)
    before = sum(process.cpu_times()[:2])
    threading.Event().wait(seconds)
    return (sum(process.cpu_times()[:2]) - before) / seconds


def await_rest(worker: WorkerProcess, limit_s: float) -> float:
    """Wait until the worker computes no more; return how long that took."""
    begin = time.monotonic()
    while time.monotonic() < begin + limit_s:
        if cpu_share(worker, 0.2) < 0.1:
            return time.monotonic() - begin
    raise AssertionError(f"the worker still computes {limit_s} s after the client has left")


@pytest.fixture(scope="module")
def slow_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a model of forty million random weights."""
    return write_random_model(tmp_path_factory.mktemp("slow") / "slow.gguf", SLOW)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("long_prompt", [False, True])
def test_a_client_that_leaves_stops_the_engine(start: Start, slow_model: Path, stream: bool, long_prompt: bool) -> None:
    """While tokens are written as well as while a prompt is read, and also if the answer was to come in one piece."""
    worker = start(slow_model, n_parallel=2, n_batch=64, n_ubatch=64)
    worker.wait("ready")
    body = {
        "messages": [{"role": "user", "content": "hello " * (1500 if long_prompt else 1)}],
        "max_tokens": 2000,
        "temperature": 0,
        "logit_bias": {"414": -100},
        "stream": stream,
    }
    client = Leaver(worker, "/v1/chat/completions", body)
    deadline = time.monotonic() + 10
    while cpu_share(worker, 0.1) < 0.3:
        assert time.monotonic() < deadline
    client.leave()
    await_rest(worker, 3.0)
    assert worker.counters()["cancelled"] == 1
    assert worker.ok("/v1/completions", prompt="a", max_tokens=2)["usage"]["completion_tokens"] == 2
    assert worker.stop() == 0


def test_those_who_wait_for_a_slot_can_leave(start: Start, slow_model: Path) -> None:
    worker = start(slow_model, n_parallel=1)
    worker.wait("ready")
    body = {"prompt": "hello", "max_tokens": 200, "temperature": 0, "logit_bias": {"414": -100}}
    clients = [Leaver(worker, "/v1/completions", body) for _ in range(12)]
    deadline = time.monotonic() + 10
    while worker.counters()["active"] < 12:
        assert time.monotonic() < deadline
    for client in clients:
        client.leave()
    await_rest(worker, 3.0)
    assert worker.counters()["cancelled"] == 12
    assert worker.stop() == 0


def test_a_stop_answers_what_is_under_way(start: Start, slow_model: Path) -> None:
    worker = start(slow_model, n_parallel=2)
    worker.wait("ready")
    answers: list[Any] = []
    body = {"prompt": "hello", "max_tokens": 200, "temperature": 0, "logit_bias": {"414": -100}}
    asking = threading.Thread(target=lambda: answers.append(worker.post("/v1/completions", **body)))
    asking.start()
    deadline = time.monotonic() + 10
    while worker.counters()["requests"] < 1:
        assert time.monotonic() < deadline
    assert worker.stop() == 0, worker.log()[-2000:]
    asking.join(10)
    assert answers[0].json()["usage"]["completion_tokens"] == 200
