"""The gateway over real sockets: routing, refusals, what passes through, and what is never passed on."""

import json
from collections.abc import Callable
from typing import Any

import pytest

from gateway_rig import CHAT, FORM, Rig, WorkerProcess, request_bytes, wait_for


async def post(rig: Rig, body: Any, **options: Any) -> tuple[int, dict[str, str], Any]:
    async with rig.client() as client:
        answer = await client.post(CHAT, **(options if body is None else {"json": body, **options}))
    return answer.status_code, dict(answer.headers), answer.json()


def assert_error(answer: tuple[int, dict[str, str], Any], status: int, code: str, param: str | None = None) -> str:
    assert answer[0] == status
    error = answer[2]["error"]
    assert answer[2]["detail"] == error["message"]
    assert (error["code"], error["param"]) == (code, param)
    assert answer[1]["content-type"] == "application/json"
    return str(error["message"])


async def test_bytes_pass_untouched_both_ways(rig: Rig, worker: WorkerProcess) -> None:
    content = b'{ "model":"m",\t"do" : "echo", "text": "\xc3\xa9\\u00e9 ", "twice": 1.0 }'
    async with rig.client() as client:
        answer = await client.post(f"{CHAT}?a=1&b=%20", content=content, headers={"content-type": "application/json"})
    assert answer.status_code == 200
    assert answer.content == content
    head = worker.state()["last_head"]
    assert head.startswith(f"POST {CHAT}?a=1&b=%20 HTTP/1.1\r\n")


async def test_hop_headers_and_usage_are_not_passed_on(rig: Rig, worker: WorkerProcess) -> None:
    _, headers, _ = await post(rig, {"model": "m", "do": "echo"})
    assert "x-modelrack-usage" not in headers
    assert "1970" not in headers["date"]


async def test_credentials_do_not_reach_the_worker(make_rig: Callable[..., Rig]) -> None:
    rig = make_rig(api_keys=("sk-good",))
    worker = rig.add()
    body = {"model": "m", "do": "echo"}
    assert (await post(rig, body, headers={"Authorization": "Bearer sk-good"}))[0] == 200
    assert (await post(rig, body, headers={"x-api-key": "sk-good"}))[0] == 200
    assert "sk-good" not in worker.state()["last_head"]


async def test_worker_refusals_pass_through(rig: Rig, worker: WorkerProcess) -> None:
    status, _, body = await post(rig, {"model": "m", "do": "refuse"})
    assert (status, body["detail"]) == (400, "no")


async def test_errors_of_command_workers_get_our_body(rig: Rig) -> None:
    """Good answers pass as they are; a connection whose error was read whole is used again."""
    worker = rig.add("f", is_foreign=True)
    before = worker.state()["connections"]
    for _ in range(3):
        status, headers, body = await post(rig, {"model": "f", "do": "fail", "text": "the engine is dead"})
        assert (status, headers["content-type"]) == (500, "application/json")
        assert body["error"] == {
            "message": "the engine is dead",
            "type": "server_error",
            "param": None,
            "code": "engine_error",
        }
        assert body["detail"] == "the engine is dead"
    status, _, body = await post(rig, {"model": "f", "do": "refuse"})
    assert (status, body["error"]["code"], body["detail"]) == (400, "invalid_request", "no")
    assert (await post(rig, {"model": "f", "do": "echo"}))[0] == 200
    assert worker.state()["connections"] == before + 2  # one for all of these, one for each question about the state
    rig.log.flush()
    assert any("error=engine_error" in line and "status=500" in line for line in rig.lines())


async def test_errors_of_command_workers_that_never_end(rig: Rig) -> None:
    rig.add("f", is_foreign=True)
    status, _, body = await post(rig, {"model": "f", "do": "fail", "text": "x" * 65536, "times": 200})
    assert status == 500 and len(body["error"]["message"]) == 2000
    status, _, body = await post(rig, {"model": "f", "do": "fail", "text": "half", "cut": True})
    assert (status, body["error"]["code"]) == (502, "worker_lost")


async def test_unknown_model_is_named(shared_rig: Rig) -> None:
    assert "'no-such'" in assert_error(await post(shared_rig, {"model": "no-such"}), 404, "model_not_found", "model")


async def test_known_but_not_ready(shared_rig: Rig) -> None:
    answer = await post(shared_rig, {"model": "loading"})
    assert_error(answer, 503, "model_not_ready")
    assert answer[1]["retry-after"] == "5"
    assert answer[2]["error"]["progress"] == 0.4


async def test_a_path_that_the_engine_does_not_serve(rig: Rig) -> None:
    rig.add("m", routes=(FORM,))
    assert CHAT in assert_error(await post(rig, {"model": "m"}), 400, "invalid_request", "model")


async def test_over_the_limit(rig: Rig) -> None:
    worker = rig.add("m", limit=1)
    with rig.connect() as first:
        first.sendall(request_bytes({"model": "m", "do": "hang"}))
        wait_for(lambda: worker.state()["requests"] == 1)
        answer = await post(rig, {"model": "m", "do": "echo"})
        assert_error(answer, 429, "too_many_requests")
        assert answer[1]["retry-after"] == "1"
    wait_for(lambda: worker.state()["left"] == 1)
    target = rig.directory.get("m")
    assert target is not None
    wait_for(lambda: target.endpoints[0].active == 0)
    assert (await post(rig, {"model": "m", "do": "echo"}))[0] == 200


@pytest.mark.parametrize("headers", [{}, {"Authorization": "Bearer bad"}, {"Authorization": "Basic sk-good"}])
async def test_keys_are_asked_for(make_rig: Callable[..., Rig], headers: dict[str, str]) -> None:
    rig = make_rig(api_keys=("sk-good", "sk-other"))
    answer = await post(rig, {"model": "m"}, headers=headers)
    assert_error(answer, 401, "invalid_api_key")
    assert answer[1]["www-authenticate"] == "Bearer"
    async with rig.client(headers=headers) as client:
        assert (await client.get("/v1/numbers/1")).status_code == 401
        assert (await client.get("/v1/chat/completions")).status_code == 401
        assert (await client.get("/health")).status_code == 200
        good = await client.get("/v1/numbers/1", headers={"Authorization": "Bearer sk-other"})
        assert good.status_code == 200


@pytest.mark.parametrize(
    ("content", "param", "part"),
    [
        (b"{", None, "not valid JSON"),
        (b"", None, "empty"),
        (b"\xff\xfe", None, "not valid JSON"),
        (b"[" * 5000, None, "not valid JSON"),
        (b"[1]", None, "JSON object"),
        (b'"m"', None, "JSON object"),
        (b"{}", "model", "required"),
        (b'{"model": null}', "model", "required"),
        (b'{"model": 7}', "model", "string"),
        (b'{"model": ["m"]}', "model", "string"),
        (b'{"model": ""}', "model", "string"),
        (b'{"model": "' + b"m" * 257 + b'"}', "model", "256"),
    ],
)
async def test_bad_bodies(shared_rig: Rig, content: bytes, param: str | None, part: str) -> None:
    assert part in assert_error(await post(shared_rig, None, content=content), 400, "invalid_request", param)


async def test_compressed_bodies_are_refused(shared_rig: Rig) -> None:
    answer = await post(shared_rig, None, content=b"\x1f\x8b", headers={"content-encoding": "gzip"})
    assert "gzip" in assert_error(answer, 400, "invalid_request")


@pytest.mark.parametrize("path", [CHAT, "/v1/raw"])
@pytest.mark.parametrize("chunked", [False, True])
async def test_bodies_over_the_limit(make_rig: Callable[..., Rig], path: str, chunked: bool) -> None:
    rig = make_rig(max_body_mb=0.001)

    async def pieces() -> Any:
        for _ in range(10):
            yield b" " * 200

    async with rig.client() as client:
        answer = await client.post(path, content=pieces() if chunked else b" " * 2000)
        assert answer.status_code == 413
        assert answer.json()["error"]["code"] == "payload_too_large"
        assert "MiB" in answer.json()["detail"]


async def test_chunked_bodies_below_the_limit(rig: Rig, worker: WorkerProcess) -> None:
    async def pieces() -> Any:
        for piece in (b'{"model": "m",', b'"do": "echo"', b"}"):
            yield piece

    async with rig.client() as client:
        assert (await client.post(CHAT, content=pieces())).json() == {"model": "m", "do": "echo"}
        assert (await client.post("/v1/raw", content=pieces())).json() == 27


async def test_large_bodies_arrive_whole(rig: Rig, worker: WorkerProcess) -> None:
    body = {"model": "m", "do": "echo", "text": "x" * 3_000_000}
    status, _, answer = await post(rig, body)
    assert status == 200
    assert answer == body


@pytest.mark.parametrize("method", ["GET", "PUT", "HEAD", "OPTIONS"])
async def test_other_methods_on_inference_paths(shared_rig: Rig, method: str) -> None:
    async with shared_rig.client() as client:
        answer = await client.request(method, CHAT)
    assert (answer.status_code, answer.headers["allow"]) == (405, "POST")
    assert method == "HEAD" or answer.json()["error"]["code"] == "method_not_allowed"


async def test_forms_are_routed_by_their_model_field(rig: Rig, worker: WorkerProcess) -> None:
    files = {"file": ("model.wav", b'--x\r\nContent-Disposition: form-data; name="model"\r\n\r\nother\r\n' * 1000)}
    async with rig.client() as client:
        good = await client.post(FORM, data={"model": "m"}, files=files)
        missing = await client.post(FORM, data={"other": "m"}, files=files)
        unknown = await client.post(FORM, data={"model": "none"}, files=files)
        broken = await client.post(
            FORM, content=b"--a\r\n", headers={"content-type": "multipart/form-data; boundary=a"}
        )
    assert good.status_code == 200
    assert b"model.wav" in good.content
    assert "content-type: multipart/form-data; boundary=" in worker.state()["last_head"]
    assert (missing.status_code, missing.json()["error"]["param"]) == (400, "model")
    assert unknown.status_code == 404
    assert broken.status_code == 400


async def test_request_ids(rig: Rig, worker: WorkerProcess) -> None:
    body = {"model": "m", "do": "echo"}
    _, headers, _ = await post(rig, body, headers={"X-Request-ID": "trace-1.a:b"})
    assert headers["x-request-id"] == "trace-1.a:b"
    assert "x-request-id: trace-1.a:b\r\n" in worker.state()["last_head"]
    made = [(await post(rig, body))[1]["x-request-id"] for _ in range(2)]
    assert len({*made, "trace-1.a:b"}) == 3
    for bad in ("has space", "x" * 200, "a\tb", '"quoted"'):
        assert (await post(rig, body, headers={"X-Request-ID": bad}))[1]["x-request-id"] != bad
    async with rig.client() as client:
        assert (await client.get("/v1/numbers/1", headers={"X-Request-ID": "mine"})).headers["x-request-id"] == "mine"


async def test_the_least_busy_replica_answers(rig: Rig) -> None:
    first, second = rig.add("m"), rig.add("m")
    with rig.connect() as one, rig.connect() as two:
        for connection in (one, two):
            connection.sendall(request_bytes({"model": "m", "do": "hang"}))
            wait_for(lambda: first.state()["requests"] == 1)
        wait_for(lambda: second.state()["requests"] == 1)


async def test_the_management_application_has_the_same_body(rig: Rig) -> None:
    async with rig.client() as client:
        answers = {
            "bad path": await client.get("/v1/numbers/x"),
            "missing field": await client.post("/v1/settings", json={}),
            "no json": await client.post("/v1/settings", content=b"{", headers={"content-type": "application/json"}),
            "no route": await client.get("/v1/nothing"),
            "no method": await client.delete("/v1/numbers/1"),
            "raised": await client.get("/v1/taken"),
            "broken": await client.get("/v1/broken"),
        }
    seen = {name: (answer.status_code, answer.json()["error"]["param"]) for name, answer in answers.items()}
    assert seen == {
        "bad path": (400, "number"),
        "missing field": (400, "size"),
        "no json": (400, None),
        "no route": (404, None),
        "no method": (405, None),
        "raised": (409, None),
        "broken": (500, None),
    }
    for answer in answers.values():
        assert answer.json()["detail"] == answer.json()["error"]["message"]
        assert answer.headers["x-request-id"]
    assert "/v1/nothing" in answers["no route"].text
    assert "valid JSON" in answers["no json"].text
    assert answers["no method"].headers["allow"] == "GET"
    assert answers["raised"].headers["retry-after"] == "9"
    assert answers["raised"].json()["error"]["remedy"] == "Take another."
    assert "inside" not in answers["broken"].text


async def test_an_unforeseen_failure_is_logged_with_its_request_id(rig: Rig, caplog: pytest.LogCaptureFixture) -> None:
    async with rig.client() as client:
        await client.get("/v1/broken", headers={"x-request-id": "find-me"})
    (record,) = [record for record in caplog.records if record.name == "modelrack.server.errors"]
    assert "find-me" in record.getMessage()
    assert record.exc_info is not None and "inside" in str(record.exc_info[1])


async def test_answers_of_odd_workers(rig: Rig, worker: WorkerProcess) -> None:
    async with rig.client() as client:
        until_closed = await client.post(CHAT, json={"model": "m", "do": "until_closed"})
        interim = await client.post(CHAT, json={"model": "m", "do": "interim"})
        garbage = await client.post(CHAT, json={"model": "m", "do": "garbage"})
    assert until_closed.text == "no length"
    assert (interim.status_code, interim.json()) == (200, {})
    assert "link" not in interim.headers
    assert (garbage.status_code, garbage.json()["error"]["code"]) == (502, "worker_lost")


async def test_streams_arrive_whole_and_as_they_come(rig: Rig, worker: WorkerProcess) -> None:
    seen: list[bytes] = []
    body = {"model": "m", "do": "stream", "events": 5, "interval_s": 0.02}
    async with rig.client() as client, client.stream("POST", CHAT, json=body) as answer:
        assert answer.headers["content-type"] == "text/event-stream"
        assert "x-modelrack-usage" not in answer.headers
        async for piece in answer.aiter_raw():
            seen.append(piece)
    assert len(seen) >= 5
    events = b"".join(seen).decode().split("\n\n")
    assert [json.loads(event[6:])["n"] for event in events[:5]] == [0, 1, 2, 3, 4]
    assert events[5:] == ["data: [DONE]", ""]


@pytest.mark.parametrize("crlf", [False, True])
async def test_events_that_come_in_pieces_arrive_whole(rig: Rig, worker: WorkerProcess, crlf: bool) -> None:
    body = {"model": "m", "do": "stream", "events": 4, "split": True, "interval_s": 0.01, "crlf": crlf}
    end = b"\r\n\r\n" if crlf else b"\n\n"
    pieces = []
    async with rig.client() as client, client.stream("POST", CHAT, json=body) as answer:
        async for piece in answer.aiter_raw():
            pieces.append(piece)
    assert all(piece.endswith(end) for piece in pieces)
    assert b"".join(pieces).count(end) == 5
