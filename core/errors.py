"""The one family of errors: each class carries its HTTP status, a stable code and, if there is one, the remedy."""

from collections.abc import Mapping
from typing import Any, ClassVar

__all__ = [
    "AlreadyExists",
    "BadRequest",
    "Conflict",
    "EngineError",
    "EngineUnavailable",
    "Forbidden",
    "InsufficientMemory",
    "LaunchCancelled",
    "LaunchFailed",
    "ModelNotFound",
    "ModelrackError",
    "NoEngine",
    "NotFound",
    "NotReady",
    "PayloadTooLarge",
    "TooManyRequests",
    "Unauthorized",
    "UnsupportedParameter",
    "WorkerLost",
]


class ModelrackError(Exception):
    """Base of every error that a user may see; unexpected ones are rendered as this class.

    Args:
        message: one sentence for a person, without a trailing traceback.
        param: the request field at fault, as a dotted path (`messages.0.role`).
        remedy: what the reader can do about it ("pip install modelrack-embedding").
        headers: extra response headers, such as `Retry-After`.
        details: further JSON-ready facts; rendered as members of the `error` object.
    """

    status: ClassVar[int] = 500
    type: ClassVar[str] = "server_error"
    code: ClassVar[str] = "internal_error"

    def __init__(
        self,
        message: str,
        *,
        param: str | None = None,
        remedy: str | None = None,
        headers: Mapping[str, str] | None = None,
        details: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.remedy = remedy
        self.headers = dict(headers or {})
        self.details = dict(details or {})

    def body(self) -> dict[str, Any]:
        """Return the JSON body that OpenAI's and Xinference's clients both read."""
        text = f"{self.message} {self.remedy}" if self.remedy else self.message
        error: dict[str, Any] = {**self.details, "message": text, "type": self.type, "param": self.param}
        error["code"] = self.code
        if self.remedy:
            error["remedy"] = self.remedy
        return {"error": error, "detail": text}


class BadRequest(ModelrackError):
    """The request is malformed or asks for something that cannot be."""

    status = 400
    type = "invalid_request_error"
    code = "invalid_request"


class UnsupportedParameter(BadRequest):
    """The engine cannot honour a parameter; nothing accepted is ignored silently."""

    code = "unsupported_parameter"


class AlreadyExists(BadRequest):
    """A name or uid is taken."""

    code = "already_exists"


class NoEngine(BadRequest):
    """No engine can run what was asked for; the message says why, engine by engine."""

    code = "no_engine"


class EngineUnavailable(BadRequest):
    """The engine is known but cannot run on this machine (not installed, wrong platform)."""

    code = "engine_unavailable"


class InsufficientMemory(BadRequest):
    """A model would need much more memory than there is; the message has the figures."""

    code = "insufficient_memory"


class Unauthorized(ModelrackError):
    """Credentials are missing or wrong."""

    status = 401
    type = "authentication_error"
    code = "invalid_api_key"


class Forbidden(ModelrackError):
    """The credentials do not cover this."""

    status = 403
    type = "permission_error"
    code = "forbidden"


class NotFound(ModelrackError):
    """What the path names does not exist."""

    status = 404
    type = "invalid_request_error"
    code = "not_found"


class ModelNotFound(NotFound):
    """No model (or family) of this name is known."""

    code = "model_not_found"


class Conflict(ModelrackError):
    """The present state does not allow it (another server owns the home folder, say)."""

    status = 409
    type = "conflict_error"
    code = "conflict"


class LaunchCancelled(Conflict):
    """A launch was cancelled before the model was ready."""

    code = "launch_cancelled"


class PayloadTooLarge(ModelrackError):
    """The body is over the configured limit."""

    status = 413
    type = "invalid_request_error"
    code = "payload_too_large"


class TooManyRequests(ModelrackError):
    """The model is at its limit of concurrent requests."""

    status = 429
    type = "rate_limit_error"
    code = "too_many_requests"


class LaunchFailed(ModelrackError):
    """A worker could not be started; the message ends with the reason it gave."""

    status = 500
    code = "launch_failed"


class EngineError(ModelrackError):
    """The engine failed while answering."""

    status = 500
    code = "engine_error"


class WorkerLost(ModelrackError):
    """The worker's process went away while it was answering."""

    status = 502
    type = "server_error"
    code = "worker_lost"


class NotReady(ModelrackError):
    """The model is known but is not ready to answer."""

    status = 503
    type = "service_unavailable_error"
    code = "model_not_ready"
