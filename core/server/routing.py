"""What the gateway reads from a request's body: which model is asked, and by which id the request goes."""

import orjson

from ..errors import BadRequest
from .multipart import find_fields

__all__ = ["MODEL_LIMIT", "read_form", "read_json"]

MODEL_LIMIT = 256
"""Longest `model` of a request; it goes into errors and the log."""

_FORM_FIELDS = {b"model": 1024, b"request_id": 1024, b"kwargs": 1024 * 1024}

_KWARGS_LIMIT = 64 * 1024
"""Longest `kwargs` in which the request's id is looked for."""


def read_json(headers: dict[bytes, bytes], body: bytes) -> tuple[str, str | None]:
    """Return the `model` and the `request_id` of a JSON body; the worker checks everything else.

    Raises: BadRequest: it is not JSON, no object, or compressed; or `model` cannot be one.
    """
    encoding = headers.get(b"content-encoding", b"identity").lower()
    if encoding != b"identity":
        raise BadRequest(f"Compressed bodies are not taken (Content-Encoding {encoding.decode('latin-1')}).")
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        reason = f"is not valid JSON: {error}" if body else "is empty, a JSON object is expected"
        raise BadRequest(f"The body {reason}.") from None
    if not isinstance(document, dict):
        raise BadRequest("The body must be a JSON object.")
    own_id = document.get("request_id")
    if own_id is None and "kwargs" in document:
        own_id = _packed_id(document["kwargs"])
    return _checked_model(document.get("model")), own_id if isinstance(own_id, str) else None


def read_form(content_type: bytes, body: bytes) -> tuple[str, str | None]:
    """Return the `model` and the `request_id` field of a multipart form.

    Raises: BadRequest: the form is malformed, or `model` cannot be one.
    """
    found = find_fields(content_type, body, _FORM_FIELDS)
    return _checked_model(found.get(b"model")), found.get(b"request_id") or _packed_id(found.get(b"kwargs"))


def _packed_id(packed: object) -> str | None:
    """Return the request's id in `kwargs`, where Xinference's client puts it; the worker refuses what is malformed."""
    if not isinstance(packed, str) or len(packed) > _KWARGS_LIMIT or "request_id" not in packed:
        return None
    try:
        fields = orjson.loads(packed)
    except orjson.JSONDecodeError:
        return None
    own_id = fields.get("request_id") if isinstance(fields, dict) else None
    return own_id if isinstance(own_id, str) else None


def _checked_model(model: object) -> str:
    if isinstance(model, str) and 0 < len(model) <= MODEL_LIMIT:
        return model
    reason = "field required" if model is None else f"must be a string of 1 to {MODEL_LIMIT} characters"
    raise BadRequest(f"model: {reason}.", param="model", remedy="GET /v1/models lists what runs.")
