import io
import json
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable

import pytest

from gateway_rig import CHAT, Rig, wait_for
from modelrack.server import access_log
from modelrack.server.access_log import AccessLog, Entry


async def test_one_line_for_each_request(rig: Rig) -> None:
    rig.add("m")
    async with rig.client() as client:
        await client.post(CHAT, json={"model": "m", "do": "echo"}, headers={"x-request-id": "one"})
        await client.post(CHAT, json={"model": "m", "do": "stream", "events": 4}, headers={"x-request-id": "two"})
        await client.post(CHAT, json={"model": "none\n x"}, headers={"x-request-id": "three"})
        await client.get("/v1/numbers/4%0Aa?secret=1", headers={"x-request-id": "four"})
        await client.get("/v1/taken", headers={"x-request-id": "five"})
    lines = wait_for(lambda: len(rig.lines()) == 5 and rig.lines())
    number = r"\d+\.\d"
    patterns = [
        rf"POST {CHAT} status=200 uid=m ms={number} ttfb_ms={number} prompt_tokens=3 completion_tokens=5 id=one",
        rf"POST {CHAT} status=200 uid=m ms={number} ttfb_ms={number} prompt_tokens=7 completion_tokens=4 id=two",
        rf'POST {CHAT} status=404 uid="none\\n x" ms={number} ttfb_ms=- prompt_tokens=- completion_tokens=- id=three',
        rf'GET "/v1/numbers/4\\na" status=400 uid=- ms={number} ttfb_ms=- prompt_tokens=- completion_tokens=- id=four',
        rf"GET /v1/taken status=409 uid=- ms={number} ttfb_ms=- prompt_tokens=- completion_tokens=- id=five",
    ]
    ends = ["", "", " error=model_not_found", " error=invalid_request", " error=conflict"]
    for line, pattern, end in zip(lines, patterns, ends, strict=True):
        assert re.fullmatch(rf"\d\d:\d\d:\d\d INFO    {pattern} client=127\.0\.0\.1:\d+{end}", line), line


async def test_json_lines(make_rig: Callable[..., Rig]) -> None:
    rig = make_rig(log_format="json")
    rig.add("m")
    async with rig.client() as client:
        await client.post(CHAT, json={"model": "m", "do": "echo"}, headers={"x-request-id": "one"})
        await client.post(CHAT, json={"model": 'a"\n'}, headers={"x-request-id": "two"})
    first, second = map(json.loads, wait_for(lambda: len(rig.lines()) == 2 and rig.lines()))
    assert abs(first.pop("ts") - time.time()) < 60
    assert first.pop("ms") >= first.pop("ttfb_ms") >= 0
    assert first.pop("client").startswith("127.0.0.1:")
    assert first == {
        "level": "info",
        "logger": "modelrack.access",
        "message": "request",
        "method": "POST",
        "path": CHAT,
        "uid": "m",
        "status": 200,
        "prompt_tokens": 3,
        "completion_tokens": 5,
        "id": "one",
    }
    assert (second["uid"], second["status"], second["error"]) == ('a"\n', 404, "model_not_found")
    assert second["ttfb_ms"] is second["prompt_tokens"] is None


async def test_no_lines_above_the_level_info(make_rig: Callable[..., Rig]) -> None:
    rig = make_rig(log_level="warning")
    async with rig.client() as client:
        assert (await client.get("/health")).status_code == 200
    assert rig.metrics.series("", "/health").statuses == {200: 1}
    assert rig.lines() == []


def test_lines_are_written_soon_without_being_asked() -> None:
    stream = io.StringIO()
    log = AccessLog("text", stream)
    for count in (1, 2, 3):
        log.write(Entry("GET", "/", "id"))
        wait_for(lambda: stream.getvalue().count("\n"), within_s=1.0)
        assert stream.getvalue().count("GET /") == 1, count
        stream.truncate(0)
    log.close()


def test_the_rest_is_written_at_exit() -> None:
    code = (
        "from modelrack.server.access_log import AccessLog, Entry\n"
        "log = AccessLog()\n"
        "for n in range(1000): log.write(Entry('GET', f'/{n}', 'id'))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], stderr=subprocess.PIPE, text=True, timeout=20, check=True)
    assert len(done.stderr.splitlines()) == 1000


def test_a_blocked_stream_holds_nobody_up() -> None:
    """A stopped terminal must not stop the server; lines beyond the limit are dropped and counted."""
    reading, writing = os.pipe()
    with open(reading, encoding="utf-8") as output:
        log = AccessLog("text", open(writing, "w", encoding="utf-8"))  # noqa: SIM115  # closed below
        entry = Entry("GET", "/" + "x" * 200, "id")
        log.write(entry)
        wait_for(lambda: log._thread is not None)
        for _ in range(access_log.LIMIT // 10):
            log.write(entry)
        wait_for(lambda: not log._entries)  # taken by the thread, which now hangs in its write
        begin = time.perf_counter()
        for _ in range(access_log.LIMIT + 7):
            log.write(entry)
        assert time.perf_counter() - begin < 1.0
        seen: list[str] = []
        reader = threading.Thread(target=lambda: seen.extend(output))
        reader.start()
        wait_for(lambda: not log._entries)
        log.close()
        log._stream.close()
        reader.join(5)
    assert len(seen) == 1 + access_log.LIMIT // 10 + access_log.LIMIT + 1
    assert "WARNING 7 request lines dropped" in seen[-1]


def test_a_closed_pipe_does_not_end_the_server() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    broken = open(writing, "w", encoding="utf-8")  # noqa: SIM115  # closed below
    log = AccessLog("text", broken)
    log.write(Entry("GET", "/", "id"))
    wait_for(lambda: log._stream.name == os.devnull)
    log.write(Entry("GET", "/", "id"))
    log.close()
    log._stream.close()
    with pytest.raises(BrokenPipeError):
        broken.close()
