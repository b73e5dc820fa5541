"""Measure what the server costs when nothing happens: start, memory, launches, lists; and whether memory stays flat.

python bench/footprint.py            # about a minute
python bench/footprint.py --full     # 20,000 requests and 50 launches, as docs/performance.md has it
"""

import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import psutil

COMMAND = [sys.executable, "-m", "modelrack.cli"]
MODEL = "demo-chat"
ECHO = {"model_name": "echo", "model_engine": "echo"}


class Server:
    """A server in its own process, on a free port."""

    def __init__(self, home: Path) -> None:
        self.log = home / "server.log"
        began = time.perf_counter()
        environment = {key: value for key, value in os.environ.items() if not key.startswith("MODELRACK_")}
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [*COMMAND, "serve", "--port", "0", "--home", str(home)],
                stdout=subprocess.PIPE,
                stderr=log,
                env=environment,
                start_new_session=True,
            )
        assert self.process.stdout
        line = self.process.stdout.readline().decode()
        self.url = next(word for word in line.split() if word.startswith("http"))
        self.client = httpx.Client(base_url=self.url, timeout=60)
        while self.client.get("/ready").status_code != 200:
            time.sleep(0.005)
        self.start_s = time.perf_counter() - began
        self.environment = {**environment, "MODELRACK_ENDPOINT": self.url, "MODELRACK_HOME": str(home)}

    def memory_mb(self) -> float:
        """Return the resident memory of the server's process."""
        return psutil.Process(self.process.pid).memory_info().rss / 1e6

    def worker_mb(self, uid: str) -> float:
        """Return the resident memory of a model's worker."""
        (replica,) = self.client.get(f"/v1/models/{uid}/replicas").json()
        return psutil.Process(replica["pid"]).memory_info().rss / 1e6

    def run(self, *arguments: str) -> float:
        """Run a command of the CLI and return how long it took, in seconds."""
        began = time.perf_counter()
        subprocess.run([*COMMAND, *arguments], env=self.environment, check=True, stdout=subprocess.DEVNULL)
        return time.perf_counter() - began

    def close(self) -> None:
        """Stop the server as Ctrl-C does."""
        self.client.close()
        self.process.send_signal(signal.SIGINT)
        self.process.wait(30)
        assert self.process.stdout
        self.process.stdout.close()


def median(measure: Callable[[], float], times: int) -> float:
    """Return the median of several measurements."""
    return statistics.median(measure() for _ in range(times))


def measure_start(rounds: int) -> dict[str, float]:
    """Return seconds from the command to ready, and resident memory when idle, in MB."""
    starts, memories = [], []
    for _ in range(rounds):
        with tempfile.TemporaryDirectory() as home:
            server = Server(Path(home))
            starts.append(server.start_s)
            time.sleep(1)  # what is put off at the start has happened by then
            memories.append(server.memory_mb())
            server.close()
    return {"ready_s": statistics.median(starts), "idle_mb": statistics.median(memories)}


def measure_launches(server: Server, rounds: int) -> dict[str, float]:
    """Return what `modelrack launch` of the demo model takes, and the worker's memory beside the weights."""
    times, memories = [], []
    for _ in range(rounds):
        times.append(server.run("launch", "--model-name", MODEL))
        memories.append(server.worker_mb(MODEL))
        server.run("terminate", "--model-uid", MODEL)
    registration = server.client.get(f"/v1/model_registrations/LLM/{MODEL}").json()
    return {
        "launch_s": statistics.median(times),
        "worker_mb": statistics.median(memories),
        "families": len(server.client.get("/v1/model_registrations/LLM").json()),
        "is_builtin": float(registration["is_builtin"]),
    }


def measure_lists(server: Server, rounds: int) -> dict[str, float]:
    """Return what listing takes, by the CLI in seconds and by REST in milliseconds, with one model running."""
    server.client.post("/v1/models", json=ECHO).raise_for_status()

    def get_models() -> float:
        began = time.perf_counter()
        server.client.get("/v1/models").raise_for_status()
        return (time.perf_counter() - began) * 1000

    figures = {"list_s": median(lambda: server.run("list"), rounds), "models_p50_ms": median(get_models, 300)}
    server.client.delete("/v1/models/echo").raise_for_status()
    return figures


def measure_flatness(server: Server, requests: int, cycles: int) -> dict[str, Any]:
    """Return the memory after each quarter of many requests, streamed and not, and of many launches; in MB."""
    server.client.post("/v1/models", json=ECHO).raise_for_status()
    body = json.dumps(
        {"model": "echo", "messages": [{"role": "user", "content": "one two three four five six seven eight"}]}
    )
    streamed = body[:-1] + ', "stream": true}'
    server_mb, worker_mb = [], []
    for _ in range(5):
        for each in (body, streamed):
            load = [sys.executable, str(Path(__file__).with_name("load.py")), "--url", server.url, "--clients", "16"]
            command = [*load, "--requests", str(max(1, requests // 10)), "--body", each]
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        server_mb.append(server.memory_mb())
        worker_mb.append(server.worker_mb("echo"))
    server.client.delete("/v1/models/echo").raise_for_status()
    cycles_mb = []
    for cycle in range(cycles):
        server.client.post("/v1/models", json=ECHO).raise_for_status()
        server.client.delete("/v1/models/echo").raise_for_status()
        if (cycle + 1) % max(1, cycles // 5) == 0:
            cycles_mb.append(server.memory_mb())
    descriptors = psutil.Process(server.process.pid).num_fds()
    return {
        "requests": requests,
        "server_mb": server_mb,
        "worker_mb": worker_mb,
        "cycles": cycles,
        "server_after_cycles_mb": cycles_mb,
        "open_files": descriptors,
        "children": len(psutil.Process(server.process.pid).children()),
    }


def main() -> None:
    """Measure everything and print it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--full", action="store_true", help="20,000 requests and 50 launches")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    arguments = parser.parse_args()
    rounds = 5 if arguments.full else 3
    report: dict[str, Any] = {"start": measure_start(rounds)}
    with tempfile.TemporaryDirectory() as home:
        server = Server(Path(home))
        try:
            report["launch"] = measure_launches(server, rounds)
            report["lists"] = measure_lists(server, rounds)
            full = (20_000, 50) if arguments.full else (2_000, 10)
            report["flatness"] = measure_flatness(server, *full)
        finally:
            server.close()
    if arguments.json:
        print(json.dumps(report))
        return
    for part, figures in report.items():
        print(part)
        for name, value in figures.items():
            print(f"  {name:24} {value if not isinstance(value, float) else round(value, 3)}")


if __name__ == "__main__":
    main()
