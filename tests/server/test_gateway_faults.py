"""What the gateway does when a worker, a client or a connection fails, and under many requests at once."""

import asyncio
import json
import resource
import socket
import time
from pathlib import Path

import httpx
import pytest

from gateway_rig import CHAT, Rig, WorkerProcess, request_bytes, wait_for

STREAM = {"model": "m", "do": "stream", "events": 3, "endless": True}


async def read_until_lost(rig: Rig, started: asyncio.Semaphore) -> tuple[bytes, float]:
    async with rig.client() as client, client.stream("POST", CHAT, json=STREAM) as answer:
        received = b""
        async for piece in answer.aiter_raw():
            received += piece
            if received.count(b"\n\n") == 3:
                started.release()
        return received, time.monotonic()


async def test_each_of_eight_streams_ends_with_one_error_event(rig: Rig, worker: WorkerProcess) -> None:
    started = asyncio.Semaphore(0)
    streams = [asyncio.ensure_future(read_until_lost(rig, started)) for _ in range(8)]
    async with asyncio.timeout(10):
        for _ in streams:
            await started.acquire()
    killed = time.monotonic()
    worker.kill()
    for received, ended in await asyncio.gather(*streams):
        assert ended - killed < 1.0
        events = received.decode().split("\n\n")
        assert len(events) == 5 and events[4] == ""
        error = json.loads(events[3].removeprefix("data: "))
        assert error["error"]["code"] == "worker_lost"
        assert received.count(b'"error"') == 1
    wait_for(lambda: sum("error=worker_lost" in line for line in rig.lines()) == 8)


async def test_the_error_event_never_lands_inside_of_another(rig: Rig, worker: WorkerProcess) -> None:
    async with rig.client() as client:
        answer = await client.post(CHAT, json={"model": "m", "do": "stream", "events": 2, "part": True})
    events = answer.text.split("\n\n")
    assert [sorted(json.loads(event.removeprefix("data: "))) for event in events[:-1]] == [["n", "pad"]] * 2 + [
        ["error"]
    ]


async def test_a_stream_that_was_complete_gets_no_error_event(rig: Rig, worker: WorkerProcess) -> None:
    """Clients stop reading at `[DONE]`; an error after it would be found at the start of their next answer."""
    async with rig.client() as client:
        answer = await client.post(CHAT, json={"model": "m", "do": "stream", "events": 2, "lost_end": True})
    assert answer.text.endswith("data: [DONE]\n\n")
    assert "error" not in answer.text


async def test_a_worker_that_dies_before_it_answers(rig: Rig, worker: WorkerProcess) -> None:
    async with rig.client() as client:
        answer = await client.post(CHAT, json={"model": "m", "do": "die"})
        assert (answer.status_code, answer.json()["error"]["code"]) == (502, "worker_lost")
        assert answer.headers["retry-after"] == "1"
        again = await client.post(CHAT, json={"model": "m", "do": "echo"})  # nothing listens any more
        assert (again.status_code, again.json()["error"]["code"]) == (502, "worker_lost")
    assert rig.gateway.hop._pools == {}


async def test_a_body_that_is_cut_off_is_not_taken_for_complete(rig: Rig, worker: WorkerProcess) -> None:
    async with rig.client() as client:
        with pytest.raises(httpx.RemoteProtocolError):
            await client.post(CHAT, json={"model": "m", "do": "cut"})
    wait_for(lambda: any("status=200" in line and "error=worker_lost" in line for line in rig.lines()))


@pytest.mark.parametrize("body", [{"model": "m", "do": "hang"}, STREAM], ids=["waiting", "streaming"])
async def test_a_client_that_leaves_cancels_the_work(rig: Rig, worker: WorkerProcess, body: dict[str, object]) -> None:
    with rig.connect() as connection:
        connection.sendall(request_bytes(body))
        wait_for(lambda: worker.state()["requests"] == 1)
        if body is STREAM:
            assert connection.recv(1000)
    wait_for(lambda: worker.state()["left"] == 1, within_s=1.0)
    (line,) = wait_for(rig.lines)
    assert "error=client_left" in line
    assert f"status={200 if body is STREAM else 499}" in line
    target = rig.directory.get("m")
    assert target is not None and target.endpoints[0].active == 0


@pytest.mark.parametrize("body", [{"model": "m", "do": "hang"}, STREAM], ids=["waiting", "streaming"])
async def test_an_aborted_request_ends_with_an_error(rig: Rig, worker: WorkerProcess, body: dict[str, object]) -> None:
    assert not rig.gateway.abort("m", "mine")
    async with rig.client() as client:
        pending = asyncio.ensure_future(client.post(CHAT, json=body, headers={"x-request-id": "mine"}))
        await asyncio.to_thread(wait_for, lambda: worker.state()["requests"] == 1)
        rig.call(lambda: rig.gateway.abort("m", "mine"))
        answer = await pending
    await asyncio.to_thread(wait_for, lambda: worker.state()["left"] == 1)
    if body is STREAM:
        assert answer.text.count("data: ") == 4
        assert json.loads(answer.text.split("\n\n")[3].removeprefix("data: "))["error"]["code"] == "request_aborted"
    else:
        assert (answer.status_code, answer.json()["error"]["code"]) == (409, "request_aborted")
    assert "error=request_aborted" in wait_for(rig.lines)[0]


async def test_a_client_that_leaves_while_sending_its_body(rig: Rig, worker: WorkerProcess) -> None:
    with rig.connect() as connection:
        connection.sendall(request_bytes({"model": "m", "do": "echo"})[:-3])
    (line,) = wait_for(rig.lines)
    assert "status=499" in line
    assert worker.state()["requests"] == 0


async def test_a_client_that_reads_nothing_holds_the_worker_back(rig: Rig, worker: WorkerProcess) -> None:
    before_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.connect(("127.0.0.1", rig.port))
        connection.sendall(request_bytes({"model": "m", "do": "stream", "events": 100_000, "pad": 2000}))
        sent = [-1, 0]

        def is_held() -> bool:
            sent.append(worker.state()["sent_bytes"])
            time.sleep(0.05)
            return sent[-1] > 0 and len(set(sent[-4:])) == 1

        wait_for(is_held, within_s=10)
        assert sent[-1] < 12_000_000
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before_kib < 16 * 1024
        connection.settimeout(5)
        received = 0
        while received < 2 * sent[-1]:  # reading on brings the rest
            received += len(connection.recv(1 << 20))
    wait_for(lambda: worker.state()["left"] == 1)


async def test_two_hundred_streams_at_once(rig: Rig, worker: WorkerProcess) -> None:
    """The worker's queue of new connections holds twenty: the others are retried, not refused."""
    request = request_bytes({"model": "m", "do": "stream", "events": 20, "interval_s": 0.02})

    async def stream() -> bytes:
        reader, writer = await asyncio.open_connection("127.0.0.1", rig.port)
        writer.write(request)
        received = await reader.readuntil(b"0\r\n\r\n")
        writer.close()
        return received

    async with asyncio.timeout(30):
        answers = await asyncio.gather(*(stream() for _ in range(200)))
    for answer in answers:
        assert answer.startswith(b"HTTP/1.1 200 OK")
        assert answer.count(b"data: {") == 20
        assert answer.count(b"data: [DONE]") == 1
    series = rig.metrics.series("m", CHAT)
    wait_for(lambda: series.statuses == {200: 200} and series.in_flight == 0)


async def test_connections_are_kept_and_used_again(rig: Rig, worker: WorkerProcess) -> None:
    async with rig.client() as client:
        for number in range(20):
            body = {"model": "m", "do": "stream", "events": 2} if number % 2 else {"model": "m", "do": "echo"}
            assert (await client.post(CHAT, json=body)).status_code == 200
    seen = worker.state()
    assert seen["requests"] == 20
    assert seen["connections"] == 2  # one of the gateway, one of this question


async def test_a_kept_connection_that_was_closed_meanwhile_is_replaced(rig: Rig, worker: WorkerProcess) -> None:
    async with rig.client() as client:
        assert (await client.post(CHAT, json={"model": "m", "do": "echo", "drop_next": True})).status_code == 200
        assert (await client.post(CHAT, json={"model": "m", "do": "echo"})).status_code == 200
    assert worker.state()["requests"] == 2


async def test_a_new_worker_on_the_same_socket_is_found(rig: Rig, worker: WorkerProcess) -> None:
    async with rig.client() as client:
        assert (await client.post(CHAT, json={"model": "m", "do": "echo"})).status_code == 200
        worker.kill()
        Path(worker.socket).unlink()
        rig.workers.append(WorkerProcess(Path(worker.socket)))
        assert (await client.post(CHAT, json={"model": "m", "do": "echo"})).status_code == 200


async def test_a_failure_of_one_worker_is_not_felt_by_another(rig: Rig, worker: WorkerProcess) -> None:
    rig.add("other")
    body = {"model": "other", "do": "stream", "events": 30, "interval_s": 0.01}
    async with rig.client() as client:
        other = asyncio.ensure_future(client.post(CHAT, json=body))
        assert (await client.post(CHAT, json={"model": "m", "do": "die"})).status_code == 502
        assert (await other).text.count("data: {") == 30
