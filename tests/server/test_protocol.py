"""What comes before HTTP is understood: refusals in the one shape, and heads that do not end."""

import json
import socket
from urllib.parse import urlsplit

import pytest

from modelrack.testing.serving import Server


def talk(server: Server, data: bytes) -> tuple[int, dict[str, object]]:
    address = urlsplit(server.url)
    with socket.create_connection((address.hostname, address.port), timeout=10) as peer:
        peer.sendall(data)
        answer = b""
        while not answer.endswith(b"}"):
            part = peer.recv(65536)
            assert part, f"the connection ended after {answer!r}"
            answer += part
    head, _, body = answer.partition(b"\r\n\r\n")
    return int(head.split()[1]), json.loads(body)["error"]


@pytest.mark.parametrize(
    "data",
    [
        b"\x16\x03\x01\x02\x00\x01\x00",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"POST /v1/models HTTP/1.1\r\nContent-Length: -1\r\n\r\n",
        b"GET /" + b"a" * 100_000 + b" HTTP/1.1\r\n\r\n",
    ],
)
def test_what_is_not_http_is_told_so_as_json(server: Server, data: bytes) -> None:
    status, error = talk(server, data)
    assert status == 400 and error["type"] == "invalid_request_error"


def test_a_head_that_does_not_end_is_refused(server: Server) -> None:
    status, error = talk(server, b"GET /health HTTP/1.1\r\n" + b"x: y\r\n" * 50_000)
    assert status == 431 and error["code"] == "head_too_large"
