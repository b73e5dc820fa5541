"""Under which address clients see this server: workers need it, for URLs in their answers."""

import re
from collections.abc import Mapping, MutableMapping
from typing import Any
from urllib.parse import urlsplit

__all__ = ["Origins"]

_HOST = re.compile(rb"[A-Za-z0-9._-]{1,255}(:[0-9]{1,5})?|\[[0-9A-Fa-f:.]{2,64}\](:[0-9]{1,5})?")
_KEPT = 1024
"""Addresses whose lines are kept ready; a server has a few."""


class Origins:
    """Make the header lines that tell a worker the address: `Host`, `X-Forwarded-Proto` and `X-Forwarded-Prefix`.

    Args:
        public_url: the address, where the operator says it (`MODELRACK_PUBLIC_URL`); else it is the request's own.
    """

    def __init__(self, public_url: str | None) -> None:
        self._lines: dict[tuple[bytes | None, str], bytes] = {}
        self._fixed = b""
        if public_url is not None:
            parts = urlsplit(public_url)
            self._fixed = _lines(parts.netloc.encode(), parts.scheme, parts.path.rstrip("/").encode())

    def lines(self, scope: MutableMapping[str, Any], headers: Mapping[bytes, bytes]) -> bytes:
        """Return the lines for a request, each ended by CRLF."""
        if self._fixed:
            return self._fixed
        # uvicorn takes the scheme from X-Forwarded-Proto where a proxy that it trusts says so.
        key = headers.get(b"host"), scope["scheme"]
        lines = self._lines.get(key)
        if lines is None:
            host = key[0]
            if host is None or not _HOST.fullmatch(host):
                return _lines(_own_host(scope), key[1])
            if len(self._lines) >= _KEPT:
                self._lines.clear()
            lines = self._lines[key] = _lines(host, key[1])
        return lines


def _own_host(scope: MutableMapping[str, Any]) -> bytes:
    """Return where the request came in, for clients that do not say whom they ask."""
    address, port = (scope.get("server") or ("localhost", None))[:2]
    shown = f"[{address}]" if ":" in address else address
    host = (f"{shown}:{port}" if port else shown).encode()
    return host if _HOST.fullmatch(host) else b"localhost"


def _lines(host: bytes, scheme: str, prefix: bytes = b"") -> bytes:
    lines = b"host: %b\r\n" % host
    if scheme == "https":
        lines += b"x-forwarded-proto: https\r\n"
    return lines + (b"x-forwarded-prefix: %b\r\n" % prefix if prefix else b"")
