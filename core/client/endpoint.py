"""Where the server is and which key it wants.

The server's settings are read in `modelrack.settings`; these two belong to its clients, which must not load pydantic
for them.
"""

import os
from urllib.parse import urlsplit

__all__ = ["DEFAULT_ENDPOINT", "find_api_key", "find_endpoint", "is_local"]

DEFAULT_ENDPOINT = "http://127.0.0.1:9997"


def find_endpoint(given: str | None = None) -> str:
    """Return the server's root: what is given, else `MODELRACK_ENDPOINT`, else the default address.

    A missing scheme is `http`; a slash or an OpenAI-style `/v1` at the end is taken off.

    Raises: ValueError: it is no address.
    """
    endpoint = (given or os.environ.get("MODELRACK_ENDPOINT") or DEFAULT_ENDPOINT).strip()
    if "://" not in endpoint:
        endpoint = f"http://{endpoint}"
    endpoint = endpoint.rstrip("/").removesuffix("/v1").rstrip("/")
    parts = urlsplit(endpoint)
    try:
        has_port = parts.port is None or parts.port > 0
    except ValueError:
        has_port = False
    if parts.scheme not in ("http", "https") or not parts.hostname or not has_port:
        raise ValueError(f"'{given or endpoint}' is no address of a server; write it like {DEFAULT_ENDPOINT}")
    return endpoint


def find_api_key(given: str | None = None) -> str | None:
    """Return the key to send: what is given, else `MODELRACK_API_KEY`, else none."""
    return given or os.environ.get("MODELRACK_API_KEY") or None


def is_local(endpoint: str) -> bool:
    """Return whether the endpoint is on this machine, as far as its address tells."""
    host = (urlsplit(endpoint).hostname or "").lower()
    return host in ("localhost", "::1", "::", "0.0.0.0") or host.startswith("127.")
