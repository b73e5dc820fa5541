"""What the client raises: every class is a RuntimeError that carries the server's status, code and parameter."""

import json
from collections.abc import Mapping
from typing import Any, ClassVar

from ..errors import ModelrackError

__all__ = [
    "BadRequest",
    "ClientError",
    "Conflict",
    "Forbidden",
    "LaunchError",
    "NotFound",
    "NotReady",
    "PayloadTooLarge",
    "RequestTimeout",
    "ServerError",
    "ServerUnreachable",
    "TooManyRequests",
    "Unauthorized",
]


class ClientError(RuntimeError):
    """Base of all that the client raises for a request.

    Args:
        message: one sentence for a person.
        status: the HTTP status; None if no answer came.
        code: the server's stable code (`model_not_found`).
        param: the request field at fault.
        remedy: what the reader can do about it.
        retry_after_s: seconds after which the server suggests to try again.
        body: the decoded body of the answer.
    """

    default_code: ClassVar[str] = "error"

    def __init__(
        self,
        message: str,
        *,
        status: int | None = None,
        code: str | None = None,
        param: str | None = None,
        remedy: str | None = None,
        retry_after_s: float | None = None,
        body: Any = None,
    ) -> None:
        super().__init__(f"{message} {remedy}" if remedy else message)
        self.message = message
        self.status = status
        self.code = code or self.default_code
        self.param = param
        self.remedy = remedy
        self.retry_after_s = retry_after_s
        self.body = body


class BadRequest(ClientError):
    """The request is malformed or asks for something that cannot be (400 and 422)."""

    default_code = "invalid_request"


class Unauthorized(ClientError):
    """Credentials are missing or wrong (401)."""

    default_code = "invalid_api_key"


class Forbidden(ClientError):
    """The credentials do not cover this (403)."""

    default_code = "forbidden"


class NotFound(ClientError):
    """There is no such model, family or path (404)."""

    default_code = "not_found"


class Conflict(ClientError):
    """The present state does not allow it; a cancelled launch, for one (409)."""

    default_code = "conflict"


class PayloadTooLarge(ClientError):
    """The body is over the server's limit (413)."""

    default_code = "payload_too_large"


class TooManyRequests(ClientError):
    """The model is at its limit of concurrent requests (429)."""

    default_code = "too_many_requests"


class ServerError(ClientError):
    """The server or the engine failed (5xx)."""

    default_code = "internal_error"


class LaunchError(ServerError):
    """A launch that had begun has failed; the message ends with the reason."""

    default_code = "launch_failed"


class NotReady(ServerError):
    """The model is known but is not ready to answer (503)."""

    default_code = "model_not_ready"


class ServerUnreachable(ClientError):
    """No server answers at this address, or the connection broke."""

    default_code = "server_unreachable"


class RequestTimeout(ClientError):
    """No answer came within the time-out."""

    default_code = "timeout"


_BY_STATUS: dict[int, type[ClientError]] = {
    400: BadRequest,
    401: Unauthorized,
    403: Forbidden,
    404: NotFound,
    409: Conflict,
    413: PayloadTooLarge,
    422: BadRequest,
    429: TooManyRequests,
    503: NotReady,
}
_BY_CODE: dict[str, type[ClientError]] = {"launch_failed": LaunchError}


def _class_for(status: int, code: str | None) -> type[ClientError]:
    fallback = ServerError if status >= 500 else ClientError
    return _BY_CODE.get(code or "") or _BY_STATUS.get(status, fallback)


def _status_of(code: str | None) -> int:
    """Return the status that goes with a code of the server's; inside a stream only the code is sent."""
    waiting = [ModelrackError]
    while waiting:
        kind = waiting.pop()
        if kind.code == code:
            return kind.status
        waiting.extend(kind.__subclasses__())
    return 500


def _describe(body: Any) -> dict[str, Any]:
    """Read message, code, param and remedy out of any error body: ours, OpenAI's, FastAPI's or a bare text."""
    error = body.get("error", body) if isinstance(body, Mapping) else body
    if isinstance(error, str) or not isinstance(error, Mapping):
        return {"message": str(error).strip()} if error else {}
    message = error.get("message") or error.get("detail") or (body.get("detail") if isinstance(body, Mapping) else None)
    remedy = error.get("remedy")
    text = message if isinstance(message, str) else json.dumps(message) if message else ""
    if remedy:
        text = text.removesuffix(str(remedy)).rstrip()
    return {"message": text, "code": error.get("code"), "param": error.get("param"), "remedy": remedy}


def error_from_response(action: str, status: int, headers: Mapping[str, str], content: bytes) -> ClientError:
    """Return the typed error for an answer that is not a good one."""
    try:
        body: Any = json.loads(content)
    except ValueError:
        body = content.decode("utf-8", "replace")[:500]
    facts = _describe(body)
    retry_after = headers.get("retry-after", "")
    code = facts.get("code")
    return _class_for(status, code)(
        facts.get("message") or f"Failed to {action}: the server answered {status}.",
        status=status,
        code=None if code is None else str(code),
        param=facts.get("param"),
        remedy=facts.get("remedy"),
        retry_after_s=float(retry_after) if retry_after.isdigit() else None,
        body=body,
    )


def error_from_event(event: Mapping[str, Any]) -> ClientError:
    """Return the typed error for an `error` object that came inside a good answer (a stream, a launch's progress)."""
    facts = _describe(event)
    code = None if facts.get("code") is None else str(facts["code"])
    status = _status_of(code)
    return _class_for(status, code)(
        facts.get("message") or "The server reported an error.",
        status=status,
        code=code,
        param=facts.get("param"),
        remedy=facts.get("remedy"),
        body=event,
    )
