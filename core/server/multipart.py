"""Find small fields in a multipart form without decoding the rest of it."""

import re
from collections.abc import Mapping

from ..errors import BadRequest

__all__ = ["find_fields"]

PARTS_LIMIT = 256
HEAD_LIMIT_BYTES = 8 * 1024

_PARAMETER = re.compile(rb';\s*([\w*-]{1,64})\s*=\s*(?:"((?:[^"\\\r\n]|\\.)*)"|([^\s;"]*))')
_DISPOSITION = re.compile(rb"^content-disposition:\s*form-data(?=\s*;)([^\r\n]*)", re.I | re.M)


def find_fields(content_type: bytes, body: bytes, limits: Mapping[bytes, int]) -> dict[bytes, str]:
    """Return the values of text fields of a `multipart/form-data` body, as far as it has them; of several the first.

    Parts are skipped by searching for the boundary, so files are neither copied nor decoded.

    Args:
        limits: the names of the fields, and the bytes that each may have.

    Raises: BadRequest: no boundary, a part without an end, too many parts, or a value that is too long or not UTF-8.
    """
    found: dict[bytes, str] = {}
    boundary = _parameter(content_type, b"boundary")
    if not boundary or len(boundary) > 70:
        raise BadRequest("The Content-Type multipart/form-data has no valid boundary.")
    delimiter = b"--" + boundary
    position = body.find(delimiter)
    if position < 0 or (position > 0 and body[position - 2 : position] != b"\r\n"):
        raise BadRequest("The multipart body does not begin with its boundary.")
    position += len(delimiter)
    delimiter = b"\r\n" + delimiter
    for _ in range(PARTS_LIMIT):
        if body.startswith(b"--", position):
            return found
        head_end = body.find(b"\r\n\r\n", position, position + HEAD_LIMIT_BYTES)
        end = -1 if head_end < 0 else body.find(delimiter, head_end + 2)
        if end < 0:
            raise BadRequest("The multipart body is cut off, or a part of it is malformed.")
        disposition = _DISPOSITION.search(body, position, head_end)
        name = _parameter(disposition[1], b"name") if disposition else None
        if name is not None and name in limits and name not in found:
            found[name] = _text(name, body[head_end + 4 : end], limits[name])
        position = end + len(delimiter)
    raise BadRequest(f"The multipart body has more than {PARTS_LIMIT} parts.")


def _parameter(header: bytes, name: bytes) -> bytes | None:
    for match in _PARAMETER.finditer(header):
        if match[1].lower() == name:
            return match[2] if match[2] is not None else match[3]
    return None


def _text(name: bytes, value: bytes, limit_bytes: int) -> str:
    field = name.decode()
    if len(value) > limit_bytes:
        raise BadRequest(f"{field}: longer than {limit_bytes} bytes", param=field)
    try:
        return value.decode()
    except UnicodeDecodeError:
        raise BadRequest(f"{field}: not valid UTF-8", param=field) from None
