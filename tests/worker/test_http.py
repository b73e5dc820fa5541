"""The HTTP server, byte by byte, against a real worker process."""

import json
import os
import stat

import pytest

from .conftest import RunningWorker, read_until, request_bytes


@pytest.fixture
def worker(shared_worker: RunningWorker) -> RunningWorker:
    return shared_worker


def test_a_connection_is_used_again(worker: RunningWorker) -> None:
    with worker.connect() as raw:
        for _ in range(3):
            raw.sendall(request_bytes("say x"))
            assert b"connection: close" not in read_until(raw, b"}")
            raw.sendall(request_bytes("count 2"))
            read_until(raw, b"\r\n0\r\nx-modelrack-usage: 1,2\r\n\r\n")
            raw.sendall(request_bytes("refuse"))
            read_until(raw, b'another."}')


def test_requests_sent_ahead_are_answered_in_order(worker: RunningWorker) -> None:
    count = 100
    with worker.connect() as raw:
        raw.sendall(b"".join(request_bytes(f"say number {index}") for index in range(count)))
        data = b""
        while data.count(b"HTTP/1.1 200 OK") < count or not data.endswith(b"}"):
            data += raw.recv(65536)
    places = [data.index(b'"number %d"' % index) for index in range(count)]
    assert places == sorted(places)


def test_a_body_in_chunks_and_in_drops(worker: RunningWorker) -> None:
    body = json.dumps({"model": "m", "prompt": "say ünï"}, ensure_ascii=False).encode()
    head = b"POST /v1/completions?x=1 HTTP/1.1\r\nhost: w\r\ntransfer-encoding: chunked\r\n\r\n"
    message = head + b"".join(b"1\r\n%c\r\n" % byte for byte in body) + b"0\r\n\r\n"
    with worker.connect() as raw:
        for start in range(0, len(message), 7):
            raw.sendall(message[start : start + 7])
        assert "ünï".encode() in read_until(raw, b"}")


def test_close_on_request(worker: RunningWorker) -> None:
    with worker.connect() as raw:
        raw.sendall(request_bytes("say x").replace(b"host: w", b"connection: close"))
        assert b"connection: close" in read_until(raw, b"}")
        assert raw.recv(1) == b""


def test_expect_continue(worker: RunningWorker) -> None:
    head, _, body = request_bytes("say x").partition(b"\r\n\r\n")
    with worker.connect() as raw:
        raw.sendall(head + b"\r\nexpect: 100-continue\r\n\r\n")
        assert read_until(raw, b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        raw.sendall(body)
        assert read_until(raw, b"}").startswith(b"HTTP/1.1 200 OK")


def test_a_body_that_says_it_is_too_large(worker: RunningWorker) -> None:
    response = worker.client.post("/v1/completions", content=b"x" * 200_000)
    assert response.status_code == 413
    assert "100000 bytes" in response.json()["error"]["message"]
    assert worker.ask("say x").status_code == 200


def test_a_chunked_body_that_grows_too_large(worker: RunningWorker) -> None:
    response = worker.client.post("/v1/completions", content=(b"x" * 10_000 for _ in range(30)))
    assert response.status_code == 413
    assert response.json()["detail"]


def test_what_is_not_http(worker: RunningWorker) -> None:
    with worker.connect() as raw:
        raw.sendall(b"\x16\x03\x01 hello\r\n\r\n")
        answer = read_until(raw, b"}")
        assert answer.startswith(b"HTTP/1.1 400 Bad Request")
        assert json.loads(answer.partition(b"\r\n\r\n")[2])["error"]["type"] == "invalid_request_error"
        assert raw.recv(1) == b""


def test_another_version_of_http(worker: RunningWorker) -> None:
    with worker.connect() as raw:
        raw.sendall(request_bytes("say x").replace(b"HTTP/1.1", b"HTTP/1.0"))
        assert read_until(raw, b"}").startswith(b"HTTP/1.1 505")
        assert raw.recv(1) == b""


def test_headers_without_end(worker: RunningWorker) -> None:
    with worker.connect() as raw:
        raw.sendall(b"GET /_worker/status HTTP/1.1\r\nx: ")
        raw.sendall(b"y" * 66_000)
        assert read_until(raw, b"}").startswith(b"HTTP/1.1 431")


def test_the_socket_is_the_owners_alone(worker: RunningWorker) -> None:
    assert stat.S_IMODE(os.stat(worker.job.socket).st_mode) == 0o600
