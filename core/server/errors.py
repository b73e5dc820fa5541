"""Render every failure: one body for all of `/v1`, and a place for the shapes that other APIs' clients read."""

import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import orjson

from ..errors import (
    BadRequest,
    Conflict,
    Forbidden,
    ModelrackError,
    NotFound,
    NotReady,
    PayloadTooLarge,
    TooManyRequests,
    Unauthorized,
)

if TYPE_CHECKING:
    from fastapi import FastAPI
    from starlette.requests import Request

__all__ = [
    "FAILED",
    "REQUEST_ID",
    "SHAPES",
    "HttpError",
    "MethodNotAllowed",
    "Rendered",
    "Shape",
    "from_status",
    "from_validation",
    "install",
    "render",
    "render_event",
    "shape_of",
    "unexpected",
]

logger = logging.getLogger(__name__)

REQUEST_ID = "modelrack.request_id"
"""Key of the request's id in the ASGI scope."""

FAILED = "modelrack.failed"
"""Key of the error that a request was answered with, in the ASGI scope; an unforeseen one was logged already."""

Rendered = tuple[int, list[tuple[bytes, bytes]], bytes]
"""Status, headers (names in lower case) and body of an answer."""


class HttpError(ModelrackError):
    """A refusal of the HTTP layer that has no class of its own; carries its own status."""

    status = 400
    type = "invalid_request_error"
    code = "http_error"

    def __init__(self, status: int, message: str, *, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(message, headers=headers)
        self.status = status  # type: ignore[misc]  # the one class whose status is not known beforehand
        if status >= 500:
            self.type = "server_error"  # type: ignore[misc]  # follows from the status


class MethodNotAllowed(ModelrackError):
    """The path exists, but not with this method."""

    status = 405
    type = "invalid_request_error"
    code = "method_not_allowed"


_BY_STATUS: dict[int, type[ModelrackError]] = {
    kind.status: kind
    for kind in (
        BadRequest,
        Unauthorized,
        Forbidden,
        NotFound,
        MethodNotAllowed,
        Conflict,
        PayloadTooLarge,
        TooManyRequests,
        NotReady,
    )
}


@dataclass(frozen=True, slots=True)
class Shape:
    """How one API's clients want a failure.

    Args:
        body: the JSON document of an answer.
        event: what is sent when a stream that has begun must end with the failure.
    """

    body: Callable[[ModelrackError], Mapping[str, Any]]
    event: Callable[[ModelrackError], bytes]


def _event(error: ModelrackError) -> bytes:
    return b"data: " + orjson.dumps({"error": error.body()["error"]}) + b"\n\n"


OPENAI = Shape(body=ModelrackError.body, event=_event)

SHAPES: dict[str, Shape] = {}
"""Shapes by path prefix, for the APIs whose clients read another one than OpenAI's; the first match wins."""


def shape_of(path: str) -> Shape:
    """Return the shape that clients of this path read."""
    for prefix, shape in SHAPES.items():
        if path.startswith(prefix):
            return shape
    return OPENAI


def render(error: ModelrackError, path: str = "") -> Rendered:
    """Render a failure as an answer to a request of `path`."""
    body = orjson.dumps(shape_of(path).body(error), default=str)
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
    for name, value in error.headers.items():
        headers.append((name.lower().encode("latin-1"), value.encode("latin-1")))
    return error.status, headers, body


def render_event(error: ModelrackError, path: str = "") -> bytes:
    """Render a failure as the last event of a stream that has begun."""
    return shape_of(path).event(error)


def from_validation(errors: Sequence[Mapping[str, Any]]) -> BadRequest:
    """Make the error for what pydantic found: `param` is the first field at fault, as a dotted path.

    Args:
        errors: as `ValidationError.errors()` returns them; a leading `body`, `query` or `path` is left out of the path.
    """
    first = errors[0] if errors else {}
    location = list(first.get("loc", ()))
    where = location.pop(0) if location and location[0] in _PLACES else "body"
    text = str(first.get("msg", "the request is not valid")).removeprefix("Value error, ")
    if first.get("type") == "json_invalid":
        reason = (first.get("ctx") or {}).get("error", text)
        return BadRequest(f"The body is not valid JSON: {reason}.")
    param = ".".join(str(part) for part in location) or None
    more = f" ({len(errors) - 1} more)" if len(errors) > 1 else ""
    return BadRequest(f"{param or where}: {text}{more}", param=param)


_PLACES = frozenset({"body", "query", "path", "header", "cookie"})


def from_status(status: int, detail: str, headers: Mapping[str, str] | None = None) -> ModelrackError:
    """Make the error for a bare HTTP status, as web frameworks raise them."""
    kind = _BY_STATUS.get(status)
    return kind(detail, headers=headers) if kind else HttpError(status, detail, headers=headers)


def unexpected(error: BaseException, request_id: str) -> ModelrackError:
    """Log a failure that nobody foresaw, with its traceback, and make an error that tells nothing of the inside."""
    logger.error("request %s failed unexpectedly", request_id, exc_info=error)
    return ModelrackError(
        "The server failed while answering.", remedy=f"The server's log has the reason, under request id {request_id}."
    )


def install(app: "FastAPI") -> None:
    """Give every failure of the application's own routes the one body."""
    from fastapi.exceptions import RequestValidationError
    from starlette.exceptions import HTTPException
    from starlette.requests import Request
    from starlette.responses import Response

    def answer(request: Request, error: ModelrackError) -> Response:
        request.scope[FAILED] = error
        status, headers, body = render(error, request.url.path)
        response = Response(body, status)
        response.raw_headers = headers
        return response

    async def known(request: Request, error: Exception) -> Response:
        assert isinstance(error, ModelrackError)
        return answer(request, error)

    async def invalid(request: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        return answer(request, from_validation(error.errors()))

    async def refused(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        return answer(request, _from_http(request, error.status_code, error.detail, error.headers))

    async def unforeseen(request: Request, error: Exception) -> Response:
        return answer(request, unexpected(error, request.scope.get(REQUEST_ID, "-")))

    handlers: dict[type[Exception], Callable[[Request, Exception], Awaitable[Response]]] = {
        ModelrackError: known,
        RequestValidationError: invalid,
        HTTPException: refused,
        Exception: unforeseen,
    }
    for kind, handler in handlers.items():
        app.add_exception_handler(kind, handler)


def _from_http(request: "Request", status: int, detail: object, headers: Mapping[str, str] | None) -> ModelrackError:
    """Say more than a framework's bare "Not Found" and "Method Not Allowed"."""
    text = detail if isinstance(detail, str) else orjson.dumps(detail, default=str).decode()
    if status == 404 and text == "Not Found":
        text = f"There is no route {request.method} {request.url.path}."
    elif status == 405:
        allowed = (headers or {}).get("Allow", "")
        text = f"{request.url.path} does not take {request.method}{f', only {allowed}' if allowed else ''}."
    return from_status(status, text, headers)
