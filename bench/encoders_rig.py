"""What the benches of embedding and rerank models share: models of random weights, and the sides to compare."""

import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import httpx
import psutil

from modelrack.testing.encoders import WORDS, EncoderShape
from modelrack.testing.serving import Server

__all__ = [
    "SHAPES",
    "UID",
    "Bare",
    "Target",
    "cpu_s",
    "launch",
    "measure_start",
    "median_ratio",
    "run_bare",
    "run_infinity",
    "texts",
]

UID = "bench"
START_S = 600.0
SHAPES = {
    "2x64": EncoderShape(width=64, hidden=256, layers=2, heads=2, positions=512),
    "6x384": EncoderShape(width=384, hidden=1536, layers=6, heads=12, positions=512),
    "12x768": EncoderShape(width=768, hidden=3072, layers=12, heads=12, positions=512),
    "24x1024": EncoderShape(width=1024, hidden=4096, layers=24, heads=16, positions=512),
}
"""Shapes of BERT by layers and width; the last is BERT-large's."""

_WORDS = [word for word in WORDS.split() if len(word) > 1]
"""Words that the tokenizers of the random models know as one token each."""


def texts(chance: Random, count: int, least: int, most: int) -> list[str]:
    """Return texts of so many words, as many tokens each."""
    return [" ".join(chance.choices(_WORDS, k=chance.randint(least, most))) for _ in range(count)]


@dataclass(frozen=True)
class Target:
    """A server under test; `pids` are of its processes."""

    name: str
    address: tuple[str, int]
    path: str
    pids: tuple[int, ...]


def launch(server: Server, path: Path, model_type: str, engine: str, route: str, **options: Any) -> Target:
    """Launch a model beside the server."""
    body = {
        "model_name": str(path),
        "model_uid": UID,
        "model_type": model_type,
        "model_engine": engine,
        "environment": "server",
        **options,
    }
    answer = httpx.post(f"{server.url}/v1/models?wait_ready=true", json=body, timeout=START_S, trust_env=False)
    if answer.status_code != 200:
        raise RuntimeError(answer.text)
    children = psutil.Process(server.process.pid).children(recursive=True)
    worker = next(child.pid for child in children if "modelrack.worker" in child.cmdline())
    host, port = server.url.removeprefix("http://").rsplit(":", 1)
    return Target("modelrack", (host, int(port)), route, (server.process.pid, worker))


def cpu_s(target: Target) -> float:
    """Return the CPU time of a server's processes."""
    times = [psutil.Process(pid).cpu_times() for pid in target.pids]
    return sum(one.user + one.system for one in times)


@contextmanager
def run_infinity(python: Path, path: Path, threads: int | None) -> Iterator[Target]:
    """Run infinity's server, which is installed in another environment.

    It reads the layout that older versions of sentence-transformers wrote.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with tempfile.TemporaryDirectory() as folder:
        model = _write_older(path, Path(folder) / "model")
        environment = {**os.environ, "DO_NOT_TRACK": "1", "INFINITY_ANONYMOUS_USAGE_STATS": "0", "HF_HUB_OFFLINE": "1"}
        environment |= {"OMP_NUM_THREADS": str(threads)} if threads else {}
        command = [str(python), "-m", "infinity_emb.cli", "v2", "--model-id", str(model), "--engine", "torch"]
        command = [str(python.parent / "infinity_emb"), *command[3:], "--served-model-name", UID, "--device", "cpu"]
        command += ["--host", "127.0.0.1", "--port", str(port), "--log-level", "warning", "--no-bettertransformer"]
        log = Path(folder) / "log"
        with log.open("wb") as file:
            process = subprocess.Popen(command, env=environment, stdout=file, stderr=file, start_new_session=True)
        try:
            deadline = time.monotonic() + START_S
            while not _is_healthy(f"http://127.0.0.1:{port}/health"):
                if process.poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError(log.read_text()[-3000:])
                time.sleep(0.1)
            yield Target("infinity", ("127.0.0.1", port), "/embeddings", (process.pid,))
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _is_healthy(url: str) -> bool:
    try:
        return httpx.get(url, timeout=5, trust_env=False).status_code == 200
    except httpx.HTTPError:
        return False


def _write_older(path: Path, older: Path) -> Path:
    """Copy an embedding model with the names of classes that older versions know."""
    older.mkdir()
    for file in path.rglob("*"):
        place = older / file.relative_to(path)
        if file.is_dir():
            place.mkdir(exist_ok=True)
        elif file.name not in ("config_sentence_transformers.json", "sentence_bert_config.json"):
            place.write_bytes(file.read_bytes())
    modules = json.loads((path / "modules.json").read_text())
    for module in modules:
        module["type"] = "sentence_transformers.models." + module["type"].rpartition(".")[2]
    (older / "modules.json").write_text(json.dumps(modules))
    for config in older.glob("*_Pooling/config.json"):
        read = json.loads(config.read_text())
        told = {"word_embedding_dimension": read["embedding_dimension"], "pooling_mode_mean_tokens": True}
        config.write_text(json.dumps(told))
    positions = json.loads((path / "config.json").read_text())["max_position_embeddings"]
    (older / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": positions}))
    return older


@dataclass(frozen=True)
class Bare:
    """The library in a process of its own; `ask` returns the seconds that an order took."""

    pid: int
    ask: Callable[..., float]


@contextmanager
def run_bare(script: str, path: Path, threads: int | None, *, gpu: bool) -> Iterator[Bare]:
    """Start a script with `--bare`, which answers orders by `serve_orders`."""
    command = [sys.executable, script, "--bare", str(path)]
    command += [*(["--gpu"] if gpu else []), *(["--threads", str(threads)] if threads else [])]
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    assert process.stdin is not None and process.stdout is not None
    orders, answers = process.stdin, process.stdout

    def read() -> str:
        line = answers.readline()
        if not line:
            raise RuntimeError(f"the script has failed; run it by hand: {' '.join(command)}")
        return line.strip()

    def ask(**order: Any) -> float:
        orders.write(json.dumps(order) + "\n")
        orders.flush()
        return float(read())

    try:
        while read() != "ready":
            pass
        yield Bare(process.pid, ask)
    finally:
        process.kill()
        process.wait()


def serve_orders(do: Callable[[dict[str, Any]], Any]) -> None:
    """Answer orders on standard input with the seconds that they took."""
    print("ready", file=sys.__stdout__, flush=True)
    for line in sys.stdin:
        order = json.loads(line)
        begun = time.perf_counter()
        do(order)
        print(time.perf_counter() - begun, file=sys.__stdout__, flush=True)


def measure_start(
    script: str, path: Path, server: Server, start: Callable[[Server], Target], *, rounds: int, gpu: bool
) -> dict[str, Any]:
    """Compare a launch with the library's import and load in a script."""
    differences, ours, theirs = [], [], []
    for number in range(rounds + 1):
        begun = time.perf_counter()
        with run_bare(script, path, None, gpu=gpu):
            theirs.append(time.perf_counter() - begun)
        begun = time.perf_counter()
        start(server)
        ours.append(time.perf_counter() - begun)
        httpx.delete(f"{server.url}/v1/models/{UID}", timeout=60, trust_env=False).raise_for_status()
        if number:
            differences.append(ours[-1] - theirs[-1])
    return {
        "part": "start",
        "launch_s": round(statistics.median(ours[1:]), 2),
        "library_s": round(statistics.median(theirs[1:]), 2),
        "beside_s": round(statistics.median(differences), 2),
        "target_beside_s": 0.5,
    }


def median_ratio(pairs: Sequence[tuple[float, float]]) -> float:
    """Return the median of the ratios of neighbours."""
    return round(statistics.median(first / second for first, second in pairs), 3)
