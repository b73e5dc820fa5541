"""Put the errors of command workers, which are any HTTP servers, into our one body."""

from typing import Any

import orjson

from ..errors import EngineError, ModelrackError
from .errors import HttpError, from_status, from_validation

__all__ = ["ERROR_LIMIT_BYTES", "read_error"]

ERROR_LIMIT_BYTES = 1024 * 1024
"""Largest body of an error that is read; a longer one is cut there, and then it can only be quoted."""

_QUOTED = 2000
"""Characters of a message that are passed on at most."""

_KEPT_HEADERS = (b"retry-after",)


class ForeignError(HttpError):
    """A refusal of a command worker that carries its own code."""

    def __init__(self, like: ModelrackError, message: str, param: str | None, code: str) -> None:
        super().__init__(like.status, message, headers=like.headers)
        self.param = param
        self.type = like.type  # type: ignore[misc]  # that of its status
        self.code = code  # type: ignore[misc]  # the worker's own


def read_error(
    status: int, headers: list[tuple[bytes, bytes]], content_type: bytes, body: bytes
) -> ModelrackError | None:
    """Read what a worker answered with a status of 400 or more; None: its body is ours already.

    The message is the worker's own, also for its failures: it is what tells an operator which of them it was.
    """
    document = _json(body)
    if _is_ours(document):
        return None
    kept = {name.decode(): value.decode("latin-1") for name, value in headers if name in _KEPT_HEADERS}
    message, param, code = _facts(document)
    if message is None:
        message = _plain_text(content_type, body) if document is None else None
    if message is None:
        message = f"The engine answered with status {status} and gave no reason."
    message = message[:_QUOTED]
    # Validation is a 400 here, whatever the worker's framework calls it.
    error = from_status(400 if status == 422 else status, message, kept)
    if error.status == EngineError.status:
        error = EngineError(message, headers=kept)
    error.param = param
    return ForeignError(error, message, param, code) if code else error


def _json(body: bytes) -> Any:
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError:
        return None


def _is_ours(document: Any) -> bool:
    if not isinstance(document, dict) or not isinstance(document.get("detail"), str):
        return False
    error = document.get("error")
    return (
        isinstance(error, dict)
        and all(isinstance(error.get(name), str) for name in ("message", "type", "code"))
        and "param" in error
    )


def _facts(document: Any) -> tuple[str | None, str | None, str | None]:
    """Return message, param and code of a body in one of the shapes that servers use; None is what it does not say."""
    if not isinstance(document, dict):
        return (document, None, None) if isinstance(document, str) and document.strip() else (None, None, None)
    detail = document.get("detail")
    if isinstance(detail, list) and detail and all(isinstance(item, dict) for item in detail):
        found = from_validation(detail)
        return found.message, found.param, None
    inner = document.get("error")
    # OpenAI's; the bare object of vLLM's and others' older versions; an error that is only a text; FastAPI's.
    sources: tuple[Any, ...] = (inner, document, {"message": inner}, {"message": detail}, detail)
    for source in sources:
        if isinstance(source, dict) and isinstance(source.get("message"), str) and source["message"].strip():
            return source["message"].strip(), _text(source.get("param")), _text(source.get("code"))
    return None, None, None


def _text(value: Any) -> str | None:
    """Return a text that says something; numbers are statuses, which the answer has already."""
    return value if isinstance(value, str) and value and not value.isdigit() else None


def _plain_text(content_type: bytes, body: bytes) -> str | None:
    """Return a body that is meant for people to read, on one line; pages of HTML are not."""
    text = body.decode(errors="replace").strip()
    if b"html" in content_type.lower() or text.startswith(("<", "{", "[")):
        return None
    return " ".join(text.split()) or None
