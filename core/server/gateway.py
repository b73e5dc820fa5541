"""The way of an inference request: from the client's connection to a worker's socket and straight back.

A raw ASGI application in front of the one with the management routes. It reads from a request only what routing needs
and passes bytes through; docs/performance.md has what that saves.
"""

import asyncio
import hmac
import os
import re
from collections.abc import Awaitable, Callable, Collection, Iterable, MutableMapping
from time import perf_counter
from typing import Any

from ..errors import Conflict, ModelrackError, PayloadTooLarge, Unauthorized
from ..lifecycle.directory import Directory, Endpoint
from ..settings import Settings
from .access_log import AccessLog, Entry
from .errors import FAILED, REQUEST_ID, MethodNotAllowed, render, render_event, unexpected
from .files import FILES_PATH
from .foreign import ERROR_LIMIT_BYTES, read_error
from .hop import Answer, Hop
from .metrics import Metrics, Series
from .origin import Origins
from .progress import Ended, Ending, ask_worker
from .routing import read_form, read_json

__all__ = ["OPEN_PATHS", "Gateway"]

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

OPEN_PATHS = frozenset({"/health", "/ready", "/v1/cluster/auth", "/docs", "/openapi.json"})
"""Paths that answer without a key: liveness, whether keys are needed at all, and the description of the interface."""

CLIENT_LEFT = 499
"""Status of a request whose client left before an answer had begun; seen in the log and the metrics only."""

_REQUEST_ID = re.compile(rb"[A-Za-z0-9][A-Za-z0-9._:@+/=-]{0,127}")
_HEAD = b"%s%s HTTP/1.1\r\n%scontent-type: %s\r\nx-request-id: %s\r\ncontent-length: %d\r\n\r\n"
_DONE = b"data: [DONE]\n\n"

HELD_LIMIT_BYTES = 256 * 1024
"""Largest unfinished event that is held back until its end has come."""


class _ClientLeft(Exception):
    """The client closed its connection while its request was still being read."""


class RequestAborted(Conflict):
    """Somebody aborted the request while it was being answered."""

    code = "request_aborted"


class _Exchange:
    """One request under way, and what is known of it.

    Attributes:
        tail: the last piece that was sent of a stream of events; None for any other answer.
        left: the client closed its connection.
        own_id: the id that the client gave the request in its body.
        is_named: the client gave the request an id, in its body or its head, by which it may ask for it.
        endpoint: where it was sent. `progress`: how much was done when the worker was last asked.
        error: what the request failed with; from `stop`, what it is to fail with.
    """

    __slots__ = (
        "endpoint", "entry", "error", "first_byte", "is_named", "left", "own_id", "progress", "series", "started",
        "tail", "task",
    )  # fmt: skip

    def __init__(self, entry: Entry) -> None:
        self.entry = entry
        self.started = False
        self.tail: bytes | None = None
        self.left = False
        self.own_id: str | None = None
        self.is_named = False
        self.endpoint: Endpoint | None = None
        self.progress = 0.0
        self.first_byte: float | None = None
        self.series: Series | None = None
        self.error: ModelrackError | None = None
        self.task: asyncio.Task[Any] | None = None

    @property
    def keys(self) -> set[tuple[str, str]]:
        """Return what the request can be aborted by: its model's uid with each of its ids."""
        uid = self.entry.uid or ""
        return {(uid, self.entry.request_id), (uid, self.own_id or self.entry.request_id)}

    def stop(self, error: ModelrackError | None = None) -> None:
        """End the request now, with an error or because its client has left."""
        if self.task is not None and self.error is None and not self.left:
            self.error = error
            self.left = error is None
            self.task.cancel()

    async def watch(self, receive: Receive) -> None:
        """Wait until the client leaves, then end the request."""
        while (await receive())["type"] != "http.disconnect":
            pass
        self.stop()


class Gateway:
    """ASGI application: answers POSTs to inference paths from the workers, and hands the rest to `app`.

    It also checks keys, limits bodies, gives every request its id, and counts and logs all of them, `app`'s included.

    Args:
        app: the application behind, for every other request.
        directory: where the workers are.
        paths: exact inference paths, such as `/v1/chat/completions`.
        open_paths: paths that need no key.

    `abort` ends a request that is under way. Call `close()` when the server has stopped serving.
    Connections to a worker that is gone end by themselves.
    """

    def __init__(
        self,
        app: App,
        directory: Directory,
        paths: Iterable[str],
        settings: Settings,
        *,
        metrics: Metrics,
        log: AccessLog,
        open_paths: Collection[str] = OPEN_PATHS,
    ) -> None:
        self.hop = Hop()
        self._app = app
        self._directory = directory
        self._metrics = metrics
        self._log = log
        self._open_paths = frozenset(open_paths)
        self._keys = tuple(key.encode() for key in settings.api_keys)
        self._max_body_bytes = int(settings.max_body_mb * 1024 * 1024)
        self._running: dict[tuple[str, str], _Exchange] = {}
        self._ended = Ended()
        self._origins = Origins(settings.public_url)
        self._is_logged = settings.log_level in ("debug", "info")
        self._heads = {path: b"POST %s" % path.encode() for path in paths}

    async def close(self) -> None:
        """Close the idle connections to the workers and write the rest of the log."""
        self.hop.close()
        await asyncio.to_thread(self._log.close)

    def abort(self, model_uid: str, request_id: str) -> bool:
        """End a request that is under way, by its `X-Request-ID` or its body's `request_id`; its client gets an error.

        Returns: whether there was one.
        """
        exchange = self._running.get((model_uid, request_id))
        if exchange is None:
            return False
        exchange.stop(RequestAborted("The request was aborted."))
        return True

    async def progress(self, request_id: str) -> dict[str, Any] | None:
        """Return how far a request is, by its `X-Request-ID` or its body's `request_id`; None: no such request.

        Those that have ended are known for a while, if their clients gave them the id.
        """
        for (uid, known), state in reversed(self._running.items()):
            if known != request_id or state.endpoint is None:
                continue
            told = await ask_worker(self.hop, state.endpoint, state.entry.request_id)
            state.progress = max(state.progress, told)
            if self._running.get((uid, known)) is state:  # it may have ended meanwhile
                return {"progress": state.progress, "status": "running", "model": uid, "request_id": request_id}
            break
        ended = self._ended.get(request_id)
        return ended and {"progress": 1.0, "status": ended[1], "model": ended[0], "request_id": request_id}

    def stop(self, error: ModelrackError) -> None:
        """End all inference that is under way; its clients get this error."""
        for exchange in tuple(self._running.values()):
            exchange.stop(error)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        start = perf_counter()
        headers: dict[bytes, bytes] = dict(scope["headers"])
        client = scope.get("client")
        given = headers.get(b"x-request-id")
        entry = Entry(
            scope["method"],
            scope["path"],
            given.decode() if given is not None and _REQUEST_ID.fullmatch(given) else os.urandom(12).hex(),
            f"{client[0]}:{client[1]}" if client else "-",
        )
        path = scope["path"]
        if path not in self._heads:
            await self._manage(scope, receive, send, headers, entry, start)
        elif scope["method"] == "POST":
            await self._infer(scope, receive, send, headers, entry, start)
        else:
            state = _Exchange(entry)
            try:
                if self._keys:
                    self._authenticate(headers)
                raise MethodNotAllowed(f"{path} does not take {entry.method}, only POST.", headers={"Allow": "POST"})
            except ModelrackError as error:
                await self._refuse(error, state, send)
            self._finish(state, start)

    # Inference

    async def _infer(
        self, scope: Scope, receive: Receive, send: Send, headers: dict[bytes, bytes], entry: Entry, start: float
    ) -> None:
        state = _Exchange(entry)
        try:
            if self._keys:
                self._authenticate(headers)
            body = await self._read_body(headers, receive)
            content_type = headers.get(b"content-type", b"")
            is_form = content_type[:19].lower() == b"multipart/form-data"
            uid, state.own_id = read_form(content_type, body) if is_form else read_json(headers, body)
            entry.uid = uid
            if self._directory.get(uid) is not None:
                state.series = self._metrics.series(uid, entry.path)
            state.is_named = state.own_id is not None or b"x-request-id" in headers
            endpoint = self._directory.choose(uid, entry.path)
            query = scope["query_string"]
            head = _HEAD % (
                self._heads[entry.path],
                b"?" + query if query else b"",
                self._origins.lines(scope, headers),
                content_type if is_form else b"application/json",
                entry.request_id.encode(),
                len(body),
            )
            await self._forward(state, endpoint, head, body, receive, send, start)
        except ModelrackError as error:
            await self._refuse(error, state, send)
        except _ClientLeft:
            state.left = True
        except Exception as error:
            await self._refuse(unexpected(error, entry.request_id), state, send)
        finally:
            self._finish(state, start)

    async def _forward(
        self, state: _Exchange, endpoint: Endpoint, head: bytes, body: bytes, receive: Receive, send: Send, start: float
    ) -> None:
        """Send the request to the worker and its answer to the client."""
        series = state.series or self._metrics.series("", state.entry.path)
        state.task = asyncio.current_task()
        state.endpoint = endpoint
        self._running.update(dict.fromkeys(state.keys, state))
        endpoint.active += 1
        series.in_flight += 1
        watch = asyncio.create_task(state.watch(receive))
        answer: Answer | None = None
        try:
            answer = await self.hop.request(endpoint.socket, head, body)
            if answer.status >= 400 and endpoint.is_foreign:
                await self._pass_error_on(state, answer, send)
            else:
                await self._pass_on(state, answer, send, start)
        except asyncio.CancelledError:
            if state.task is None or not (state.left or state.error):
                raise  # the server is ending
            state.task.uncancel()
            if state.error is not None:
                raise state.error from None
        finally:
            state.task = None
            watch.cancel()
            for key in state.keys:
                if self._running.get(key) is state:  # clients may use an id twice
                    del self._running[key]
            if state.is_named:
                is_whole = answer is not None and answer.finished and answer.status < 400
                ending: Ending = "cancelled" if state.left else "finished" if is_whole else "failed"
                self._ended.put({request_id for _, request_id in state.keys}, state.entry.uid or "", ending)
            endpoint.active -= 1
            series.in_flight -= 1
            if answer is not None:
                state.entry.usage = answer.usage
                answer.release()

    async def _pass_on(self, state: _Exchange, answer: Answer, send: Send, start: float) -> None:
        """Pass the answer on as it comes."""
        answer.headers.append((b"x-request-id", state.entry.request_id.encode()))
        state.entry.status = answer.status
        state.started = True
        await send({"type": "http.response.start", "status": answer.status, "headers": answer.headers})
        if answer.content_type.startswith(b"text/event-stream"):
            await self._pass_events(state, answer, send, start)
            return
        finished = False
        while not finished:
            chunk = await answer.read()
            finished = answer.finished
            if state.first_byte is None:
                state.first_byte = perf_counter() - start
            await send({"type": "http.response.body", "body": chunk, "more_body": not finished})

    async def _pass_events(self, state: _Exchange, answer: Answer, send: Send, start: float) -> None:
        """Pass whole events on: an event that tells of a failure must not land inside of another."""
        held = state.tail = b""
        finished = False
        while not finished:
            chunk = held + await answer.read()
            finished = answer.finished
            held = b""
            if not finished and not chunk.endswith(b"\n\n"):
                end = _events_end(chunk)
                chunk, held = chunk[:end], chunk[end:]
                if not chunk:
                    continue
            if state.first_byte is None:
                state.first_byte = perf_counter() - start
            await send({"type": "http.response.body", "body": chunk, "more_body": not finished})
            state.tail = None if finished else chunk

    async def _pass_error_on(self, state: _Exchange, answer: Answer, send: Send) -> None:
        """Pass on what a command worker refused or failed with, in our one body.

        Raises: ModelrackError: what to answer, unless the worker's own answer will do.
        """
        body = b""
        while not answer.finished and len(body) < ERROR_LIMIT_BYTES:
            body += await answer.read()
        error = read_error(answer.status, answer.headers, answer.content_type, body)
        if error is not None:
            raise error
        headers = [(name, value) for name, value in answer.headers if name != b"content-length"]
        headers += [(b"content-length", b"%d" % len(body)), (b"x-request-id", state.entry.request_id.encode())]
        state.entry.status = answer.status
        state.started = True
        await send({"type": "http.response.start", "status": answer.status, "headers": headers})
        await send({"type": "http.response.body", "body": body, "more_body": False})

    # Everything else

    async def _manage(
        self, scope: Scope, receive: Receive, send: Send, headers: dict[bytes, bytes], entry: Entry, start: float
    ) -> None:
        state = _Exchange(entry)
        ended = False

        async def note(message: Message) -> None:
            nonlocal ended
            if message["type"] == "http.response.start":
                state.started = True
                entry.status = message["status"]
                message["headers"] = [*message.get("headers", ()), (b"x-request-id", entry.request_id.encode())]
            elif not message.get("more_body"):
                ended = True
            await send(message)

        scope[REQUEST_ID] = entry.request_id
        try:
            if self._keys and entry.path not in self._open_paths and not entry.path.startswith(FILES_PATH):
                self._authenticate(headers)
            if b"transfer-encoding" in headers or int(headers.get(b"content-length", b"0")) > self._max_body_bytes:
                receive = _replay(await self._read_body(headers, receive), receive)
            await self._app(scope, receive, note)
        except ModelrackError as error:
            await self._refuse(error, state, send)
        except _ClientLeft:
            state.left = True
        except Exception as error:
            if not ended:  # else the application has logged it, and answered
                await self._refuse(unexpected(error, entry.request_id), state, send)
        finally:
            if state.error is None:
                state.error = scope.get(FAILED)
            route = scope.get("route")
            state.series = self._metrics.series("", getattr(route, "path", "other"))
            self._finish(state, start)

    # Parts of both

    def _authenticate(self, headers: dict[bytes, bytes]) -> None:
        given = headers.get(b"x-api-key", b"")
        scheme, _, token = headers.get(b"authorization", b"").partition(b" ")
        if scheme.lower() == b"bearer":
            given = token.strip()
        # Every key is compared, each in constant time: how long it takes tells nothing.
        if not sum(hmac.compare_digest(given, key) for key in self._keys):
            text = "The API key is not valid." if given else "An API key is needed."
            raise Unauthorized(
                text,
                remedy="Send it as 'Authorization: Bearer KEY'; commands take --api-key, or MODELRACK_API_KEY.",
                headers={"WWW-Authenticate": "Bearer"},
            )

    async def _read_body(self, headers: dict[bytes, bytes], receive: Receive) -> bytes:
        """Read a whole body.

        Raises: PayloadTooLarge: it is over the limit; what is left of it is not read.
        """
        limit = self._max_body_bytes
        if int(headers.get(b"content-length", b"0")) > limit:
            raise _too_large(limit)
        parts: list[bytes] = []
        size = 0
        while True:
            message = await receive()
            if message["type"] != "http.request":
                raise _ClientLeft
            part = message.get("body", b"")
            size += len(part)
            if size > limit:
                raise _too_large(limit)
            parts.append(part)
            if not message.get("more_body"):
                return b"".join(parts)

    async def _refuse(self, error: ModelrackError, state: _Exchange, send: Send) -> None:
        """Answer with an error.

        An answer that has begun ends with an event if it is a stream of events; any other is cut off, so that nobody
        takes it for complete.
        """
        state.error = error
        if state.started:
            if state.tail is not None:
                event = b"" if state.tail.endswith(_DONE) else render_event(error, state.entry.path)
                await send({"type": "http.response.body", "body": event, "more_body": False})
            return
        status, headers, body = render(error, state.entry.path)
        headers.append((b"x-request-id", state.entry.request_id.encode()))
        state.entry.status = status
        state.started = True
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body, "more_body": False})

    def _finish(self, state: _Exchange, start: float) -> None:
        """Count and log a request that has ended, in whatever way."""
        entry = state.entry
        entry.duration_s = perf_counter() - start
        entry.ttfb_s = state.first_byte
        if state.left:
            entry.error = "client_left"
            if not state.started:
                entry.status = CLIENT_LEFT
        elif state.error is not None:
            entry.error = state.error.code
        elif not entry.status:
            entry.error, entry.status = "cancelled", CLIENT_LEFT
        series = state.series or self._metrics.series("", entry.path)
        series.observe(entry.status, entry.duration_s, entry.ttfb_s, entry.usage)
        if self._is_logged:
            self._log.write(entry)


def _events_end(chunk: bytes) -> int:
    """Return where the last whole event ends; all of it if what is left could only be held back at a price."""
    line_feeds, both = chunk.rfind(b"\n\n"), chunk.rfind(b"\r\n\r\n")
    end = max(line_feeds + 2 if line_feeds >= 0 else 0, both + 4 if both >= 0 else 0)
    return end if len(chunk) - end < HELD_LIMIT_BYTES else len(chunk)


def _too_large(limit: int) -> PayloadTooLarge:
    text = f"The body is over the limit of {limit / 1024 / 1024:g} MiB."
    return PayloadTooLarge(text, remedy="MODELRACK_MAX_BODY_MB sets it.")


def _replay(body: bytes, receive: Receive) -> Receive:
    """Make a `receive` that gives a body which was read already."""
    given = False

    async def again() -> Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return again
