"""The client for URLs that requests name."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Callable

import pytest

from modelrack.errors import BadRequest
from modelrack.fetching import _is_public, fetch

Answers = Callable[[str], bytes]


def _http(body: bytes, status: str = "200 OK", *headers: str) -> bytes:
    head = "".join(f"{header}\r\n" for header in (f"Content-Length: {len(body)}", *headers))
    return f"HTTP/1.1 {status}\r\n{head}\r\n".encode() + body


@contextlib.asynccontextmanager
async def _server(answer: Answers) -> AsyncIterator[str]:
    """Serve what `answer` returns for a path, and yield `127.0.0.1:port`."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            head = await reader.readuntil(b"\r\n\r\n")
            assert b"accept-encoding: identity" in head.lower()
            writer.write(answer(head.split()[1].decode()))
            await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield f"127.0.0.1:{server.sockets[0].getsockname()[1]}"


async def _refused(url: str, words: str, **more: object) -> None:
    with pytest.raises(BadRequest, match=words) as caught:
        await fetch(url, param="messages.0.content.1", **more)  # type: ignore[arg-type]  # one of several
    assert caught.value.param == "messages.0.content.1"


async def test_a_file_comes_as_it_is() -> None:
    async with _server(lambda path: _http(path.encode() * 1000)) as host:
        assert await fetch(f"http://{host}/a%20b?c=d#e", param="x", hosts=[host]) == b"/a%20b?c=d" * 1000
        assert await fetch(f"http://{host}", param="x", hosts=["127.0.0.1"]) == b"/" * 1000
    chunked = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n"
    async with _server(lambda path: chunked) as host:
        assert await fetch(f"http://{host}/", param="x", hosts=[host]) == b"abcde"
    async with _server(lambda path: b"HTTP/1.0 200 OK\r\n\r\nto the end") as host:
        assert await fetch(f"http://{host}/", param="x", hosts=[host]) == b"to the end"


async def test_only_trusted_private_addresses_are_reached() -> None:
    async with _server(lambda path: _http(b"secret")) as host:
        port = host.rpartition(":")[2]
        for url in (f"http://{host}/", f"http://localhost:{port}/", f"http://[::ffff:127.0.0.1]:{port}/"):
            await _refused(url, "not public")
        await _refused(f"http://{host}/", "not public", hosts=["127.0.0.1:1"])


async def test_every_redirect_is_checked() -> None:
    async with _server(lambda path: _http(b"secret")) as inside:

        def answer(path: str) -> bytes:
            if path == "/in":
                return _http(b"", "302 Found", f"Location: http://{inside}/")
            if path == "/file":
                return _http(b"", "302 Found", "Location: file:///etc/passwd")
            if path == "/there":
                return _http(b"found")
            if path == "/once":
                return _http(b"", "307 Temporary Redirect", "Location: there")
            return _http(b"", "301 Moved Permanently", f"Location: {path}")

        async with _server(answer) as host:
            assert await fetch(f"http://{host}/once", param="x", hosts=[host]) == b"found"
            await _refused(f"http://{host}/in", "not public", hosts=[host])
            await _refused(f"http://{host}/file", "only http and https", hosts=[host])
            await _refused(f"http://{host}/loop", "redirects more than 3 times", hosts=[host])


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (_http(b"", "404 Not Found"), "status 404"),
        (_http(b"x" * 2000), "larger than 1000 bytes"),
        (b"HTTP/1.1 200 OK\r\n\r\n" + b"x" * 2000, "larger than 1000 bytes"),
        (_http(b"abc", "200 OK", "Content-Encoding: gzip"), "encoding nobody asked for"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 900\r\n\r\nabc", "ended in the middle"),
        (b"SSH-2.0-OpenSSH\r\n", "not answered in HTTP"),
        (b"", "status none"),
        (b"HTTP/1.1 200 OK\r\n" + b"a: b\r\n" * 50_000, "larger|not answered in HTTP"),
    ],
)
async def test_what_is_no_good_answer_is_refused(answer: bytes, words: str) -> None:
    async with _server(lambda path: answer) as host:
        await _refused(f"http://{host}/", words, hosts=[host], max_bytes=1000)


async def test_silence_ends() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        host = f"127.0.0.1:{silent.getsockname()[1]}"
        await _refused(f"http://{host}/", "within 0.2 s", hosts=[host], timeout_s=0.2)
    await _refused(f"http://{host}/", "cannot be fetched", hosts=[host])


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("ftp://example.com/a", "only http and https"),
        ("http://", "only http and https"),
        ("http://user:pass@example.com/", "a user, a password"),
        ("http://example.com:0/", "port 0"),
        ("http://example.com:99999/", "no URL"),
        ("http://[::1/", "no URL"),
        ("http://example.com/a b", "spaces or control"),
        ("http://example.com/\r\nX: y", "spaces or control"),
        ("http://name.invalid/", "cannot be fetched"),
        (f"http://{'a' * 70}.example/", "cannot be fetched"),
    ],
)
async def test_what_is_no_good_url_is_refused(url: str, words: str) -> None:
    await _refused(url, words)


@pytest.mark.parametrize(
    ("address", "is_public"),
    [
        ("93.184.216.34", True),
        ("2606:2800:220:1::1", True),
        ("10.0.0.1", False),
        ("169.254.169.254", False),
        ("100.64.0.1", False),
        ("0.0.0.0", False),
        ("224.0.0.1", False),
        ("::1", False),
        ("fe80::1%eth0", False),
        ("fd00::1", False),
        ("::ffff:10.0.0.1", False),
        ("64:ff9b::a00:1", False),
        ("2002:a00:1::", False),
        ("2001:0:4136:e378:8000:63bf:3fff:fdd2", False),
    ],
)
def test_which_addresses_are_public(address: str, is_public: bool) -> None:
    assert _is_public(address) is is_public
