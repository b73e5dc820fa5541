"""Answers requests with a plugin's handlers: path to route to ability to handler, and its reply back as bytes."""

import asyncio
import logging
import os
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Generator, Iterable, Mapping
from dataclasses import dataclass
from inspect import isawaitable
from types import coroutine
from typing import Any, cast

import orjson
from pydantic import BaseModel

from ..errors import BadRequest, EngineError, ModelrackError, NotFound, NotReady
from ..hooks.types import Route
from .contract import Handler, Raw, ResultFiles
from .forms import FORM, make_form_parser
from .http import Exchange, Request
from .validation import import_dotted, make_check, make_parser

__all__ = ["Host", "render_error"]

log = logging.getLogger(__name__)

_JSON = b"application/json"
_DONE = b"[DONE]"
_BATCH = 64
"""Events that may be ready one after the other before others get their turn."""
_REQUESTS = "/_worker/requests/"

_telling = threading.Lock()
"""Held while progress is told, so that of two threads the one that is behind takes nothing back."""


class MethodNotAllowed(BadRequest):
    """The path exists, but not for this method."""

    status = 405
    code = "method_not_allowed"


class _HttpProblem(BadRequest):
    code = "bad_http"


def render_error(status: int, message: str) -> bytes:
    """Make the body for what never became a request."""
    return orjson.dumps(_HttpProblem(message).body())


@dataclass(slots=True)
class Counters:
    """What this worker has done since its start."""

    requests: int = 0
    active: int = 0
    errors: int = 0
    cancelled: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0


class _Call:
    """One request, as its handler sees it."""

    __slots__ = (
        "_files", "_headers", "completion_tokens", "fraction", "model_uid", "path", "prompt_tokens", "request_id"
    )  # fmt: skip

    def __init__(
        self, request_id: str, model_uid: str, path: str, headers: Mapping[bytes, bytes], files: ResultFiles | None
    ) -> None:
        self.request_id = request_id
        self.model_uid = model_uid
        self.path = path
        self.prompt_tokens = -1
        self.completion_tokens = 0
        self.fraction = 0.0
        self._headers = headers
        self._files = files

    def usage(self, prompt_tokens: int, completion_tokens: int) -> None:
        """Keep the counts; the last call wins."""
        self.prompt_tokens = prompt_tokens
        self.completion_tokens = completion_tokens

    def progress(self, fraction: float) -> None:
        """Keep the largest fraction so far; what is no number counts for nothing."""
        told = min(float(fraction), 1.0)
        with _telling:
            if told > self.fraction:
                self.fraction = told

    def save(self, content: bytes, media_type: str) -> str:
        """Write the file, and return its URL."""
        if self._files is None:
            raise EngineError("This worker has no folder for results.")
        # Imported here: most workers keep none.
        from .results import base_url, save

        return save(self._files, base_url(self._headers), content, media_type)

    def usage_header(self) -> bytes:
        """Return the header line with the counts, or nothing if they are not known."""
        if self.prompt_tokens < 0:
            return b""
        return b"x-modelrack-usage: %d,%d\r\n" % (self.prompt_tokens, self.completion_tokens)


@dataclass(slots=True, frozen=True)
class _Bound:
    """A route with the handler that answers it."""

    handler: Handler
    parse: Callable[[bytes], Any]
    parse_form: Callable[[bytes, bytes], Any]
    check: Callable[[Any], None]


class Host:
    """Dispatch requests of one model.

    Args:
        model_uid: what answers say in `model`.
        routes: the routes that may be asked for.
        status: makes the answer to `GET /_worker/status`.
        defaults: fields that requests take on where they leave them out.
        feature_engines: names of the engines that can do what this one does not claim, by feature, for errors.
        files: where handlers keep files for clients.
    """

    def __init__(
        self,
        model_uid: str,
        routes: Iterable[Route],
        status: Callable[[], Mapping[str, Any]],
        defaults: Mapping[str, Any] | None = None,
        feature_engines: Mapping[str, tuple[str, ...]] | None = None,
        files: ResultFiles | None = None,
    ) -> None:
        self._model_uid = model_uid
        self._defaults = defaults
        self._feature_engines = feature_engines
        self._files = files
        self._running: dict[str, _Call] = {}
        self._routes = {route.path: route for route in routes}
        self._bound: dict[str, _Bound] = {}
        self._status = status
        self._id_prefix = os.urandom(8).hex()
        self._unavailable: ModelrackError | None = NotReady(f"Model '{model_uid}' is still loading.")
        self.counters = Counters()
        self.idle = asyncio.Event()
        self.idle.set()
        self.polled = asyncio.Event()

    @property
    def served(self) -> list[str]:
        """Return the paths that have a handler."""
        return list(self._bound)

    def bind(self, handlers: Mapping[str, Handler]) -> None:
        """Prepare the routes whose ability has a handler; imports their request models. May run in a thread.

        Raises: ImportError, AttributeError: a route's request model does not exist.
        """
        bound = {}
        for path, route in self._routes.items():
            handler = handlers.get(route.ability)
            if handler is not None:
                model = import_dotted(route.request)
                check = make_check(model, handler, self._feature_engines)
                parse, parse_form = make_parser(model, self._defaults), make_form_parser(model, self._defaults)
                bound[path] = _Bound(handler, parse, parse_form, check)
        self._bound = bound

    def open(self) -> None:
        """Start answering."""
        self._unavailable = None

    def refuse(self, error: ModelrackError) -> None:
        """Answer every further request with this error."""
        self._unavailable = error

    async def serve(self, request: Request, exchange: Exchange) -> None:
        """Answer a request; nothing but CancelledError comes out."""
        bound = self._bound.get(request.path)
        if bound is None or request.method != "POST" or self._unavailable is not None:
            self._serve_other(request, exchange)
            return
        counters = self.counters
        counters.requests += 1
        request_id = request.headers.get(b"x-request-id")
        call = _Call(
            request_id.decode("latin-1") if request_id else f"{self._id_prefix}{counters.requests:08x}",
            self._model_uid,
            request.path,
            request.headers,
            self._files,
        )
        self._running[call.request_id] = call
        if counters.active == 0:
            self.idle.clear()
        counters.active += 1
        try:
            await self._answer(bound, request, exchange, call)
        except asyncio.CancelledError:
            counters.cancelled += 1
            raise
        except ModelrackError as error:
            self._fail(error, exchange)
        except Exception:
            log.exception("request %s to %s failed", call.request_id, call.path)
            self._fail(_inner_error(call), exchange)
        finally:
            if self._running.get(call.request_id) is call:  # clients may use an id twice
                del self._running[call.request_id]
            counters.active -= 1
            if counters.active == 0:
                self.idle.set()
            if call.prompt_tokens > 0:
                counters.prompt_tokens += call.prompt_tokens
            counters.completion_tokens += call.completion_tokens

    async def _answer(self, bound: _Bound, request: Request, exchange: Exchange, call: _Call) -> None:
        content_type = request.headers.get(b"content-type", b"")
        if content_type != _JSON and content_type[: len(FORM)].lower() == FORM:
            parsed = bound.parse_form(content_type, request.body)
            request.body = b""  # files are large, and the form has its own copies of them
        else:
            parsed = bound.parse(request.body)
        bound.check(parsed)
        reply: Any = bound.handler(parsed, call)
        if isawaitable(reply):
            reply = await reply
        if isinstance(reply, bytes):
            exchange.send(200, _JSON, reply, call.usage_header())
        elif isinstance(reply, Mapping):
            exchange.send(200, _JSON, orjson.dumps(reply), call.usage_header())
        elif isinstance(reply, BaseModel):
            exchange.send(200, _JSON, _encode(reply), call.usage_header())
        elif isinstance(reply, Raw):
            exchange.send(reply.status, reply.media_type.encode("latin-1"), reply.content, call.usage_header())
        elif hasattr(reply, "__aiter__"):
            await self._stream(aiter(reply), exchange, call)
        else:
            raise TypeError(f"the handler of {call.path} returned {type(reply).__name__}, which is no reply")

    async def _stream(self, iterator: AsyncIterator[Any], exchange: Exchange, call: _Call) -> None:
        """Send an iterator's events; the head waits for the first, so that an error before it has its own status."""
        pending: list[bytes] = []
        try:
            try:
                pending.append(_encode(await anext(iterator)))
            except StopAsyncIteration:
                pass
            else:
                exchange.start_events()
                await _pump(iterator, exchange, pending)
            if not exchange.started and not pending:
                exchange.start_events()
            pending.append(_DONE)
        except ModelrackError as error:
            if not (pending or exchange.started):
                raise
            self.counters.errors += 1
            pending.append(orjson.dumps({"error": error.body()["error"]}))
        except Exception:
            if not (pending or exchange.started):
                raise
            log.exception("request %s to %s failed in its stream", call.request_id, call.path)
            self.counters.errors += 1
            pending.append(orjson.dumps({"error": _inner_error(call).body()["error"]}))
        finally:
            close = getattr(iterator, "aclose", None)
            if close is not None:
                await close()
        exchange.end_events(pending, call.usage_header())

    def _fail(self, error: ModelrackError, exchange: Exchange) -> None:
        self.counters.errors += 1
        headers = "".join(f"{name}: {value}\r\n" for name, value in error.headers.items())
        exchange.send(error.status, _JSON, orjson.dumps(error.body()), headers.encode("latin-1"))

    def _serve_other(self, request: Request, exchange: Exchange) -> None:
        if request.path.startswith("/_worker/"):
            self._serve_control(request, exchange)
        elif request.path not in self._routes:
            self._fail(NotFound(f"There is no {request.path} here."), exchange)
        elif request.method != "POST":
            self._fail(MethodNotAllowed(f"{request.path} takes POST.", headers={"Allow": "POST"}), exchange)
        elif self._unavailable is not None:
            self._fail(self._unavailable, exchange)
        else:
            text = f"Model '{self._model_uid}' does not serve {request.path}."
            self._fail(BadRequest(text, param="model"), exchange)

    def _serve_control(self, request: Request, exchange: Exchange) -> None:
        if request.method != "GET":
            self._fail(MethodNotAllowed(f"{request.path} takes GET.", headers={"Allow": "GET"}), exchange)
        elif request.path == "/_worker/status":
            exchange.send(200, _JSON, orjson.dumps(self._status(), default=str))
            self.polled.set()
        elif request.path == "/_worker/metrics":
            exchange.send(200, _JSON, orjson.dumps(self.counters))
        elif request.path.startswith(_REQUESTS):
            self._serve_progress(request.path.removeprefix(_REQUESTS), exchange)
        else:
            self._fail(NotFound(f"There is no {request.path} here."), exchange)

    def _serve_progress(self, request_id: str, exchange: Exchange) -> None:
        call = self._running.get(request_id)
        if call is None:
            self._fail(NotFound(f"No request '{request_id}' is under way here."), exchange)
        else:
            answer = {"request_id": request_id, "path": call.path, "progress": call.fraction}
            exchange.send(200, _JSON, orjson.dumps(answer))


def _inner_error(call: _Call) -> ModelrackError:
    return ModelrackError(f"The model failed inside; its log has the details under request {call.request_id}.")


def _encode(event: Any) -> bytes:
    if isinstance(event, bytes):
        return event
    if isinstance(event, BaseModel):
        return event.__pydantic_serializer__.to_json(event, by_alias=True)
    return orjson.dumps(event)


@coroutine
def _step(iterator: AsyncIterator[Any], exchange: Exchange, pending: list[bytes]) -> Generator[Any, Any, None]:
    """Send events until the iterator ends; those still in `pending` then are the caller's to send.

    Each step of the iterator is driven by hand, because only so is it seen whether it is about to wait: what has piled
    up until then goes out in one write, and not before.
    """
    while True:
        step = iterator.__anext__().__await__()
        try:
            waits_for = next(step)
            while True:
                if pending:
                    exchange.send_events(pending)
                    pending.clear()
                try:
                    value = yield waits_for
                except BaseException as error:
                    waits_for = step.throw(error)
                else:
                    waits_for = step.send(value)
        except StopIteration as result:
            pending.append(_encode(result.value))
        except StopAsyncIteration:
            return
        if len(pending) >= _BATCH:
            exchange.send_events(pending)
            pending.clear()
            yield
        if exchange.is_paused:
            if pending:
                exchange.send_events(pending)
                pending.clear()
            yield from exchange.drain().__await__()


_pump = cast(Callable[[AsyncIterator[Any], Exchange, list[bytes]], Coroutine[Any, Any, None]], _step)
