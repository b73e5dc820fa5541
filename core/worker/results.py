"""Files that handlers make for clients: kept in one folder, fetched from the server at URLs that are signed and expire.

A worker writes and signs them; the server checks and serves them (`server.files`). Both drop what is over the bounds.
"""

import contextlib
import hashlib
import hmac
import os
import re
import secrets
import time
from collections.abc import Mapping
from pathlib import Path

from ..errors import EngineError
from .contract import ResultFiles

__all__ = ["MEDIA_TYPES", "base_url", "is_name", "media_type_of", "save", "sign", "sweep"]

MEDIA_TYPES: Mapping[str, str] = {
    "image/png": "png",
    "image/jpeg": "jpg",
    "image/webp": "webp",
    "image/gif": "gif",
    "audio/wav": "wav",
    "audio/mpeg": "mp3",
    "audio/flac": "flac",
    "audio/ogg": "ogg",
    "audio/opus": "opus",
    "audio/aac": "aac",
    "video/mp4": "mp4",
    "video/webm": "webm",
    "application/json": "json",
    "application/pdf": "pdf",
    "application/zip": "zip",
    "application/octet-stream": "bin",
    "text/plain": "txt",
}
"""Media types of results, with the endings of their names, from which the server knows the type again."""

FILES_LIMIT = 10_000
"""Most files that are kept, however small they are: each sweep looks at all of them."""

_BY_ENDING = {ending: media_type for media_type, ending in MEDIA_TYPES.items()}
_NAME = re.compile(r"[0-9a-f]{32}\.([a-z0-9]{2,5})")
_HOST = re.compile(r"[A-Za-z0-9._-]{1,255}(:[0-9]{1,5})?|\[[0-9A-Fa-f:.]{2,64}\](:[0-9]{1,5})?")
_PREFIX = re.compile(r"(/[A-Za-z0-9._~-]+)*")


def save(place: ResultFiles, base: str, content: bytes, media_type: str) -> str:
    """Write a result and return the URL at which clients can get it until it expires. Blocks; call it from any thread.

    Args:
        base: the server's address as the client sees it (`base_url`).
        media_type: one of `MEDIA_TYPES`.

    Raises: ValueError: another media type. EngineError: it is larger than all results may be, or cannot be written.
    """
    ending = MEDIA_TYPES.get(media_type)
    if ending is None:
        raise ValueError(f"no results of type {media_type!r} are served; there are: {', '.join(MEDIA_TYPES)}")
    if len(content) > place.max_bytes:
        raise EngineError(
            f"The result has {len(content)} bytes, more than all results together may have.",
            remedy="MODELRACK_FILES_MAX_MB sets the limit.",
        )
    folder = Path(place.folder)
    name = f"{secrets.token_hex(16)}.{ending}"
    draft = folder / f".{name}"
    try:
        key = Path(place.key_file).read_bytes()
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
        # The file system's own clock may stand still for milliseconds, and then the newest could pass for the oldest.
        os.utime(draft, ns=(time.time_ns(),) * 2)
        draft.replace(folder / name)
    except OSError as error:
        draft.unlink(missing_ok=True)
        raise EngineError(f"The result cannot be kept: {error.strerror or error}.") from error
    sweep(folder, place.ttl_s, place.max_bytes)
    expires = int(time.time() + place.ttl_s)
    return f"{base}/v1/files/{name}?expires={expires}&signature={sign(key, name, expires)}"


def sign(key: bytes, name: str, expires: int) -> str:
    """Return the signature of a file's name and the time until which its URL is good."""
    return hmac.new(key, f"{name}\n{expires}".encode(), hashlib.sha256).hexdigest()


def is_name(name: str) -> bool:
    """Tell whether a name is one that `save` gives; no such name leads out of the folder."""
    found = _NAME.fullmatch(name)
    return found is not None and found[1] in _BY_ENDING


def media_type_of(name: str) -> str:
    """Return the media type of a file that `save` has named."""
    return _BY_ENDING[name.rpartition(".")[2]]


def sweep(folder: Path, ttl_s: float, max_bytes: int) -> int:
    """Remove files that have expired and, the oldest first, what is over the size or too many.

    Several processes may do so at once. Files that are still being written go only when they have expired.

    Returns: how many were removed.
    """
    found = []
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            with contextlib.suppress(OSError):
                if entry.is_file(follow_symlinks=False):
                    state = entry.stat(follow_symlinks=False)
                    found.append((state.st_mtime, state.st_size, entry.path))
    oldest = time.time() - ttl_s
    total = kept = removed = 0
    for changed, size, path in sorted(found, reverse=True):
        is_draft = os.path.basename(path).startswith(".")
        if changed >= oldest and (is_draft or (total + size <= max_bytes and kept < FILES_LIMIT)):
            total += 0 if is_draft else size
            kept += 1
        else:
            with contextlib.suppress(OSError):
                os.unlink(path)
                removed += 1
    return removed


def base_url(headers: Mapping[bytes, bytes]) -> str:
    """Return the server's address as the client of a request sees it, without a slash at its end.

    The server tells it in the headers that it gives a worker's request: `Host` and, where they are not as usual,
    `X-Forwarded-Proto` and `X-Forwarded-Prefix`. Without a host that can be one, it is empty: URLs are relative then.
    """
    host = headers.get(b"host", b"").decode("latin-1")
    if not _HOST.fullmatch(host):
        return ""
    scheme = "https" if headers.get(b"x-forwarded-proto") == b"https" else "http"
    prefix = headers.get(b"x-forwarded-prefix", b"").decode("latin-1")
    return f"{scheme}://{host}{prefix if _PREFIX.fullmatch(prefix) else ''}"
