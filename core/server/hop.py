"""The hop to the workers: HTTP/1.1 over their Unix sockets, kept alive, with bytes passed as they come.

A protocol on the event loop with llhttp (httptools) as its parser, and nothing between: docs/performance.md has what
the general HTTP clients cost in its place.
"""

import asyncio
import socket as sockets
from typing import cast

import httptools

from ..errors import WorkerLost

__all__ = ["Answer", "Hop"]

HIGH_WATER_BYTES = 64 * 1024
"""Bytes that wait for a slow client before the worker is no longer read."""

JOIN_BYTES = 64 * 1024
"""Bodies up to this size are sent in one write with the head; copying a larger one costs more than a second write."""

STALE_S = 1.0
"""A kept-alive connection that fails sooner than this after a request was written was closed before it arrived."""

BACKLOG_DELAY_S = 0.002
"""First pause when the worker's queue of new connections is full; doubled each time."""

_USAGE = b"x-modelrack-usage"

_DROPPED = frozenset(
    {
        b"connection",
        b"keep-alive",
        b"proxy-authenticate",
        b"proxy-connection",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
        # The server in front of the clients writes its own.
        b"date",
        b"server",
        b"x-request-id",
    }
)


class _Pool:
    """The connections to one socket; it leaves the hop's table with the last of them."""

    __slots__ = ("_key", "_table", "idle", "limit", "open")

    def __init__(self, key: str, table: "dict[str, _Pool]", limit: int) -> None:
        self._key = key
        self._table = table
        self.limit = limit
        self.open = 0
        self.idle: list[Answer] = []

    def leave(self) -> None:
        """Count a connection, or an attempt at one, as ended."""
        self.open -= 1
        if not self.open and self._table.get(self._key) is self:
            del self._table[self._key]


class Answer(asyncio.Protocol):
    """A connection to a worker and, while it is leased, the answer to one request.

    Attributes:
        status: of the answer.
        headers: of the answer, names in lower case, without those that concern the hop alone.
        content_type: of the answer.
        usage: prompt and completion tokens, once the worker has told them (with the last bytes of the answer).
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, pool: _Pool) -> None:
        self._loop = loop
        self._pool = pool
        self._parser = httptools.HttpResponseParser(self)
        self._transport: asyncio.Transport
        self._leased = True
        self._waiter: asyncio.Future[None] | None = None
        self._reset()

    def _reset(self) -> None:
        self.status = 0
        self.content_type = b""
        self.headers: list[tuple[bytes, bytes]] = []
        self.usage: tuple[int, int] | None = None
        self._chunks: list[bytes] = []
        self._size = 0
        self._failure: str | None = None
        self._head_done = self._done = self._sized = self._touched = self._paused = self._keep_alive = False

    @property
    def finished(self) -> bool:
        """Return whether the answer is complete and all of its body was read."""
        return self._done and not self._chunks

    async def read(self) -> bytes:
        """Wait for the next bytes of the body; what has piled up travels together. `b""` is the end.

        Raises: WorkerLost: the worker went away in the middle.
        """
        while not self._chunks:
            if self._done:
                return b""
            if self._failure is not None:
                raise WorkerLost(self._failure)
            await self._wait()
        chunks = self._chunks
        self._chunks = []
        self._size = 0
        if self._paused:
            self._paused = False
            self._transport.resume_reading()
        return chunks[0] if len(chunks) == 1 else b"".join(chunks)

    def release(self) -> None:
        """Give the connection back; one whose answer was not read to its end is closed, and the worker sees that."""
        if not self._leased:
            return
        self._leased = False
        transport, pool = self._transport, self._pool
        if (
            self._done
            and self._keep_alive
            and len(pool.idle) < pool.limit
            and not transport.is_closing()
            and not transport.get_write_buffer_size()
        ):
            if self._paused:
                transport.resume_reading()
            pool.idle.append(self)
        else:
            transport.abort()

    def close(self) -> None:
        """Close the connection."""
        self._transport.abort()

    async def _wait(self) -> None:
        self._waiter = self._loop.create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None

    def _wake(self) -> None:
        waiter = self._waiter
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    # What the hop calls.

    def lease(self) -> bool:
        """Take an idle connection for the next request; False if it is closing."""
        if self._transport.is_closing():
            return False
        self._reset()
        self._leased = True
        return True

    async def exchange(self, head: bytes, body: bytes) -> None:
        """Send a request and wait for the head of its answer.

        Raises: ConnectionError: the connection failed; `is_untouched` says whether anything of an answer had come.
        """
        if len(body) <= JOIN_BYTES:
            self._transport.write(head + body)
        else:
            self._transport.write(head)
            self._transport.write(body)
        while not self._head_done:
            if self._failure is not None:
                raise ConnectionError(self._failure)
            await self._wait()

    @property
    def is_untouched(self) -> bool:
        """Return whether no byte of an answer has come."""
        return not self._touched

    # What the event loop calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        self._transport = cast(asyncio.Transport, transport)  # uvloop's are none by inheritance
        self._pool.open += 1

    def data_received(self, data: bytes) -> None:
        """Parse what came; all of its body bytes travel as one chunk."""
        if not self._leased:  # nobody asked: whatever this is, the next answer must not begin with it
            self._transport.abort()
            return
        self._touched = True
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            self._fail(f"The worker's answer is not HTTP: {error}.")
            self._transport.abort()
            return
        if self._size > HIGH_WATER_BYTES and not self._paused:
            self._paused = True
            self._transport.pause_reading()
        waiter = self._waiter
        if waiter is not None and (self._chunks or self._done or self._head_done) and not waiter.done():
            waiter.set_result(None)

    def connection_lost(self, exc: Exception | None) -> None:
        """Leave the pool, or tell whoever waits for the answer."""
        self._pool.leave()
        if not self._leased:
            if self in self._pool.idle:
                self._pool.idle.remove(self)
            return
        self._keep_alive = False
        if self._head_done and not self._sized and exc is None:
            self._done = True  # an answer without a length ends with its connection
        elif not self._done:
            self._fail("The worker went away while answering.")
        self._wake()

    def _fail(self, reason: str) -> None:
        if self._failure is None:
            self._failure = reason
        self._wake()

    # What the parser calls.

    def on_header(self, name: bytes, value: bytes) -> None:
        """Keep a header of the answer; a trailer can only be the usage."""
        name = name.lower()
        if name == _USAGE:
            prompt, _, completion = value.partition(b",")
            try:
                self.usage = (int(prompt), int(completion))
            except ValueError:
                self.usage = None
            return
        if name == b"content-type":
            self.content_type = value
        elif name == b"content-length" or name == b"transfer-encoding":
            self._sized = True
        if name not in _DROPPED and not self._head_done:
            self.headers.append((name, value))

    def on_headers_complete(self) -> None:
        """Note the status; heads of interim answers (1xx) are dropped."""
        status = self._parser.get_status_code()
        if status < 200:
            self.headers = []
            return
        self.status = status
        self._sized = self._sized or status in (204, 304)
        self._keep_alive = self._parser.should_keep_alive()
        self._head_done = True

    def on_body(self, data: bytes) -> None:
        """Keep a piece of the body."""
        self._chunks.append(data)
        self._size += len(data)

    def on_message_complete(self) -> None:
        """Note the end of the answer."""
        if self._head_done:
            self._done = True


class Hop:
    """Sends requests to workers over kept-alive connections, pooled by socket.

    Args:
        max_idle: idle connections kept for each socket; further ones are closed after use.
        connect_limit_s: how long to wait for a worker whose queue of new connections is full.
    """

    def __init__(self, *, max_idle: int = 128, connect_limit_s: float = 5.0) -> None:
        self._max_idle = max_idle
        self._connect_limit_s = connect_limit_s
        self._pools: dict[str, _Pool] = {}

    async def request(self, socket: str, head: bytes, body: bytes) -> Answer:
        """Send a request and wait for the head of its answer; the caller must `release` it.

        A kept-alive connection may have been closed by the worker while the request was on its way: if it fails at once
        and without a byte of an answer, the request is sent again, once, over a new connection. Cancelling closes the
        connection, which the worker takes as the client's leaving.

        Args:
            head: request line and headers, with the empty line at the end.

        Raises: WorkerLost: the worker cannot be reached, or went away before the head of its answer had come.
        """
        pool = self._pools.get(socket)
        while pool is not None and pool.idle:
            answer = pool.idle.pop()
            if answer.lease():
                sent = asyncio.get_running_loop().time()
                try:
                    return await self._ask(answer, head, body)
                except ConnectionError:
                    if not answer.is_untouched or asyncio.get_running_loop().time() - sent > STALE_S:
                        raise _lost() from None
                    break
        answer = await self._connect(socket)
        try:
            return await self._ask(answer, head, body)
        except ConnectionError:
            raise _lost() from None

    async def _ask(self, answer: Answer, head: bytes, body: bytes) -> Answer:
        try:
            await answer.exchange(head, body)
        except BaseException:
            answer.release()
            raise
        return answer

    async def _connect(self, path: str) -> Answer:
        loop = asyncio.get_running_loop()
        pool = self._pools.setdefault(path, _Pool(path, self._pools, self._max_idle))
        pool.open += 1  # the attempt itself; the connection counts for itself once it is made
        # By hand: a full queue is EAGAIN for a Unix socket, which event loops take for "in progress", or fail on.
        sock = sockets.socket(sockets.AF_UNIX, sockets.SOCK_STREAM)
        sock.setblocking(False)
        pause, deadline = BACKLOG_DELAY_S, loop.time() + self._connect_limit_s
        try:
            while True:
                try:
                    sock.connect(path)
                    break
                except BlockingIOError:
                    if loop.time() > deadline:
                        raise
                    await asyncio.sleep(pause)
                    pause = min(pause * 2, 0.1)
            _, answer = await loop.create_unix_connection(lambda: Answer(loop, pool), sock=sock)
            return answer
        except BaseException as error:
            sock.close()
            if isinstance(error, OSError):
                text = f"The worker cannot be reached: {error.strerror or error}."
                raise WorkerLost(text, headers={"Retry-After": "1"}) from error
            raise
        finally:
            pool.leave()

    def forget(self, socket: str) -> None:
        """Close the idle connections to a socket whose worker is gone; those in use end with their answers."""
        pool = self._pools.pop(socket, None)
        if pool is not None:
            pool.limit = 0
            for answer in tuple(pool.idle):
                answer.close()

    def close(self) -> None:
        """Close every idle connection."""
        for socket in tuple(self._pools):
            self.forget(socket)


def _lost() -> WorkerLost:
    return WorkerLost("The worker went away before it answered.", headers={"Retry-After": "1"})
