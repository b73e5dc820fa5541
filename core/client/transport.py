"""The two ways to send a call: httpx, blocking and not."""

import asyncio
import json
import ssl
import time
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Generator, Iterator
from types import TracebackType
from typing import Any, Generic, TypeVar

import httpx

from .call import Call, EventDecoder, Flow, Reply, Step, check_event
from .endpoint import is_local
from .errors import ClientError, RequestTimeout, ServerUnreachable, error_from_response

__all__ = ["AsyncByteStream", "AsyncEventStream", "AsyncTransport", "ByteStream", "EventStream", "Transport"]

T = TypeVar("T")
Item = TypeVar("Item")

KEEP_IDLE_S = 3.0
"""Seconds an idle connection is kept: fewer than the server keeps it (uvicorn: 5), so none is used as it closes."""


class Connection:
    """Where to send, as whom, and how long to wait."""

    def __init__(self, endpoint: str, api_key: str | None, timeout_s: float | None, connect_timeout_s: float) -> None:
        self.endpoint = endpoint
        self.timeout_s = timeout_s
        self._connect_timeout_s = connect_timeout_s
        self._headers = {"accept": "*/*"}
        if api_key:
            self._headers["authorization"] = f"Bearer {api_key}"

    def httpx_options(self) -> dict[str, Any]:
        """Return the arguments of httpx's client."""
        # Loading the certificates costs as much as a whole request, and a plain-http server needs none. A proxy
        # that the environment names can never reach a server on this machine.
        secure = self.endpoint.startswith("https")
        return {
            "base_url": self.endpoint,
            "headers": self._headers,
            "verify": True if secure else ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT),
            "trust_env": not is_local(self.endpoint),
            "timeout": httpx.Timeout(self.timeout_s, connect=self._connect_timeout_s),
            "limits": httpx.Limits(max_connections=None, max_keepalive_connections=32, keepalive_expiry=KEEP_IDLE_S),
        }

    def request_options(self, call: Call[Any]) -> dict[str, Any]:
        """Return the arguments of httpx's `build_request`."""
        options: dict[str, Any] = {"method": call.method, "url": call.path, "params": call.query or None}
        parts = call.parts
        if parts is not None:
            options["files"] = parts
        elif call.body is not None:
            options["content"] = json.dumps(call.body, ensure_ascii=False, separators=(",", ":")).encode()
            options["headers"] = {"content-type": "application/json"}
        if call.waits:
            options["timeout"] = httpx.Timeout(None, connect=self._connect_timeout_s)
        return options

    def translate(self, error: httpx.HTTPError, action: str) -> ClientError:
        """Return our error for one of httpx's."""
        if isinstance(error, httpx.ConnectError | httpx.ConnectTimeout):
            return ServerUnreachable(
                f"No server answers at {self.endpoint}.",
                remedy="Is the server running? Start it with: modelrack serve",
            )
        if isinstance(error, httpx.TimeoutException):
            return RequestTimeout(
                f"Failed to {action}: no answer within {self.timeout_s:g} s."
                if self.timeout_s
                else f"Failed to {action}: {type(error).__name__}.",
                remedy="Give the client a longer time-out: Client(..., timeout=SECONDS).",
            )
        return ServerUnreachable(
            f"Failed to {action}: the connection to {self.endpoint} broke ({str(error) or type(error).__name__}).",
            remedy="Does the server still run? See: modelrack list",
        )


def _interpret(call: Call[T], headers: httpx.Headers, content: bytes) -> T:
    """Return the result of a good answer whose body has been read."""
    value: Any = content
    is_json = call.reply is Reply.JSON or (
        call.reply is Reply.AUTO and headers.get("content-type", "").startswith("application/json")
    )
    if is_json:
        try:
            value = json.loads(content)
        except ValueError as error:
            raise ServerUnreachable(
                f"Failed to {call.action}: the answer is no JSON.", remedy="Is this the address of a modelrack server?"
            ) from error
    elif call.reply is Reply.AUTO:
        value = content.decode("utf-8", "replace")
    if call.parse is None:
        return value  # type: ignore[no-any-return]  # a call without `parse` promises the decoded body itself
    try:
        return call.parse(value)
    except (KeyError, TypeError, AttributeError) as error:
        raise ServerUnreachable(
            f"Failed to {call.action}: the answer is not of the expected form.",
            remedy="Is this the address of a modelrack server?",
        ) from error


def _is_stream(call: Call[Any]) -> bool:
    return call.reply in (Reply.EVENTS, Reply.CHUNKS)


class _Stream(Generator[Item, None, None], Generic[Item]):
    """A blocking stream: iterate over it, close it at any time."""

    def __init__(self, response: httpx.Response, connection: Connection, action: str) -> None:
        self._response = response
        self._connection = connection
        self._action = action
        self._chunks: Iterator[bytes] = response.iter_bytes()
        self._closed = False

    def _read(self) -> bytes | None:
        """Return the next chunk, or None at the end."""
        try:
            return next(self._chunks, None)
        except httpx.HTTPError as error:
            raise self._connection.translate(error, self._action) from error

    def _next(self) -> Item:
        raise NotImplementedError

    def send(self, value: None = None, /) -> Item:
        """Return the next item."""
        if self._closed:
            raise StopIteration
        try:
            return self._next()
        except BaseException:
            self.close()
            raise

    def throw(self, typ: Any, val: Any = None, tb: TracebackType | None = None, /) -> Item:
        """Close the stream and raise the error here."""
        self.close()
        raise typ if val is None else val

    def close(self) -> None:
        """Close the connection; the server then stops working on the answer."""
        self._closed = True
        self._response.close()

    def __enter__(self) -> "_Stream[Item]":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __del__(self) -> None:
        if not self._closed:
            self.close()


class EventStream(_Stream[dict[str, Any]]):
    """Chunks of an answer as they come; raises the typed error that the stream tells of."""

    def __init__(self, response: httpx.Response, connection: Connection, action: str) -> None:
        super().__init__(response, connection, action)
        self._decoder = EventDecoder()
        self._events: deque[dict[str, Any]] = deque()

    def _next(self) -> dict[str, Any]:
        while not self._events:
            if self._decoder.is_done:
                raise StopIteration
            chunk = self._read()
            self._events.extend(self._decoder.finish() if chunk is None else self._decoder.feed(chunk))
        return check_event(self._events.popleft())


class ByteStream(_Stream[bytes]):
    """The bytes of an answer as they come."""

    def _next(self) -> bytes:
        chunk = self._read()
        if chunk is None:
            raise StopIteration
        return chunk


class _AsyncStream(AsyncGenerator[Item, None], Generic[Item]):
    """A stream for `async for`; close it with `aclose()`."""

    def __init__(self, response: httpx.Response, connection: Connection, action: str) -> None:
        self._response = response
        self._connection = connection
        self._action = action
        self._chunks: AsyncIterator[bytes] = response.aiter_bytes()
        self._closed = False

    async def _read(self) -> bytes | None:
        """Return the next chunk, or None at the end."""
        try:
            return await anext(self._chunks, None)
        except httpx.HTTPError as error:
            raise self._connection.translate(error, self._action) from error

    async def _next(self) -> Item:
        raise NotImplementedError

    async def asend(self, value: None = None, /) -> Item:
        """Return the next item."""
        if self._closed:
            raise StopAsyncIteration
        try:
            return await self._next()
        except BaseException:
            await self.aclose()
            raise

    async def athrow(self, typ: Any, val: Any = None, tb: TracebackType | None = None, /) -> Item:
        """Close the stream and raise the error here."""
        await self.aclose()
        raise typ if val is None else val

    async def aclose(self) -> None:
        """Close the connection; the server then stops working on the answer."""
        self._closed = True
        await self._response.aclose()

    async def __aenter__(self) -> "_AsyncStream[Item]":
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()


class AsyncEventStream(_AsyncStream[dict[str, Any]]):
    """Chunks of an answer as they come; raises the typed error that the stream tells of."""

    def __init__(self, response: httpx.Response, connection: Connection, action: str) -> None:
        super().__init__(response, connection, action)
        self._decoder = EventDecoder()
        self._events: deque[dict[str, Any]] = deque()

    async def _next(self) -> dict[str, Any]:
        while not self._events:
            if self._decoder.is_done:
                raise StopAsyncIteration
            chunk = await self._read()
            self._events.extend(self._decoder.finish() if chunk is None else self._decoder.feed(chunk))
        return check_event(self._events.popleft())


class AsyncByteStream(_AsyncStream[bytes]):
    """The bytes of an answer as they come."""

    async def _next(self) -> bytes:
        chunk = await self._read()
        if chunk is None:
            raise StopAsyncIteration
        return chunk


class Transport:
    """Send calls and flows, blocking."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._http = httpx.Client(**connection.httpx_options())

    def run(self, work: "Call[T] | Flow[T]") -> T:
        """Return the result of a call, or of a flow once all its steps are done."""
        if isinstance(work, Call):
            return self._send(work)
        try:
            step = next(work)
            while True:
                try:
                    result = self._step(step)
                except ClientError as error:
                    step = work.throw(error)
                else:
                    step = work.send(result)
        except StopIteration as stop:
            return stop.value  # type: ignore[no-any-return]

    def _step(self, step: Step) -> Any:
        if isinstance(step, Call):
            return self._send(step)
        time.sleep(step.seconds)
        return None

    def _send(self, call: Call[T]) -> T:
        request = self._http.build_request(**self._connection.request_options(call))
        try:
            response = self._http.send(request, stream=True)
            if response.is_success and _is_stream(call):
                kind = EventStream if call.reply is Reply.EVENTS else ByteStream
                return kind(response, self._connection, call.action)  # type: ignore[return-value]
            try:
                content = response.read()
            finally:
                response.close()
        except httpx.HTTPError as error:
            raise self._connection.translate(error, call.action) from error
        if not response.is_success:
            raise error_from_response(call.action, response.status_code, response.headers, content)
        return _interpret(call, response.headers, content)

    def close(self) -> None:
        """Close all connections."""
        self._http.close()


class AsyncTransport:
    """Send calls and flows from an event loop."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._http = httpx.AsyncClient(**connection.httpx_options())

    async def run(self, work: "Call[T] | Flow[T]") -> T:
        """Return the result of a call, or of a flow once all its steps are done."""
        if isinstance(work, Call):
            return await self._send(work)
        try:
            step = next(work)
            while True:
                try:
                    result = await self._step(step)
                except ClientError as error:
                    step = work.throw(error)
                else:
                    step = work.send(result)
        except StopIteration as stop:
            return stop.value  # type: ignore[no-any-return]

    async def _step(self, step: Step) -> Any:
        if isinstance(step, Call):
            return await self._send(step)
        await asyncio.sleep(step.seconds)
        return None

    async def _send(self, call: Call[T]) -> T:
        request = self._http.build_request(**self._connection.request_options(call))
        try:
            response = await self._http.send(request, stream=True)
            if response.is_success and _is_stream(call):
                kind = AsyncEventStream if call.reply is Reply.EVENTS else AsyncByteStream
                return kind(response, self._connection, call.action)  # type: ignore[return-value]
            try:
                content = await response.aread()
            finally:
                await response.aclose()
        except httpx.HTTPError as error:
            raise self._connection.translate(error, call.action) from error
        if not response.is_success:
            raise error_from_response(call.action, response.status_code, response.headers, content)
        return _interpret(call, response.headers, content)

    async def close(self) -> None:
        """Close all connections."""
        await self._http.aclose()
