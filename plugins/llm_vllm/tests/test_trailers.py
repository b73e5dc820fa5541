"""Trailers, over a socket of a real uvicorn."""

import asyncio
import socket
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import uvicorn

from modelrack_llm_vllm.trailers import TRAILERS, add_trailers

Send = Callable[[dict[str, Any]], Awaitable[None]]


async def _app(scope: dict[str, Any], receive: Any, send: Send) -> None:
    headers = [(b"content-length", b"2")] if scope["path"] == "/sized" else []
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    if scope["path"] != "/sized":
        await send({"type": "http.response.body", "body": b"one", "more_body": True})
    last = {"type": "http.response.body", "body": b"" if scope["path"] == "/empty" else b"tw"}
    await send(last if scope["path"] == "/plain" else {**last, TRAILERS: b"x-took: 3,4\r\n"})


async def _answers(path: str, *targets: str) -> bytes:
    """Return all that is answered on one connection."""
    reader, writer = await asyncio.open_unix_connection(path)
    for target in targets:
        close = "connection: close\r\n" if target == targets[-1] else ""
        writer.write(f"GET {target} HTTP/1.1\r\nhost: it\r\n{close}\r\n".encode())
    data = await asyncio.wait_for(reader.read(), 20)
    writer.close()
    return data


async def test_a_trailer_ends_a_stream_and_nothing_else(tmp_path: Path) -> None:
    add_trailers()
    add_trailers()  # once is enough
    path = str(tmp_path / "it.sock")
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(path)
    server = uvicorn.Server(uvicorn.Config(_app, lifespan="off", log_level="warning", http="httptools", ws="none"))
    serving = asyncio.ensure_future(server.serve(sockets=[listener]))
    try:
        async with asyncio.timeout(20):
            while not server.started:
                await asyncio.sleep(0)
        end = b"3\r\none\r\n2\r\ntw\r\n0\r\n"
        assert (await _answers(path, "/stream")).endswith(end + b"x-took: 3,4\r\n\r\n")
        assert (await _answers(path, "/empty")).endswith(b"3\r\none\r\n0\r\nx-took: 3,4\r\n\r\n")
        assert (await _answers(path, "/plain")).endswith(end + b"\r\n")
        assert (await _answers(path, "/sized")).endswith(b"\r\n\r\ntw")
        both = await _answers(path, "/stream", "/plain")
        assert both.count(b"HTTP/1.1 200 OK") == 2 and both.count(b"x-took") == 1
    finally:
        server.should_exit = True
        await serving
