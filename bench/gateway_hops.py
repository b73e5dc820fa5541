"""The gateway's hop to the worker, by other means: the general HTTP clients in the place of `modelrack.server.hop`.

Each has the interface of `Hop` and `Answer` as far as the gateway uses it, without retries and without usage.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

URL = "http://worker/v1/chat/completions"
HEADERS = {"content-type": "application/json"}


class OtherAnswer:
    """An answer whose body comes from an iterator; like most clients, it learns of the end only by asking again."""

    usage = None

    def __init__(
        self, status: int, headers: list[tuple[bytes, bytes]], body: AsyncIterator[bytes], close: Callable[[], Any]
    ) -> None:
        self.status = status
        self.headers = [(name.lower(), value) for name, value in headers if name.lower() != b"transfer-encoding"]
        self.content_type = dict(self.headers).get(b"content-type", b"")
        self.finished = False
        self._body = body
        self._close = close

    async def read(self) -> bytes:
        """Return the next piece; empty at the end."""
        try:
            return await anext(self._body)
        except StopAsyncIteration:
            self.finished = True
            return b""

    def release(self) -> None:
        """Give the connection back."""
        self._close()


class AiohttpHop:
    """aiohttp with its connector for Unix sockets."""

    session: Any = None

    async def request(self, socket: str, head: bytes, body: bytes) -> OtherAnswer:
        """Send a request and wait for the head of its answer."""
        import aiohttp  # type: ignore[import-not-found,unused-ignore]  # for the comparison only, no dependency

        if self.session is None:
            connector = aiohttp.UnixConnector(socket, limit=0)
            self.session = aiohttp.ClientSession(connector=connector, auto_decompress=False)
        answer = await self.session.post(URL, data=body, headers=HEADERS)
        return OtherAnswer(answer.status, list(answer.raw_headers), answer.content.iter_any(), answer.release)


class HttpxHop:
    """httpx with a transport for Unix sockets."""

    client: Any = None

    async def request(self, socket: str, head: bytes, body: bytes) -> OtherAnswer:
        """Send a request and wait for the head of its answer."""
        import httpx

        if self.client is None:
            limits = httpx.Limits(max_connections=None, max_keepalive_connections=128)
            self.client = httpx.AsyncClient(transport=httpx.AsyncHTTPTransport(uds=socket, limits=limits), timeout=None)
        request = self.client.build_request("POST", URL, content=body, headers=HEADERS)
        answer = await self.client.send(request, stream=True)
        return OtherAnswer(answer.status_code, answer.headers.raw, answer.aiter_raw(), lambda: None)


class HttpcoreHop:
    """httpcore, the lower half of httpx."""

    pool: Any = None

    async def request(self, socket: str, head: bytes, body: bytes) -> OtherAnswer:
        """Send a request and wait for the head of its answer."""
        import httpcore

        if self.pool is None:
            self.pool = httpcore.AsyncConnectionPool(uds=socket, max_connections=None, max_keepalive_connections=128)
        headers = [(b"host", b"worker"), (b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
        answer = await self.pool.handle_async_request(httpcore.Request("POST", URL, headers=headers, content=body))
        return OtherAnswer(answer.status, answer.headers, self._pieces(answer), lambda: None)

    async def _pieces(self, answer: Any) -> AsyncIterator[bytes]:
        async for piece in answer.aiter_stream():
            yield piece
        await answer.aclose()


class StreamsHop:
    """The standard library's streams, with the least of HTTP by hand."""

    def __init__(self) -> None:
        self.idle: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []

    async def request(self, socket: str, head: bytes, body: bytes) -> OtherAnswer:
        """Send a request and wait for the head of its answer."""
        pair = self.idle.pop() if self.idle else await asyncio.open_unix_connection(socket)
        reader, writer = pair
        writer.write(head + body)
        lines = (await reader.readuntil(b"\r\n\r\n")).split(b"\r\n")[:-2]
        headers = [(name, value.strip()) for name, _, value in (line.partition(b":") for line in lines[1:])]
        length = dict(headers).get(b"content-length")
        pieces = self._chunks(reader) if length is None else self._whole(reader, int(length))
        return OtherAnswer(int(lines[0].split()[1]), headers, pieces, lambda: self.idle.append(pair))

    async def _whole(self, reader: asyncio.StreamReader, length: int) -> AsyncIterator[bytes]:
        yield await reader.readexactly(length)

    async def _chunks(self, reader: asyncio.StreamReader) -> AsyncIterator[bytes]:
        while length := int(await reader.readline(), 16):
            yield (await reader.readexactly(length + 2))[:-2]
        while await reader.readline() != b"\r\n":
            pass


HOPS: dict[str, Callable[[], Any]] = {
    "aiohttp": AiohttpHop,
    "httpx": HttpxHop,
    "httpcore": HttpcoreHop,
    "streams": StreamsHop,
}
