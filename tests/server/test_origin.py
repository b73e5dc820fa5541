"""The address that workers are told."""

from collections.abc import Callable
from typing import Any

import pytest
from pydantic import ValidationError

from gateway_rig import CHAT, Rig
from modelrack.server.origin import Origins
from modelrack.settings import Settings


def scope(scheme: str = "http", server: Any = ("127.0.0.1", 80)) -> dict[str, Any]:
    return {"scheme": scheme, "server": server}


def test_the_host_of_the_request() -> None:
    origins = Origins(None)
    for _ in range(2):  # the second is kept ready
        assert origins.lines(scope(), {b"host": b"a.org:5"}) == b"host: a.org:5\r\n"
        assert origins.lines(scope("https"), {b"host": b"[::1]"}) == b"host: [::1]\r\nx-forwarded-proto: https\r\n"
    for number in range(3000):
        assert b"x%d" % number in origins.lines(scope(), {b"host": b"x%d" % number})
    assert len(origins._lines) <= 1024


@pytest.mark.parametrize("headers", [{}, {b"host": b""}, {b"host": b"a b"}, {b"host": b"a/b"}, {b"host": b"a\r\nx: y"}])
def test_without_a_host_that_can_be_one(headers: dict[bytes, bytes]) -> None:
    assert Origins(None).lines(scope(), headers) == b"host: 127.0.0.1:80\r\n"
    assert Origins(None).lines(scope(server=("::1", 9)), headers) == b"host: [::1]:9\r\n"
    assert Origins(None).lines(scope(server=None), headers) == b"host: localhost\r\n"
    assert Origins(None).lines(scope(server=("/a socket", None)), headers) == b"host: localhost\r\n"


def test_the_operators_word_wins() -> None:
    lines = Origins("https://models.example.org:8/rack/").lines(scope(), {b"host": b"a"})
    assert lines == b"host: models.example.org:8\r\nx-forwarded-proto: https\r\nx-forwarded-prefix: /rack\r\n"
    assert Origins("http://x").lines(scope("https"), {}) == b"host: x\r\n"


@pytest.mark.parametrize(
    "url", ["x.org", "ftp://x.org", "http://", "http://a b", "http://x/?q", "http://u:p@x", "http://x//"]
)
def test_addresses_that_are_none(url: str) -> None:
    with pytest.raises(ValidationError, match="public_url"):
        Settings(public_url=url)


async def test_workers_hear_it(make_rig: Callable[..., Rig]) -> None:
    rig = make_rig()
    worker = rig.add("m")
    async with rig.client() as client:
        await client.post(CHAT, json={"model": "m", "do": "echo"}, headers={"host": "me.example"})
        assert "\r\nhost: me.example\r\n" in worker.state()["last_head"]
        headers = {"host": "me.example", "x-forwarded-proto": "https"}  # from a proxy on this machine
        await client.post(CHAT, json={"model": "m", "do": "echo"}, headers=headers)
        assert "\r\nx-forwarded-proto: https\r\n" in worker.state()["last_head"]
