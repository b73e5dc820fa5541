"""HTTP/1.1 on a Unix socket, with little work for each request and each streamed event.

A connection answers one request at a time; requests that were sent ahead wait their turn. A peer that goes away cancels
the task that works for it.
"""

import asyncio
import logging
import socket
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from http import HTTPStatus
from typing import cast

import httptools

__all__ = ["Exchange", "HttpServer", "Request", "Serve"]

log = logging.getLogger(__name__)

_HEADER_LIMIT = 64 * 1024
_AHEAD_LIMIT = 16
_DISCARD_S = 10.0

_STATUS_LINES = {int(s): f"HTTP/1.1 {int(s)} {s.phrase}\r\n".encode() for s in HTTPStatus}


def _status_line(status: int) -> bytes:
    return _STATUS_LINES.get(status) or b"HTTP/1.1 %d Unknown\r\n" % status


class Request:
    """A request with its whole body. Header names are lower case; `path` is without the query."""

    __slots__ = ("body", "headers", "keep_alive", "method", "path", "query")

    def __init__(
        self, method: str, path: str, query: bytes, headers: dict[bytes, bytes], body: bytes, keep_alive: bool
    ) -> None:
        self.method = method
        self.path = path
        self.query = query
        self.headers = headers
        self.body = body
        self.keep_alive = keep_alive


class Exchange:
    """The answer to one request. Writing to a peer that is gone does nothing."""

    __slots__ = ("_connection", "_head", "started")

    def __init__(self, connection: "Connection") -> None:
        self._connection = connection
        self._head = b""
        self.started = False

    @property
    def is_paused(self) -> bool:
        """Tell whether the peer reads too slowly; wait with `drain` before writing more."""
        return self._connection.drained is not None

    async def drain(self) -> None:
        """Wait until the peer has read enough."""
        while (drained := self._connection.drained) is not None:
            await drained

    def send(self, status: int, media_type: bytes, body: bytes, headers: bytes = b"") -> None:
        """Answer as a whole. `headers`: further header lines, each ended by CRLF."""
        self.started = True
        self._connection.write(
            b"%bcontent-type: %b\r\ncontent-length: %d\r\n%b%b\r\n%b"
            % (_status_line(status), media_type, len(body), headers, self._connection.close_header(), body)
        )

    def start_events(self, headers: bytes = b"") -> None:
        """Begin a stream of server-sent events; the head travels with the first of them."""
        self._head = (
            b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\ncache-control: no-cache\r\n"
            b"transfer-encoding: chunked\r\ntrailer: x-modelrack-usage\r\n%b%b\r\n"
            % (headers, self._connection.close_header())
        )

    def send_events(self, events: Sequence[bytes]) -> None:
        """Send events in one chunk and one write. An event is one line of JSON."""
        if len(events) == 1:
            event = events[0]
            data = b"%x\r\ndata: %b\n\n\r\n" % (len(event) + 8, event)
        else:
            text = b"\n\ndata: ".join(events)
            data = b"%x\r\ndata: %b\n\n\r\n" % (len(text) + 8, text)
        if not self.started:
            data = self._head + data
            self.started = True
        self._connection.write(data)

    def end_events(self, events: Sequence[bytes], trailers: bytes = b"") -> None:
        """Send the last events and end the stream, in one write. `trailers`: lines, each ended by CRLF."""
        text = b"\n\ndata: ".join(events)
        data = b"%x\r\ndata: %b\n\n\r\n0\r\n%b\r\n" % (len(text) + 8, text, trailers)
        if not self.started:
            data = self._head + data
            self.started = True
        self._connection.write(data)


Serve = Callable[[Request, Exchange], Awaitable[None]]
"""Answers a request. It must not raise anything but CancelledError."""

RenderError = Callable[[int, str], bytes]
"""Makes the body of an answer to what is not HTTP, or too large, from its status and message."""


class Connection(asyncio.Protocol):
    """One peer."""

    def __init__(self, server: "HttpServer") -> None:
        self._server = server
        self._loop = server.loop
        self._parser = httptools.HttpRequestParser(self)
        self._transport: asyncio.Transport | None = None
        self._ahead: deque[Request] = deque()
        self._task: asyncio.Task[None] | None = None
        self._url = b""
        self._headers: dict[bytes, bytes] = {}
        self._header_bytes = 0
        self._in_head = True
        self._body: list[bytes] = []
        self._body_bytes = 0
        self._is_refused = False
        self._is_last = False
        self._is_reading_paused = False
        self.drained: asyncio.Future[None] | None = None

    # What the event loop calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin."""
        self._transport = cast(asyncio.Transport, transport)
        self._server.connections.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        """Cancel what was being done for this peer."""
        self._transport = None
        self._server.forget(self)
        self._ahead.clear()
        if self.drained is not None:
            self.resume_writing()
        if self._task is not None:
            self._task.cancel()

    def pause_writing(self) -> None:
        """Hold writers back: the peer reads too slowly."""
        self.drained = self._loop.create_future()

    def resume_writing(self) -> None:
        """Let writers go on."""
        drained, self.drained = self.drained, None
        if drained is not None and not drained.done():
            drained.set_result(None)

    def data_received(self, data: bytes) -> None:
        """Parse what has arrived; each complete request is started or waits for its turn."""
        if self._in_head:
            self._header_bytes += len(data)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            self._refuse(400, "This server does not upgrade connections.")
        except httptools.HttpParserError as error:
            if not self._is_refused:
                self._refuse(400, f"This is not HTTP: {error}.")
        if self._in_head and self._header_bytes > _HEADER_LIMIT:
            self._refuse(431, f"The headers are over the limit of {_HEADER_LIMIT} bytes.")

    # What the parser calls.

    def on_message_begin(self) -> None:
        """Forget the request before."""
        self._url = b""
        self._headers = {}

    def on_url(self, url: bytes) -> None:
        """Keep the target; it may come in pieces."""
        self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        """Keep a header."""
        self._headers[name.lower()] = value

    def on_headers_complete(self) -> None:
        """Refuse a body that says it is too large, before it arrives."""
        self._in_head = False
        self._header_bytes = 0
        length = self._headers.get(b"content-length")
        if self._parser.get_http_version() != "1.1":
            # Streams need chunks, which older versions do not have.
            self._refuse(505, "Only HTTP/1.1 is spoken here.")
        elif length is not None and int(length) > self._server.max_body_bytes:
            self._refuse_body()
        elif b"expect" in self._headers and not self._is_refused:
            self.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def on_body(self, body: bytes) -> None:
        """Keep a piece of the body, up to the limit."""
        if self._is_refused:
            return
        self._body.append(body)
        self._body_bytes += len(body)
        if self._body_bytes > self._server.max_body_bytes:
            self._refuse_body()

    def on_message_complete(self) -> None:
        """Start the request, or queue it behind the one under way."""
        self._in_head = True
        if self._is_refused:
            self._close()
            return
        body = self._body[0] if len(self._body) == 1 else b"".join(self._body)
        self._body = []
        self._body_bytes = 0
        path, _, query = self._url.partition(b"?")
        parser = self._parser
        request = Request(
            parser.get_method().decode("latin-1"),
            path.decode("latin-1"),
            query,
            self._headers,
            body,
            parser.should_keep_alive(),
        )
        if self._task is None:
            self._start(request)
            return
        self._ahead.append(request)
        if len(self._ahead) >= _AHEAD_LIMIT and self._transport is not None and not self._is_reading_paused:
            self._is_reading_paused = True
            self._transport.pause_reading()

    # The turn of each request.

    def _start(self, request: Request) -> None:
        self._is_last = not request.keep_alive or self._server.is_draining
        self._task = self._loop.create_task(self._answer(request))

    async def _answer(self, request: Request) -> None:
        try:
            await self._server.serve(request, Exchange(self))
        except Exception:
            log.exception("a request ended without an answer")
            self._is_last = True
        finally:
            self._task = None
            self._go_on()

    def _go_on(self) -> None:
        if self._transport is None:
            return
        if self._is_last or self._server.is_draining:
            self._close()
        elif self._ahead:
            if self._is_reading_paused:
                self._is_reading_paused = False
                self._transport.resume_reading()
            self._start(self._ahead.popleft())

    def write(self, data: bytes) -> None:
        """Write, unless the peer is gone."""
        if self._transport is not None:
            self._transport.write(data)

    def close_header(self) -> bytes:
        """Return the header that tells the peer that this is the last answer, or nothing."""
        return b"connection: close\r\n" if self._is_last or self._server.is_draining else b""

    def close_if_idle(self) -> None:
        """Close, unless a request is under way."""
        if self._task is None:
            self._close()

    def _close(self) -> None:
        if self._transport is not None:
            self._transport.close()

    def _refuse_body(self) -> None:
        self._body = []
        limit = self._server.max_body_bytes
        self._refuse(413, f"The request's body is over the limit of {limit} bytes.", discard=True)

    def _refuse(self, status: int, message: str, *, discard: bool = False) -> None:
        """Answer and close; with `discard` only after the peer has sent all, since it reads no answer before."""
        if self._is_refused:
            return
        self._is_refused = True
        self._is_last = True
        if self._task is not None:
            # The answers of the requests before would be mixed with this one.
            self._close()
            return
        Exchange(self).send(status, b"application/json", self._server.render_error(status, message))
        if discard and self._transport is not None:
            self._loop.call_later(_DISCARD_S, self._transport.abort)
        else:
            self._close()


class HttpServer:
    """Listen on a bound socket and hand each request to `serve`.

    Args:
        serve: answers a request.
        render_error: makes the body of an answer to what never becomes a request.
        max_body_bytes: larger bodies are answered 413.
    """

    def __init__(self, serve: Serve, render_error: RenderError, max_body_bytes: int) -> None:
        self.serve = serve
        self.render_error = render_error
        self.max_body_bytes = max_body_bytes
        self.connections: set[Connection] = set()
        self.is_draining = False
        self.loop = asyncio.get_running_loop()
        self._server: asyncio.Server | None = None
        self._closed = asyncio.Event()

    async def start(self, sock: socket.socket) -> None:
        """Accept connections on a bound Unix socket."""
        self._server = await self.loop.create_unix_server(lambda: Connection(self), sock=sock, backlog=1024)

    def drain(self) -> None:
        """Take no new connection and close those that are idle; the others close after their answer."""
        self.is_draining = True
        if self._server is not None:
            self._server.close()
        if not self.connections:
            self._closed.set()
        for connection in list(self.connections):
            connection.close_if_idle()

    async def closed(self) -> None:
        """Wait, after `drain`, until every peer has what was written for it."""
        await self._closed.wait()

    def forget(self, connection: Connection) -> None:
        """Drop a connection that is closed."""
        self.connections.discard(connection)
        if self.is_draining and not self.connections:
            self._closed.set()
