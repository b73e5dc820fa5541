"""The hop by itself, against sockets that behave oddly."""

import asyncio
import socket
from pathlib import Path

import pytest

from modelrack.errors import WorkerLost
from modelrack.server.hop import Hop

HEAD = b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 0\r\n\r\n"


async def test_no_socket_at_all(tmp_path: Path) -> None:
    hop = Hop()
    with pytest.raises(WorkerLost, match="No such file"):
        await hop.request(str(tmp_path / "none"), HEAD, b"")
    assert hop._pools == {}


async def test_a_full_queue_of_new_connections_is_waited_for(tmp_path: Path) -> None:
    """A Unix socket answers EAGAIN then, which event loops do not take for "try again"."""
    path = str(tmp_path / "s")
    hop = Hop()
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen(1)
        requests = [asyncio.ensure_future(hop.request(path, HEAD, b"")) for _ in range(8)]
        await asyncio.sleep(0)  # nothing accepts yet
        taken = []
        loop = asyncio.get_running_loop()
        listener.setblocking(False)
        async with asyncio.timeout(5):
            for _ in requests:
                connection, _ = await loop.sock_accept(listener)
                taken.append(connection)
                await loop.sock_sendall(connection, b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")
            for answer in await asyncio.gather(*requests):
                assert await answer.read() == b"ok"
                assert answer.finished
                answer.release()
        hop.close()
        for connection in taken:
            connection.close()


async def test_a_queue_that_stays_full_is_a_lost_worker(tmp_path: Path) -> None:
    path = str(tmp_path / "s")
    hop = Hop(connect_limit_s=0.05)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen(0)
        requests = [asyncio.ensure_future(hop.request(path, HEAD, b"")) for _ in range(4)]
        done, waiting = await asyncio.wait(requests, timeout=5, return_when=asyncio.FIRST_COMPLETED)
        assert done and all(isinstance(request.exception(), WorkerLost) for request in done)
        for request in waiting:
            request.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)


async def test_idle_connections_are_bounded_and_forgotten(tmp_path: Path) -> None:
    path = str(tmp_path / "s")
    closed = 0

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal closed
        while await reader.read(1000):
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")
        closed += 1
        writer.close()

    async def is_closed(count: int) -> None:
        async with asyncio.timeout(5):
            while closed < count:
                await asyncio.sleep(0.005)

    server = await asyncio.start_unix_server(answer, path)
    hop = Hop(max_idle=2)
    answers = [await hop.request(path, HEAD, b"") for _ in range(5)]
    for each in answers:
        assert await each.read() == b""
        each.release()
    await is_closed(3)
    hop.forget(path)
    await is_closed(5)
    assert hop._pools == {}
    server.close()
    await server.wait_closed()


async def test_cancelling_closes_the_connection(tmp_path: Path) -> None:
    path = str(tmp_path / "s")
    came, left = asyncio.Event(), asyncio.Event()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        came.set()
        await reader.read()
        left.set()
        writer.close()

    server = await asyncio.start_unix_server(answer, path)
    request = asyncio.ensure_future(Hop().request(path, HEAD, b""))
    async with asyncio.timeout(5):
        await came.wait()
        request.cancel()
        await left.wait()
    server.close()
    await server.wait_closed()
