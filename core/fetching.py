"""The one client for URLs that requests name: it reaches public addresses only, within bounds.

The address is checked when the connection is made, and again at each redirect: what a name meant before does not count.
"""

import asyncio
import ipaddress
import socket
import ssl
from collections.abc import Collection
from dataclasses import dataclass, field
from urllib.parse import SplitResult, urljoin, urlsplit

from .errors import BadRequest

__all__ = ["fetch"]

_REDIRECTS = 3
_PIECE = 64 * 1024
_MOST_HEADERS = 64 * 1024
_PORTS = {"http": 80, "https": 443}
_NAT64 = ipaddress.ip_network("64:ff9b::/96")


async def fetch(
    url: str, *, param: str, hosts: Collection[str] = (), max_bytes: int = 32 << 20, timeout_s: float = 15.0
) -> bytes:
    """Return what a URL of a request leads to.

    Args:
        param: the request's field, for errors.
        hosts: names or addresses that may be reached although their addresses are not public; `name:port` for one port.
        max_bytes: of the content; more is refused.
        timeout_s: for all of it, redirects too.

    Raises: BadRequest: it may not be fetched, or cannot be.
    """
    try:
        async with asyncio.timeout(timeout_s):
            for _ in range(_REDIRECTS + 1):
                target = _read(url, param)
                answer = await _get(target, param, hosts, max_bytes)
                if answer.location is None:
                    return bytes(answer.content)
                url = urljoin(url, answer.location)
    except TimeoutError:
        raise BadRequest(f"'{param}': the URL was not answered within {timeout_s:g} s.", param=param) from None
    except (OSError, UnicodeError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise BadRequest(
            f"'{param}': the URL cannot be fetched: {reason or type(error).__name__}.", param=param
        ) from None
    raise BadRequest(f"'{param}': the URL redirects more than {_REDIRECTS} times.", param=param)


def _read(url: str, param: str) -> SplitResult:
    """Return the parts of a URL that may be fetched."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise BadRequest(f"'{param}' is no URL.", param=param) from None
    if parts.scheme not in _PORTS or not parts.hostname:
        raise BadRequest(f"'{param}': only http and https URLs can be fetched.", param=param)
    if parts.username is not None or parts.password is not None or port == 0:
        raise BadRequest(f"'{param}': the URL must not have a user, a password or the port 0.", param=param)
    if any(ord(character) <= 32 or ord(character) == 127 for character in url):
        raise BadRequest(f"'{param}': the URL has spaces or control characters in it.", param=param)
    return parts


@dataclass(slots=True)
class _Answer:
    """One answer, taken in as it is parsed."""

    param: str
    max_bytes: int
    content: bytearray = field(default_factory=bytearray)
    location: str | None = None
    is_complete: bool = False

    def on_header(self, name: bytes, value: bytes) -> None:
        key = name.lower()
        if key == b"location":
            self.location = value.decode("latin-1")
        elif key == b"content-length" and value.isdigit() and int(value) > self.max_bytes:
            raise self._too_large()
        elif key == b"content-encoding" and value.lower() not in (b"identity", b""):
            raise BadRequest(f"'{self.param}': the URL is answered in an encoding nobody asked for.", param=self.param)

    def on_body(self, body: bytes) -> None:
        self.content += body
        if len(self.content) > self.max_bytes:
            raise self._too_large()

    def on_message_complete(self) -> None:
        self.is_complete = True

    def _too_large(self) -> BadRequest:
        return BadRequest(
            f"'{self.param}': what the URL leads to is larger than {self.max_bytes} bytes.", param=self.param
        )


async def _get(target: SplitResult, param: str, hosts: Collection[str], max_bytes: int) -> _Answer:
    import httptools

    answer = _Answer(param, max_bytes)
    parser = httptools.HttpResponseParser(answer)
    reader, writer = await _connect(target, param, hosts)
    try:
        path = target._replace(scheme="", netloc="", fragment="").geturl() or "/"
        path = path if path.startswith("/") else f"/{path}"
        host = target.netloc.encode("idna" if not target.netloc.isascii() else "ascii").decode()
        writer.write(
            f"GET {path} HTTP/1.1\r\nHost: {host}\r\nAccept: */*\r\nAccept-Encoding: identity\r\n"
            "User-Agent: modelrack\r\nConnection: close\r\n\r\n".encode("ascii", "strict")
        )
        read = 0
        while not answer.is_complete:
            data = await reader.read(_PIECE)
            read += len(data)
            if read > max_bytes + _MOST_HEADERS:
                raise answer._too_large()
            if not data:
                break
            try:
                parser.feed_data(data)
            except httptools.HttpParserCallbackError as error:
                if isinstance(error.__context__, BadRequest):
                    raise error.__context__ from None
                raise
            if answer.location is not None and parser.get_status_code() in (301, 302, 303, 307, 308):
                return answer
    except httptools.HttpParserError:
        raise BadRequest(f"'{param}': the URL is not answered in HTTP.", param=param) from None
    finally:
        writer.transport.abort()
    status = parser.get_status_code() if read else 0
    answer.location = None
    if status != 200:
        raise BadRequest(f"'{param}': the URL is answered with status {status or 'none'}.", param=param)
    if not answer.is_complete and parser.should_keep_alive():
        raise BadRequest(f"'{param}': the URL's answer ended in the middle.", param=param)
    return answer


async def _connect(
    target: SplitResult, param: str, hosts: Collection[str]
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Connect to an address that may be reached; names are looked up here, once."""
    host = target.hostname or ""
    port = target.port or _PORTS[target.scheme]
    is_trusted = host in hosts or f"{host}:{port}" in hosts
    loop = asyncio.get_running_loop()
    infos = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    addresses = list(dict.fromkeys(info[4][0] for info in infos))
    if not is_trusted and not all(_is_public(str(address)) for address in addresses):
        raise BadRequest(
            f"'{param}': the URL leads to an address that is not public.",
            param=param,
            remedy="Send the file itself as a data: URL, or name the host in MODELRACK_FETCH_HOSTS.",
        )
    context = ssl.create_default_context() if target.scheme == "https" else None
    last: OSError | None = None
    for address in addresses:
        try:
            return await asyncio.open_connection(
                str(address), port, ssl=context, server_hostname=host if context else None, limit=_PIECE
            )
        except OSError as error:
            last = error
    raise last or OSError("the name has no address")


def _is_public(text: str) -> bool:
    try:
        address = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return False
    if isinstance(address, ipaddress.IPv6Address):
        inner = address.ipv4_mapped or address.sixtofour
        if inner is None and address in _NAT64:
            inner = ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
        if inner is not None:
            return _is_public(str(inner))
        if address.teredo is not None:
            return False
    return address.is_global and not address.is_multicast
