"""Measure the engine `vLLM` through the server against vLLM's own server alone, with equal settings and requests.

The model has random weights, about a hundred million parameters in float32. Rounds alternate between the two, and the
median of the ratios of neighbouring rounds is taken, so that a busy machine disturbs both alike. Before each turn both
sides come to rest: for a second after its last request vLLM's worker looks for the next one in a busy loop, on the very
core that the other side's worker is bound to, and whoever has its turn in that second loses up to a third.

    python bench/llm_vllm.py --environment PATH       # 1 and 8 streams, some minutes
    python bench/llm_vllm.py --environment PATH --chat

`modelrack env create vllm` makes the environment, and prints its name; `modelrack env list` shows where it lies.
"""

import argparse
import json
import os
import statistics
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from random import Random
from typing import Any
from urllib.parse import urlsplit

import httpx
import psutil

from load import LoadResult, cpu_time_s, run, run_load
from modelrack.testing.gguf import LARGE
from modelrack.testing.hf import write_random_model
from modelrack.testing.serving import start_server, wait_until

UID = "bench"
START_S = 600.0
CACHE_GB, CONTEXT, SEQUENCES = 0.5, 2048, 16
LETTERS = "abcdefghijklmnopqrstuvwxyz"
REST_S, REST_SHARE = 0.25, 0.05
"""A side is at rest when it has used less than this share of a core for so long."""


def bodies(chance: Random, count: int, tokens: int, *, chat: bool) -> list[bytes]:
    """Return streamed, greedy requests whose prompts were not there before."""
    found = []
    for _ in range(count):
        text = "".join(chance.choices(LETTERS, k=64))
        prompt: dict[str, Any] = {"messages": [{"role": "user", "content": text}]} if chat else {"prompt": text}
        fields = {"model": UID, "max_tokens": tokens, "temperature": 0, "ignore_eos": True, "stream": True}
        found.append(json.dumps({**fields, **prompt}).encode())
    return found


@contextmanager
def run_bare(python: str, model: Path, folder: Path, env: dict[str, str]) -> Iterator[tuple[str, int]]:
    """Run vLLM's own server; yields its socket and its process's id."""
    socket = str(folder / "bare.sock")
    command = [python, "-P", "-m", "vllm.entrypoints.openai.api_server", "--model", str(model), "--uds", socket]
    command += ["--served-model-name", UID, "--dtype", "float32", "--enforce-eager"]
    command += ["--kv-cache-memory-bytes", str(int(CACHE_GB * 2**30)), "--max-num-seqs", str(SEQUENCES)]
    command += ["--max-model-len", str(CONTEXT), "--disable-uvicorn-access-log", "--uvicorn-log-level", "warning"]
    with (folder / "bare.log").open("wb") as log:
        process = subprocess.Popen(command, env={**os.environ, **env}, stdout=log, stderr=log, cwd=folder)
    try:
        with httpx.Client(transport=httpx.HTTPTransport(uds=socket), base_url="http://vllm", timeout=5) as http:
            deadline = time.monotonic() + START_S
            while process.poll() is None and time.monotonic() < deadline:
                with suppress(httpx.HTTPError):
                    if http.get("/health").status_code == 200:
                        break
                time.sleep(0.5)
            else:
                raise RuntimeError(f"vLLM did not come up: {(folder / 'bare.log').read_text()[-2000:]}")
        yield socket, process.pid
    finally:
        process.terminate()
        process.wait()


@contextmanager
def run_ours(environment: str, model: Path, folder: Path, env: dict[str, str]) -> Iterator[tuple[tuple[str, int], int]]:
    """Run modelrack and launch the model; yields the server's address and its process's id."""
    with start_server(folder / "home", **env) as server:
        body = {
            "model_name": str(model),
            "model_uid": UID,
            "model_engine": "vLLM",
            "environment": environment,
            "dtype": "float32",
            "enforce_eager": True,
            "kv_cache_gb": CACHE_GB,
            "max_num_seqs": SEQUENCES,
            "max_model_len": CONTEXT,
        }
        answer = httpx.post(f"{server.url}/v1/models", json=body, timeout=START_S, trust_env=False)
        if answer.status_code != 200:
            raise RuntimeError(answer.text)
        parts = urlsplit(server.url)
        yield (str(parts.hostname), int(parts.port or 80)), server.process.pid


def tree_time_s(pid: int) -> float:
    """Return the CPU time of a process and all below it."""
    return sum(cpu_time_s(one.pid) for one in (psutil.Process(pid), *psutil.Process(pid).children(recursive=True)))


def let_rest(*pids: int) -> None:
    """Wait until the processes, and all below them, have nothing to do."""

    def is_at_rest() -> bool:
        before = [tree_time_s(pid) for pid in pids]
        time.sleep(REST_S)
        return all(tree_time_s(pid) - used < REST_S * REST_SHARE for pid, used in zip(pids, before, strict=True))

    wait_until(is_at_rest, 60, "both sides to come to rest")


def tokens_per_s(
    address: tuple[str, int] | str, path: str, requests: Sequence[bytes], clients: int, tokens: int
) -> float:
    """Send all requests once, and return the tokens that came in a second."""
    result: LoadResult = run(run_load(address, path, requests, clients=clients, requests=len(requests)))
    if result.failures:
        raise RuntimeError(f"{result.failures} of {len(requests)} requests failed: {result.statuses}")
    return len(requests) * tokens / result.wall_s


def main() -> None:
    """Print one line of JSON for each number of streams."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--environment", required=True, help="folder of an environment with vLLM")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--threads", type=int, help="threads of each side")
    parser.add_argument("--chat", action="store_true", help="chats in place of completions")
    arguments = parser.parse_args()
    path = "/v1/chat/completions" if arguments.chat else "/v1/completions"
    env = {"OMP_NUM_THREADS": str(arguments.threads)} if arguments.threads else {}
    chance = Random(1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "home").mkdir()
        model = write_random_model(folder / "100M", LARGE)
        python = f"{arguments.environment}/bin/python"
        with run_bare(python, model, folder, env) as bare, run_ours(arguments.environment, model, folder, env) as ours:
            sides: list[tuple[str, tuple[Any, int]]] = [("bare", bare), ("ours", ours)]
            for clients in (1, 8):
                pairs = []
                for number in range(arguments.rounds + 1):
                    rates = {}
                    for side, (address, _) in sides if number % 2 else reversed(sides):
                        requests = bodies(chance, max(2, clients), arguments.tokens, chat=arguments.chat)
                        let_rest(*(pid for _, (_, pid) in sides))
                        rates[side] = tokens_per_s(address, path, requests, clients, arguments.tokens)
                    if number:  # the first round warms up
                        pairs.append((rates["ours"], rates["bare"]))
                figures = {
                    "streams": clients,
                    "tokens_per_s": round(statistics.median(ours for ours, _ in pairs), 1),
                    "bare_tokens_per_s": round(statistics.median(bare for _, bare in pairs), 1),
                    "ratio": round(statistics.median(ours / bare for ours, bare in pairs), 3),
                    "target": 0.95,
                }
                print(json.dumps(figures), flush=True)


if __name__ == "__main__":
    main()
