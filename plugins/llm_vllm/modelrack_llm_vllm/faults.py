"""vLLM's errors in modelrack's shape."""

import re
from collections.abc import Mapping
from typing import Any

import orjson

from modelrack.errors import BadRequest, EngineError, ModelNotFound, ModelrackError, NotReady, TooManyRequests

__all__ = ["is_overflow", "read_fault", "rendered"]

_OVERFLOW = re.compile(r"maximum context length|maximum model length|exceeds? (the )?max_model_len", re.IGNORECASE)
_EXTRAS = re.compile(r" \(parameter=[^()]*(?:\([^()]*\)[^()]*)*\)\s*$")
_NAMES = {"input_text": "prompt", "input_tokens": "prompt", "structured_outputs": None}
"""vLLM's names of what is at fault, where they are no fields of ours."""


def read_fault(status: int, body: bytes, param: str | None = None) -> ModelrackError:
    """Return the error that an answer of vLLM tells of.

    Args:
        param: the field that is at fault if vLLM names none.
    """
    try:
        data = orjson.loads(body)
    except orjson.JSONDecodeError:
        data = None
    return explain(data.get("error") if isinstance(data, dict) else None, status, param)


def explain(found: Any, status: int = 500, param: str | None = None) -> ModelrackError:
    """Return the error of the `error` object of an answer or of an event.

    Args:
        status: taken if the object has no code.
    """
    error: Mapping[str, Any] = found if isinstance(found, dict) else {"message": found}
    message = _EXTRAS.sub("", str(error.get("message") or "")).strip() or "vLLM has failed without a reason"
    code = error.get("code")
    status = code if isinstance(code, int) and 400 <= code < 600 else status
    if status == 404:
        return ModelNotFound(_sentence(message), param="model")
    if status in (429, 503):
        if "queue" in message or "busy" in message or "backlog" in message:
            return TooManyRequests("The model has more requests than may wait.", headers={"Retry-After": "1"})
        return NotReady(_sentence(message), headers={"Retry-After": "1"})
    if status < 500:
        named = error.get("param")
        if isinstance(named, str) and named:
            param = _NAMES.get(named, named) or param
        return BadRequest(_sentence(message), param=param)
    return EngineError(f"vLLM has failed: {message}")


def is_overflow(error: ModelrackError) -> bool:
    """Tell whether an error is about a prompt that is too long."""
    return error.status == 400 and bool(_OVERFLOW.search(error.message))


def rendered(error: ModelrackError) -> tuple[int, list[tuple[bytes, bytes]], bytes]:
    """Return status, headers and body of the answer to a request that has failed."""
    body = orjson.dumps(error.body())
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    headers += [(name.lower().encode(), value.encode()) for name, value in error.headers.items()]
    return error.status, headers, body


def _sentence(text: str) -> str:
    return text if text.endswith((".", "!", "?")) else f"{text}."
