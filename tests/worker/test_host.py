"""The host of a real worker process: dispatch, validation, streams, errors, disconnects."""

import json
import threading
from typing import Any

import httpx
import pytest

from .conftest import RunningWorker, StartWorker, read_until, request_bytes, wait_for


@pytest.fixture
def worker(start_worker: StartWorker) -> RunningWorker:
    return start_worker()


def events_of(response: httpx.Response) -> list[Any]:
    assert response.status_code == 200
    assert response.headers["content-type"].startswith("text/event-stream")
    blocks = response.text.split("\n\n")
    assert blocks.pop() == ""
    assert all(block.startswith("data: ") for block in blocks)
    return [block[6:] if block == "data: [DONE]" else json.loads(block[6:]) for block in blocks]


def test_status_carries_the_identity(worker: RunningWorker) -> None:
    status = worker.status()
    assert (status["model_uid"], status["replica_id"], status["incarnation"]) == ("probe-uid", 1, "once")
    assert status["pid"] == worker.process.pid
    assert status["state"] == "ready"
    assert status["progress"] == 1.0
    assert status["error"] is None
    assert status["facts"] == {"context_length": 77}
    assert status["routes"] == ["/v1/completions"]


def test_answers_of_each_kind(shared_worker: RunningWorker) -> None:
    answer = shared_worker.ask("say grüße 🐋").json()
    assert (answer["text"], answer["model"], answer["path"]) == ("grüße 🐋", "probe-uid", "/v1/completions")
    assert shared_worker.ask("typed x").json() == {"text": "x", "nothing": None}
    assert shared_worker.ask("bytes").json() == {"text": "raw"}
    raw = shared_worker.ask("raw")
    assert (raw.content, raw.headers["content-type"]) == (b"\x00\x01", "audio/wav")


def test_usage_and_request_id(worker: RunningWorker) -> None:
    body = {"model": "m", "prompt": "say x"}
    response = worker.client.post("/v1/completions", json=body, headers={"X-Request-ID": "mine"})
    assert response.json()["request_id"] == "mine"
    assert response.headers["x-modelrack-usage"] == "3,5"
    ids = {worker.ask("say x").json()["request_id"] for _ in range(3)}
    assert len(ids) == 3
    assert worker.metrics()["completion_tokens"] == 20


def test_a_stream_ends_with_done_and_the_usage_as_trailer(shared_worker: RunningWorker) -> None:
    assert events_of(shared_worker.ask("count 3")) == [{"n": 0}, {"n": 1}, {"n": 2}, "[DONE]"]
    assert events_of(shared_worker.ask("count 0")) == ["[DONE]"]
    assert events_of(shared_worker.ask("stream a pause typed pause b")) == [
        {"word": "a"},
        {"text": "typed", "nothing": None},
        {"word": "b"},
        "[DONE]",
    ]
    with shared_worker.connect() as raw:
        raw.sendall(request_bytes("count 3"))
        assert read_until(raw, b"\r\n0\r\nx-modelrack-usage: 1,3\r\n\r\n").startswith(b"HTTP/1.1 200 OK\r\n")


def test_long_streams_are_whole(shared_worker: RunningWorker) -> None:
    """More than a batch, and more than the peer's socket buffer holds."""
    events = events_of(shared_worker.ask("count 50000"))
    assert [event["n"] for event in events[:-1]] == list(range(50000))


def test_ready_events_travel_together(shared_worker: RunningWorker) -> None:
    with shared_worker.connect() as raw:
        raw.sendall(request_bytes("count 10"))
        data = read_until(raw, b"0\r\nx-modelrack-usage: 1,10\r\n\r\n")
    body = data.partition(b"\r\n\r\n")[2]
    size = int(body.partition(b"\r\n")[0], 16)
    assert body.count(b"data: ") == 11
    assert size > 0.8 * len(body), "one chunk holds all the events"


def test_an_error_before_the_first_event_has_its_status(shared_worker: RunningWorker) -> None:
    response = shared_worker.ask("stream refuse")
    assert response.status_code == 500
    assert response.json()["error"]["code"] == "engine_error"
    assert response.json()["detail"] == "the engine gave up"
    response = shared_worker.ask("stream pause break")
    assert response.status_code == 500
    assert "secret" not in response.text


def test_an_error_after_the_first_event_ends_the_stream(shared_worker: RunningWorker) -> None:
    first, last = events_of(shared_worker.ask("stream a refuse b"))
    assert first == {"word": "a"}
    assert last["error"]["message"] == "the engine gave up"
    assert last["error"]["code"] == "engine_error"
    *_, last = events_of(shared_worker.ask("stream a pause break b"))
    assert last["error"]["code"] == "internal_error"
    assert "secret" not in json.dumps(last)
    assert "a secret of the engine" in shared_worker.log.read_text()


def test_errors_of_handlers(shared_worker: RunningWorker) -> None:
    response = shared_worker.ask("refuse")
    assert (response.status_code, response.headers["x-test"]) == (400, "yes")
    assert response.json()["error"]["param"] == "prompt"
    assert response.json()["detail"] == "no such thing Ask for another."
    response = shared_worker.ask("break")
    assert response.status_code == 500
    assert "secret" not in response.text
    assert "a secret of the engine" in shared_worker.log.read_text()
    assert shared_worker.ask("strange").status_code == 500
    assert shared_worker.ask("say still here").json()["text"] == "still here"


@pytest.mark.parametrize(
    ("body", "param", "words"),
    [
        (b"", None, "no body"),
        (b"{", None, "not JSON"),
        (b"[1]", None, "JSON object"),
        (b"\xff", None, "not JSON"),
        (b'{"model": "m"}', "prompt", "'prompt' is required"),
        (b'{"model": "m", "prompt": 5}', "prompt", "token ids"),
        (b'{"model": "m", "prompt": "x", "temprature": 1}', "temprature", "did you mean 'temperature'"),
        (b'{"model": "m", "prompt": "x", "zzzzzz": 1}', "zzzzzz", "Unknown field"),
        (b'{"model": "m", "prompt": "x", "temperature": 9}', "temperature", "less than or equal to 2"),
        (b'{"model": "m", "prompt": "x", "stop": ["a", 5]}', "stop.1", "valid string"),
        (b'{"model": "m", "prompt": "x", "stream_options": {"x": 1}}', "stream_options.x", "Unknown field"),
        (b'{"model": "m", "prompt": "x", "top_k": 5}', "top_k", "the probe has no k"),
        (b'{"model": "m", "prompt": "x", "best_of": 5}', "best_of", "cannot be honoured"),
        (b'{"model": "m", "prompt": "x", "temperature": NaN}', None, "not JSON"),
        (b'{"a":' * 3000, None, "not JSON"),
    ],
)
def test_bad_bodies_name_the_field(shared_worker: RunningWorker, body: bytes, param: str | None, words: str) -> None:
    response = shared_worker.client.post("/v1/completions", content=body)
    assert response.status_code == 400
    error = response.json()["error"]
    assert error["param"] == param
    assert words in error["message"]
    assert response.json()["detail"] == error["message"]


def test_what_asks_for_nothing_is_not_refused(shared_worker: RunningWorker) -> None:
    assert shared_worker.ask("say x", top_k=None, best_of=1).status_code == 200
    assert shared_worker.ask("say x", top_k=-1).status_code == 200
    assert shared_worker.ask("say x", suffix="the handler supports it").status_code == 200


def test_paths_and_methods(shared_worker: RunningWorker) -> None:
    assert shared_worker.client.post("/v1/nothing").status_code == 404
    assert shared_worker.client.get("/_worker/nothing").status_code == 404
    response = shared_worker.client.get("/v1/completions")
    assert (response.status_code, response.headers["allow"]) == (405, "POST")
    assert shared_worker.client.post("/_worker/status").status_code == 405
    response = shared_worker.client.post("/v1/chat/completions", json={})
    assert response.status_code == 400
    assert "does not serve" in response.json()["detail"]


@pytest.mark.parametrize("prompt", ["hang x", "stream a hang", "stream hang"])
def test_a_client_that_leaves_cancels_the_work(worker: RunningWorker, prompt: str) -> None:
    with worker.connect() as raw:
        raw.sendall(request_bytes(prompt))
        wait_for(lambda: any(line.startswith("begin") for line in worker.record()), "the work's beginning")
        assert worker.metrics()["active"] == 1
    wait_for(lambda: any(line.startswith("end") for line in worker.record()), "the work's end", 2)
    assert worker.metrics()["active"] == 0
    assert worker.metrics()["cancelled"] == 1


def test_a_client_that_does_not_read_is_waited_for_and_may_leave(worker: RunningWorker) -> None:
    with worker.connect() as raw:
        raw.sendall(request_bytes("count 2000000"))
        raw.recv(1000)
        assert worker.ask("say others").status_code == 200
        assert worker.metrics()["active"] == 1
        with open(f"/proc/{worker.process.pid}/status") as file:
            resident_kb = int(file.read().split("VmRSS:")[1].split()[0])
        assert resident_kb < 100_000
    wait_for(lambda: worker.metrics()["active"] == 0, "the cancel")


def test_fifty_streams_at_once(worker: RunningWorker) -> None:
    results: list[int] = []

    def ask() -> None:
        with httpx.Client(transport=httpx.HTTPTransport(uds=worker.job.socket), timeout=30) as client:
            response = client.post("http://w/v1/completions", json={"model": "m", "prompt": "slow 20"})
            results.append(len(events_of(response)))

    threads = [threading.Thread(target=ask) for _ in range(50)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert results == [21] * 50
    assert worker.metrics()["requests"] == 50
