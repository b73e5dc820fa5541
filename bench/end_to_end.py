"""Compare modelrack from end to end with llama.cpp's own HTTP server: same model, same slots, same threads, same run.

Models have random weights and are written on the fly: one of about a million parameters, where everything around the
engine shows, and one of about a hundred million, where the engine should be all that counts. Rounds alternate between
the servers, and the median of the ratios of neighbouring rounds is taken, so that a busy machine disturbs both alike.

    python bench/end_to_end.py                  # both models, a few minutes
    python bench/end_to_end.py --worker-only    # the worker's own socket in place of the server
    python bench/end_to_end.py --engine NAME    # another engine for GGUF files
"""

import argparse
import json
import os
import secrets
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

from load import LoadResult, run, run_load
from modelrack.hooks import Engine, Family, LoadPlan, ModelFiles, PythonWorker, Variant
from modelrack.testing.gguf import LARGE, TINY, write_random_model

UID = "bench"
ENGINE = "llama.cpp"
SLOTS = 8
TOKENS = 16
START_S = 60.0
THREADS = max(1, len(os.sched_getaffinity(0)) - 1)
BARE = """
import sys, time
import xllamacpp
params = xllamacpp.CommonParams()
params.model.path, params.n_parallel = sys.argv[1], int(sys.argv[2])
params.n_ctx, params.cpuparams.n_threads, params.cpuparams_batch.n_threads = (int(x) for x in sys.argv[3:6])
params.model_alias, params.hostnames, params.port = {sys.argv[6]}, ["127.0.0.1"], 0
params.verbosity, params.fit_params = 1, False
server = xllamacpp.Server(params)
print(server.listening_address, flush=True)
sys.stdin.read()
"""


@dataclass(frozen=True)
class Target:
    """A server under test.

    Args:
        pid: the process that computes, where that is known.
    """

    name: str
    address: tuple[str, int] | str
    keep_alive_streams: bool = True
    pid: int = 0


@dataclass(frozen=True)
class Case:
    """One way of driving the servers."""

    model: str
    clients: int
    stream: bool
    requests: int


@contextmanager
def run_bare(model: Path, context: int, threads: int) -> Iterator[Target]:
    """Run llama.cpp's own HTTP server. It breaks kept-alive connections of streams, so each stream gets a new one."""
    arguments = [str(model), SLOTS, context * SLOTS, threads, threads, UID]
    process = subprocess.Popen(
        [sys.executable, "-c", BARE, *map(str, arguments)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        host, port = process.stdout.readline().strip().removeprefix("http://").rsplit(":", 1)
        yield Target("llama.cpp", (host, int(port)), keep_alive_streams=False)
    finally:
        process.kill()
        process.wait()


def find_engine(name: str) -> Engine:
    """Return the description of an engine that is installed here."""
    from modelrack.hooks.loader import load_plugins

    engine = load_plugins(None).find_engine(name)
    if engine is None:
        raise SystemExit(f"there is no engine '{name}' in this environment")
    return engine


def make_plan(model: Path, engine: Engine, **options: Any) -> LoadPlan:
    """Return what a worker is told to load."""
    return LoadPlan(
        model_uid=UID,
        family=Family(name=UID, model_type="LLM", abilities=("chat", "generate")),
        variant=Variant(format="gguf"),
        quantization="none",
        files=ModelFiles(path=str(model), format="gguf"),
        options=engine.options_for("LLM")(**options).model_dump(),
    )


@contextmanager
def run_worker(model: Path, context: int, threads: int, engine: str = ENGINE) -> Iterator[Target]:
    """Run a worker by itself."""
    from modelrack.builtin import register_model_types
    from modelrack.worker import Job
    from modelrack.worker.job import write_job

    found = find_engine(engine)
    assert isinstance(found.worker, PythonWorker)
    plan = make_plan(model, found, n_ctx=context, n_parallel=SLOTS, n_threads=threads)
    with tempfile.TemporaryDirectory() as folder:
        job = Job(
            incarnation=secrets.token_hex(8),
            replica_id=0,
            socket=f"{folder}/w.sock",
            lease=None,
            lease_s=60,
            plan=plan,
            routes=next(one for one in register_model_types() if one.name == "LLM").routes,
            loader=found.worker.loader,
        )
        write_job(Path(folder) / "job.json", job)
        process = subprocess.Popen([sys.executable, "-P", "-m", "modelrack.worker", "job.json"], cwd=folder)
        try:
            _await_ready(job.socket)
            yield Target(f"worker of {found.name}", job.socket, pid=process.pid)
        finally:
            _stop(process)


def _await_ready(socket: str) -> None:
    body = json.dumps({"model": UID, "prompt": "a", "max_tokens": 1}).encode()
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline:
        with suppress(OSError):
            if run(run_load(socket, "/v1/completions", body, clients=1, requests=1)).requests:
                return
        time.sleep(0.05)
    raise RuntimeError("the worker is not ready")


@contextmanager
def run_server(model: Path, context: int, threads: int, engine: str = ENGINE) -> Iterator[Target]:
    """Run modelrack and launch the model."""
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with tempfile.TemporaryDirectory() as home:
        environment = {**os.environ, "MODELRACK_HOME": home, "MODELRACK_PORT": str(port)}
        with (Path(home) / "server.log").open("wb") as log:
            process = subprocess.Popen(
                [sys.executable, "-P", "-m", "modelrack.cli", "serve", "--port", str(port)],
                env=environment,
                stdout=log,
                stderr=log,
            )
        try:
            url = f"http://127.0.0.1:{port}"
            _await_health(url, process, Path(home) / "server.log")
            body = {
                "model_name": str(model),
                "model_uid": UID,
                "model_engine": engine,
                "n_ctx": context,
                "n_parallel": SLOTS,
                "n_threads": threads,
            }
            request = Request(
                f"{url}/v1/models?wait_ready=true", json.dumps(body).encode(), {"content-type": "application/json"}
            )
            with urlopen(request, timeout=START_S) as answer:
                answer.read()
            yield Target("modelrack", ("127.0.0.1", port))
        finally:
            _stop(process)


def _await_health(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline and process.poll() is None:
        with suppress(OSError), urlopen(f"{url}/health", timeout=5):
            return
        time.sleep(0.05)
    raise RuntimeError(f"the server did not come up: {log.read_text()[-2000:]}")


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(30)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def drive(target: Target, case: Case) -> LoadResult:
    """Send a case's requests to a server."""
    body = json.dumps(
        {
            "model": UID,
            "messages": [{"role": "user", "content": "What is the largest animal?"}],
            "max_tokens": TOKENS,
            "temperature": 0,
            "stream": case.stream,
        }
    ).encode()
    result = run(
        run_load(
            target.address,
            "/v1/chat/completions",
            body,
            clients=case.clients,
            requests=case.requests,
            keep_alive=target.keep_alive_streams or not case.stream,
        )
    )
    if result.failures:
        raise RuntimeError(f"{target.name} failed {result.failures} of {case.requests} requests: {result.statuses}")
    return result


def compare(ours: Target, theirs: Target, case: Case, rounds: int) -> dict[str, Any]:
    """Drive both in turns, and return medians and the median of the ratios."""
    pairs = []
    for number in range(rounds + 1):
        order = (ours, theirs) if number % 2 else (theirs, ours)
        results = {target.name: drive(target, case) for target in order}
        # The first round warms up.
        if number:
            pairs.append((results[ours.name], results[theirs.name]))
    rates = [(a.requests / a.wall_s, b.requests / b.wall_s) for a, b in pairs]
    first = [(_middle(a), _middle(b)) for a, b in pairs]
    return {
        "model": case.model,
        "clients": case.clients,
        "stream": case.stream,
        "requests_per_s": round(statistics.median(a for a, _ in rates), 1),
        "baseline_requests_per_s": round(statistics.median(b for _, b in rates), 1),
        "ratio": round(statistics.median(a / b for a, b in rates), 3),
        "tokens_per_s": round(statistics.median(a for a, _ in rates) * TOKENS, 1),
        "first_token_ms": round(statistics.median(a for a, _ in first), 2) if case.stream else None,
        "first_token_added_ms": round(statistics.median(a - b for a, b in first), 2) if case.stream else None,
    }


def _middle(result: LoadResult) -> float:
    return statistics.median(result.first_byte_s) * 1000


def measure(
    begin: Callable[[Path, int, int, str], AbstractContextManager[Target]],
    engine: str,
    *,
    only: str | None,
    rounds: int,
    threads: int,
) -> Iterator[dict[str, Any]]:
    """Compare an engine, behind the server or its worker alone, with llama.cpp's own HTTP server, in all cases."""
    with tempfile.TemporaryDirectory() as folder:
        for name, shape, amounts in (("1M", TINY, ((1, 200), (8, 200), (32, 200))), ("100M", LARGE, ((1, 4), (8, 16)))):
            if only not in (None, name):
                continue
            model = write_random_model(Path(folder) / f"{name}.gguf", shape)
            with run_bare(model, 1024, threads) as theirs, begin(model, 1024, threads, engine) as ours:
                for clients, requests in amounts:
                    for stream in (False, True):
                        yield compare(ours, theirs, Case(name, clients, stream, requests), rounds)


def main() -> None:
    """Run all cases and print one line of JSON for each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--worker-only", action="store_true", help="measure the worker's own socket")
    parser.add_argument("--engine", default=ENGINE, help="the engine of modelrack to measure")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--only", choices=("1M", "100M"))
    parser.add_argument("--threads", type=int, default=THREADS)
    arguments = parser.parse_args()
    begin = run_worker if arguments.worker_only else run_server
    figures = measure(begin, arguments.engine, only=arguments.only, rounds=arguments.rounds, threads=arguments.threads)
    for one in figures:
        print(json.dumps(one), flush=True)


if __name__ == "__main__":
    main()
