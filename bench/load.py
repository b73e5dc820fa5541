r"""Drive an HTTP server with a fixed number of clients, and say how fast it answered.

A light client on the event loop with llhttp as its parser, so that what it costs itself stays small beside the server.
Use it from another script (`run_load`), or by hand against any server that speaks OpenAI's routes:

    python bench/load.py --url http://127.0.0.1:9997 --clients 8 --requests 200 --stream \
        --body '{"model": "demo-chat", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 16}'
"""

import argparse
import asyncio
import json
import os
import statistics
import sys
from collections.abc import Coroutine, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from time import perf_counter
from typing import Any, TypeVar, cast
from urllib.parse import urlsplit

import httptools

__all__ = ["LoadResult", "cpu_time_s", "run", "run_load", "run_mix"]

T = TypeVar("T")


@dataclass
class LoadResult:
    """What the clients saw. Times in seconds; events are server-sent events, `[DONE]` included.

    Args:
        gaps_s: times between the events of a stream, zero for those that came together; only if they were asked for.
    """

    requests: int = 0
    failures: int = 0
    events: int = 0
    bytes: int = 0
    wall_s: float = 0.0
    first_byte_s: list[float] = field(default_factory=list)
    latency_s: list[float] = field(default_factory=list)
    gaps_s: list[float] | None = None
    statuses: dict[int, int] = field(default_factory=dict)

    def summary(self) -> dict[str, object]:
        """Return the figures without the single times."""
        facts = {key: value for key, value in asdict(self).items() if not key.endswith("_s") or key == "wall_s"}
        facts["requests_per_s"] = self.requests / self.wall_s if self.wall_s else 0.0
        facts["events_per_s"] = self.events / self.wall_s if self.wall_s else 0.0
        for name, times in (("first_byte", self.first_byte_s), ("latency", self.latency_s)):
            if times:
                ordered = sorted(times)
                facts[f"{name}_p50_ms"] = statistics.median(ordered) * 1000
                facts[f"{name}_p95_ms"] = ordered[int(len(ordered) * 0.95)] * 1000
        return facts


class _Connection(asyncio.Protocol):
    """One client's connection; answers arrive through callbacks of the parser."""

    def __init__(self) -> None:
        self.result = LoadResult()
        self.transport: asyncio.Transport | None = None
        self.done: asyncio.Future[bool] | None = None
        self.sent = 0.0
        self.waiting = True
        self.heard = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)  # uvloop's are none by inheritance

    def ask(self, request: bytes) -> asyncio.Future[bool]:
        assert self.transport is not None
        self.done = asyncio.get_running_loop().create_future()
        self.parser = httptools.HttpResponseParser(self)
        self.waiting = True
        self.keep_alive = True
        self.sent = perf_counter()
        self.transport.write(request)
        return self.done

    def data_received(self, data: bytes) -> None:
        self.result.bytes += len(data)
        self.parser.feed_data(data)

    def on_headers_complete(self) -> None:
        self.keep_alive = self.parser.should_keep_alive()

    def on_body(self, body: bytes) -> None:
        if self.waiting:
            self.waiting = False
            self.result.first_byte_s.append(perf_counter() - self.sent)
            self.heard = perf_counter()
        elif self.result.gaps_s is not None:
            before, self.heard = self.heard, perf_counter()
            self.result.gaps_s += [self.heard - before, *[0.0] * (body.count(b"\n\n") - 1)]
        self.result.events += body.count(b"\n\n")

    def on_message_complete(self) -> None:
        result, status = self.result, self.parser.get_status_code()
        result.statuses[status] = result.statuses.get(status, 0) + 1
        result.latency_s.append(perf_counter() - self.sent)
        if self.done is not None and not self.done.done():
            self.done.set_result(status == 200)

    def connection_lost(self, exc: Exception | None) -> None:
        self.transport = None
        if self.done is not None and not self.done.done():
            self.done.set_result(False)


async def _client(
    address: tuple[str, int] | str, requests: Iterator[tuple[bytes, LoadResult]], keep_alive: bool
) -> None:
    loop = asyncio.get_running_loop()
    connection: _Connection | None = None
    try:
        for request, result in requests:
            if connection is None or connection.transport is None or not connection.keep_alive or not keep_alive:
                if connection is not None and connection.transport is not None:
                    connection.transport.close()
                if isinstance(address, str):
                    _, connection = await loop.create_unix_connection(_Connection, address)
                else:
                    _, connection = await loop.create_connection(_Connection, *address)
            connection.result = result
            good = await connection.ask(request)
            result.requests += good
            result.failures += not good
    finally:
        if connection is not None and connection.transport is not None:
            connection.transport.close()


async def run_load(
    address: tuple[str, int] | str,
    path: str,
    body: bytes | Sequence[bytes],
    *,
    clients: int,
    requests: int,
    keep_alive: bool = True,
    headers: tuple[tuple[str, str], ...] = (),
    result: LoadResult | None = None,
) -> LoadResult:
    """Send `requests` requests from `clients` clients, each sending its next one when the last was answered.

    Args:
        address: host and port, or the path of a Unix socket.
        body: of every request; of several, each is sent in turn.
        keep_alive: False: a new connection for each request.
        result: what to count in, for a caller that looks at it meanwhile, or cancels.
    """
    result = LoadResult() if result is None else result
    bodies = [body] if isinstance(body, bytes) else body
    prepared = [_request(path, one, headers) for one in bodies]
    todo = ((prepared[number % len(prepared)], result) for number in range(requests))
    begin = perf_counter()
    await asyncio.gather(*(_client(address, todo, keep_alive) for _ in range(clients)))
    result.wall_s = perf_counter() - begin
    return result


async def run_mix(
    address: tuple[str, int] | str, path: str, bodies: Sequence[tuple[bytes, str]], *, clients: int
) -> dict[str, LoadResult]:
    """Send each body once, in their order, as `run_load` does; return what was seen of each kind.

    Args:
        bodies: with the name of their kind.
    """
    found = {kind: LoadResult() for _, kind in bodies}
    todo = iter([(_request(path, body, ()), found[kind]) for body, kind in bodies])
    begin = perf_counter()
    await asyncio.gather(*(_client(address, todo, True) for _ in range(clients)))
    for result in found.values():
        result.wall_s = perf_counter() - begin
    return found


def _request(path: str, body: bytes, headers: tuple[tuple[str, str], ...]) -> bytes:
    lines = [
        f"POST {path} HTTP/1.1",
        "host: localhost",
        "content-type: application/json",
        f"content-length: {len(body)}",
    ]
    lines += [f"{name}: {value}" for name, value in headers]
    return "\r\n".join([*lines, "", ""]).encode() + body


def cpu_time_s(pid: int) -> float:
    """Return the CPU time of a process, all threads: from the scheduler, or in clock ticks where it does not count."""
    try:
        tasks = Path(f"/proc/{pid}/task").iterdir()
        return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks) / 1e9
    except OSError:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def run(main: Coroutine[Any, Any, T]) -> T:
    """Run on uvloop where it is there."""
    try:
        import uvloop
    except ImportError:
        return asyncio.run(main)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(main)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", default="http://127.0.0.1:9997", help="base address of the server")
    parser.add_argument("--socket", help="Unix socket to connect to in place of the address")
    parser.add_argument("--path", default="/v1/chat/completions")
    parser.add_argument("--body", required=True, help="JSON body; @FILE reads it from a file")
    parser.add_argument("--stream", action="store_true", help='set "stream": true in the body')
    parser.add_argument("--clients", type=int, default=1)
    parser.add_argument("--requests", type=int, default=100)
    parser.add_argument("--no-keep-alive", action="store_true", help="a new connection for each request")
    parser.add_argument("--raw", action="store_true", help="print single times as well")
    arguments = parser.parse_args()
    text = arguments.body
    if text.startswith("@"):
        with open(text[1:], encoding="utf-8") as file:
            text = file.read()
    body = json.loads(text)
    if arguments.stream:
        body["stream"] = True
    parts = urlsplit(arguments.url)
    address = arguments.socket or (parts.hostname or "127.0.0.1", parts.port or 80)
    result = run(
        run_load(
            address,
            arguments.path,
            json.dumps(body).encode(),
            clients=arguments.clients,
            requests=arguments.requests,
            keep_alive=not arguments.no_keep_alive,
        )
    )
    json.dump(asdict(result) if arguments.raw else result.summary(), sys.stdout)
    print()


if __name__ == "__main__":
    main()
