"""Measure what the gateway costs: CPU time in the server's process, and time to the first byte.

Each server runs in a process of its own and is driven from another; rounds alternate between the servers, and the
median of their CPU times is taken, so that a busy machine disturbs all alike. Ratios compare servers of the same run.

    python bench/gateway.py            # a minute
    python bench/gateway.py --full     # more rounds, and other HTTP clients for the hop (needs aiohttp too)
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

from gateway_echo import ask_echo, start_echo
from gateway_hops import HOPS
from load import cpu_time_s

PACE_S = 0.02
HERE = Path(__file__).parent
MESSAGES = [
    {"role": "system", "content": "You are a helpful assistant. " * 8},
    {"role": "user", "content": "What is the largest animal? " * 4},
]
PLAIN = {"model": "echo", "messages": MESSAGES, "temperature": 0.7, "max_tokens": 64, "stream": False}


@dataclass(frozen=True)
class Case:
    """One way of driving the servers; `unit` is what a figure is counted for.

    `others` are further gateways, with what they are to be sent: those before the real echo worker take no orders.
    """

    name: str
    unit: str
    servers: tuple[str, ...]
    clients: int
    requests: int
    body: dict[str, Any]
    target: float
    others: dict[str, dict[str, Any]] = field(default_factory=dict)

    @property
    def bodies(self) -> dict[str, dict[str, Any]]:
        """Return what each server is sent; the first is the one that the others are compared with."""
        return dict.fromkeys(self.servers, self.body) | self.others


@dataclass
class Server:
    """A server under test in its own process."""

    process: "subprocess.Popen[str]"
    port: int = 0

    @property
    def address(self) -> list[str]:
        """Return how load.py is told of it."""
        return ["--url", f"http://127.0.0.1:{self.port}"]

    def cpu_now_s(self) -> float:
        """Return the CPU time of all its threads."""
        return cpu_time_s(self.process.pid)


def start(kind: str, socket: str, *extra: str) -> Server:
    command = [sys.executable, str(HERE / "gateway_servers.py"), kind, "--socket", socket, *extra]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    line = process.stdout.readline().split()
    if not line or line[0] != "ready":
        raise SystemExit(f"{kind} did not start")
    return Server(process, int(line[1]))


def drive(address: list[str], body: dict[str, Any], clients: int, requests: int) -> dict[str, Any]:
    command = [sys.executable, str(HERE / "load.py"), *address, "--clients", str(clients)]
    command += ["--requests", str(requests), "--body", json.dumps(body)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    result: dict[str, Any] = json.loads(done.stdout)
    if result["failures"] or result["requests"] != requests:
        raise SystemExit(f"not every request was answered: {result}")
    return result


def stream_body(chunks: int, interval_s: float) -> dict[str, Any]:
    return {**PLAIN, "stream": True, "chunks": chunks, "interval_s": interval_s}


def make_cases(full: bool) -> list[Case]:
    hops = tuple(f"with-{name}" for name in HOPS) if full else ()
    plain = ("fastapi", "fastapi-raw", "gateway", *hops)
    streamed = ("starlette", "gateway", *hops)
    n = 2 if full else 1
    paced, alone, fast = stream_body(100, PACE_S), stream_body(200, 0.005), stream_body(500, 0.0)
    return [
        Case("plain, 8 clients", "request", plain, 8, 2000 * n, PLAIN, 2.0, {"gateway-echo": ask_echo(16, False)}),
        Case("stream, a chunk each 20 ms, 16 clients", "chunk", streamed, 16, 32, paced, 1.4,
             {"gateway-echo-paced": ask_echo(100, True)}),
        Case("stream, a chunk each 5 ms, 1 client", "chunk", streamed, 1, 3, alone, 1.4),
        Case("stream, as fast as can be, 8 clients", "chunk", streamed, 8, 80 * n, fast, 1.4,
             {"gateway-echo": ask_echo(500, True)}),
    ]  # fmt: skip


def measure(case: Case, servers: dict[str, Server], rounds: int) -> dict[str, Any]:
    costs: dict[str, list[float]] = {kind: [] for kind in case.bodies}
    for kind, body in case.bodies.items():
        drive(servers[kind].address, body, case.clients, max(case.clients, case.requests // 10))
    for _ in range(rounds):
        for kind, body in case.bodies.items():
            before = servers[kind].cpu_now_s()
            result = drive(servers[kind].address, body, case.clients, case.requests)
            units = result["events"] if case.unit == "chunk" else result["requests"]
            costs[kind].append((servers[kind].cpu_now_s() - before) / units * 1e6)
    medians = {kind: statistics.median(values) for kind, values in costs.items()}
    base = costs[case.servers[0]]
    ratios = {
        kind: statistics.median(a / b for a, b in zip(values, base, strict=True)) for kind, values in costs.items()
    }
    head = {"case": case.name, "unit": case.unit, "target": case.target}
    return {**head, "cpu_us": medians, "ratio": ratios, "all_us": costs}


def measure_first_byte(socket: str, gateway: Server, body: dict[str, Any], rounds: int) -> dict[str, float]:
    """Compare the time to the first byte through the gateway with the worker's own socket, one client, streamed."""
    direct, through = [], []
    for _ in range(rounds):
        direct.append(drive(["--socket", socket], body, 1, 200)["first_byte_p50_ms"])
        through.append(drive(gateway.address, body, 1, 200)["first_byte_p50_ms"])
    difference = statistics.median(b - a for a, b in zip(direct, through, strict=True))
    return {"worker_ms": statistics.median(direct), "gateway_ms": statistics.median(through), "added_ms": difference}


def describe_machine() -> dict[str, str]:
    model = next(
        (
            line.partition(":")[2].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if "model name" in line
        ),
        platform.machine(),
    )
    packages = {name: version(name) for name in ("uvicorn", "uvloop", "httptools", "fastapi", "starlette", "orjson")}
    return {"cpu": model, "cores": str(os.cpu_count()), "python": platform.python_version(), **packages}


def run(folder: Path, cases: list[Case], rounds: int, extra: tuple[str, ...]) -> dict[str, Any]:
    servers: dict[str, Server] = {}
    try:
        socket = f"{folder}/worker.sock"
        servers["worker"] = start("worker", socket)
        sockets = {}
        for name, delay_s in (("echo", 0.0), ("echo-paced", PACE_S)):
            process, sockets[name] = start_echo(folder, name, delay_s)
            servers[name] = Server(process)
            servers[f"gateway-{name}"] = start("gateway", sockets[name], *extra)
        for kind in dict.fromkeys(kind for case in cases for kind in case.servers) | {"gateway": None}:
            servers[kind] = start(kind, socket, *extra)
        first = {
            "small worker": measure_first_byte(socket, servers["gateway"], stream_body(4, 0.002), rounds),
            "echo worker": measure_first_byte(sockets["echo"], servers["gateway-echo"], ask_echo(4, True), rounds),
        }
        measured = [measure(case, servers, rounds) for case in cases]
        return {"machine": describe_machine(), "cases": measured, "first_byte": first}
    finally:
        for server in servers.values():
            server.process.terminate()
        for server in servers.values():
            server.process.wait(10)


def show(report: dict[str, Any]) -> None:
    print(", ".join(f"{name} {value}" for name, value in report["machine"].items()))
    for row in report["cases"]:
        print(f"\n{row['case']}: CPU per {row['unit']}")
        for kind, cost in row["cpu_us"].items():
            print(f"  {kind:18} {cost:8.1f} µs  x {row['ratio'][kind]:.2f}")
        print(f"  target: the gateway at most x {row['target']}")
    for name, first in report["first_byte"].items():
        print(f"\nfirst byte, p50, {name}: own socket {first['worker_ms']:.3f} ms,", end=" ")
        print(f"gateway {first['gateway_ms']:.3f} ms, added {first['added_ms']:.3f} ms (target: at most 2)")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--full", action="store_true", help="more rounds, and other HTTP clients for the hop")
    parser.add_argument("--json", action="store_true", help="print the report as JSON")
    parser.add_argument("--rounds", type=int, help="alternating rounds (5, full: 9)")
    parser.add_argument("--only", help="only the cases whose name holds this")
    parser.add_argument("--options", default="{}", help="further uvicorn settings for all servers, JSON")
    parser.add_argument("--loop", default="uvloop", choices=["uvloop", "asyncio"])
    arguments = parser.parse_args()
    rounds = arguments.rounds or (9 if arguments.full else 5)
    cases = [case for case in make_cases(arguments.full) if (arguments.only or "") in case.name]
    with tempfile.TemporaryDirectory() as folder:
        report = run(Path(folder), cases, rounds, ("--options", arguments.options, "--loop", arguments.loop))
    if arguments.json:
        json.dump(report, sys.stdout)
        print()
    else:
        show(report)


if __name__ == "__main__":
    main()
