"""Measure an engine for language models whose decode loop is ours: against a bare loop, other engines, and itself.

Models have random weights: one of about a million parameters, where everything around the engine shows, and one of
about a hundred million. What is compared runs in turns, and the median of the ratios of neighbouring rounds is taken.

    python bench/llm_engines.py                     # everything, some minutes
    python bench/llm_engines.py one-stream loop     # some of it
    python bench/llm_engines.py --list              # what there is

Run it in the environment of the engine: .venv-engines/llm_gguf/bin/python. The HTTP server of xllamacpp and the engine
`llama.cpp` come from the plugin llm_xllamacpp, which is there too.
"""

import argparse
import asyncio
import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

from end_to_end import SLOTS, THREADS, UID, Target, find_engine, make_plan, measure, run_server, run_worker
from llm_loop_profile import Share, run_loop
from load import LoadResult, cpu_time_s, run, run_load
from modelrack.testing.gguf import LARGE, TINY, Shape, write_random_model

COMPLETIONS = "/v1/completions"
SHAPES = {"1M": TINY, "100M": LARGE}
CONTEXT = 2048
SHORT, LONG = 32, 1500
STREAMS = 4
ARRIVALS = 8
LETTERS = range(ord("a"), ord("z") + 1)
"""Tokens that stand for letters: the vocabularies of the random models begin with the 256 bytes."""


@dataclass(frozen=True)
class Bench:
    """What all measurements share.

    Args:
        engine: the one that is measured.
        other: the one that it is compared with.
    """

    folder: Path
    engine: str
    other: str
    rounds: int
    threads: int
    chance: Random = field(default_factory=lambda: Random(1))

    def model(self, name: str) -> Path:
        """Return the file of a model; it is written once."""
        path = self.folder / f"{name}.gguf"
        shape: Shape = SHAPES[name]
        return path if path.exists() else write_random_model(path, shape)

    def tokens(self, count: int) -> list[int]:
        """Return a prompt that was not there before, so that nothing of it is kept anywhere."""
        return self.chance.choices(LETTERS, k=count)

    def body(self, prompt: Sequence[int], max_tokens: int) -> bytes:
        """Return a streamed, greedy request."""
        fields = {"model": UID, "prompt": list(prompt), "max_tokens": max_tokens, "temperature": 0, "stream": True}
        return json.dumps(fields).encode()

    def bodies(self, count: int, max_tokens: int) -> list[bytes]:
        """Return requests with short prompts."""
        return [self.body(self.tokens(SHORT), max_tokens) for _ in range(count)]


def send(target: Target, bodies: Sequence[bytes], clients: int) -> LoadResult:
    """Send some requests, each once."""
    result = run(run_load(target.address, COMPLETIONS, bodies, clients=clients, requests=len(bodies)))
    if result.failures:
        raise RuntimeError(f"{target.name} failed {result.failures} of {len(bodies)} requests: {result.statuses}")
    return result


def middle(values: Sequence[float], digits: int = 3) -> float:
    """Return a median, rounded."""
    return round(statistics.median(values), digits)


@contextmanager
def bare_loop(model: Path, threads: int) -> Iterator[Callable[[Sequence[int], int], float]]:
    """Start the bare loop; yields what runs it and returns the seconds that it took."""
    command = [sys.executable, str(Path(__file__).with_name("llm_loop.py")), str(model), str(CONTEXT), str(threads)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdin is not None and process.stdout is not None
    orders, answers = process.stdin, process.stdout

    def ask(prompt: Sequence[int], count: int) -> float:
        orders.write(json.dumps({"prompt": list(prompt), "count": count}) + "\n")
        orders.flush()
        return float(answers.readline())

    try:
        if answers.readline().strip() != "ready":
            raise RuntimeError("the bare loop did not start; is llama-cpp-python here?")
        yield ask
    finally:
        process.kill()
        process.wait()


def measure_one_stream(bench: Bench) -> Iterator[dict[str, Any]]:
    """Compare the worker, with one client, with the bare loop: the same prompts, as many tokens."""
    tokens, requests = 128, 3
    for name in ("100M",):
        pairs = []
        with (
            run_worker(bench.model(name), CONTEXT, bench.threads, bench.engine) as ours,
            bare_loop(bench.model(name), bench.threads) as ask,
        ):
            for number in range(bench.rounds + 1):
                prompts = [bench.tokens(SHORT) for _ in range(requests)]
                theirs_s = sum(ask(prompt, tokens) for prompt in prompts)
                ours_s = sum(send(ours, [bench.body(prompt, tokens) for prompt in prompts], clients=1).latency_s)
                # The first round warms up.
                if number:
                    pairs.append((requests * tokens / ours_s, requests * tokens / theirs_s))
        yield {
            "model": name,
            "tokens_per_s": middle([ours for ours, _ in pairs], 1),
            "bare_loop_tokens_per_s": middle([theirs for _, theirs in pairs], 1),
            "ratio": middle([ours / theirs for ours, theirs in pairs]),
            "target": 0.97,
        }


def measure_eight_streams(bench: Bench) -> Iterator[dict[str, Any]]:
    """Compare two engines' workers with eight clients at eight slots."""
    tokens, requests = 64, 24
    for name in ("100M",):
        pairs = []
        with (
            run_worker(bench.model(name), CONTEXT, bench.threads, bench.engine) as ours,
            run_worker(bench.model(name), CONTEXT, bench.threads, bench.other) as theirs,
        ):
            for number in range(bench.rounds + 1):
                rates, costs = [0.0, 0.0], [0.0, 0.0]
                for place in (number % 2, 1 - number % 2):
                    target = (ours, theirs)[place]
                    before = cpu_time_s(target.pid)
                    result = send(target, bench.bodies(requests, tokens), clients=SLOTS)
                    rates[place] = requests * tokens / result.wall_s
                    costs[place] = (cpu_time_s(target.pid) - before) / (requests * tokens) * 1000
                if number:
                    pairs.append((*rates, *costs))
        yield {
            "model": name,
            "tokens_per_s": middle([pair[0] for pair in pairs], 1),
            "other": bench.other,
            "other_tokens_per_s": middle([pair[1] for pair in pairs], 1),
            "cpu_ms_per_token": middle([pair[2] for pair in pairs]),
            "other_cpu_ms_per_token": middle([pair[3] for pair in pairs]),
            "cpu_ratio": middle([pair[3] / pair[2] for pair in pairs]),
            "ratio": middle([pair[0] / pair[1] for pair in pairs]),
            "target": 0.95,
        }


def measure_server(bench: Bench) -> Iterator[dict[str, Any]]:
    """Compare the whole way with the HTTP server of xllamacpp: whole and streamed, 1, 8 and 32 clients."""
    for figures in measure(run_server, bench.engine, only="1M", rounds=bench.rounds, threads=bench.threads):
        yield {**figures, "target": 0.8}


async def _disturb(bench: Bench, address: tuple[str, int] | str) -> tuple[list[float], LoadResult]:
    """Return the gaps of running streams while long prompts arrive, and what became of these prompts in this time."""
    streams, prompts = LoadResult(gaps_s=[]), LoadResult()
    assert streams.gaps_s is not None
    bodies = bench.bodies(256, CONTEXT - 2 * SHORT)
    running = asyncio.create_task(
        run_load(address, COMPLETIONS, bodies, clients=STREAMS, requests=len(bodies), result=streams)
    )
    await asyncio.sleep(1)
    begin = len(streams.gaps_s)
    tasks = [running]
    for _ in range(ARRIVALS):
        body = bench.body(bench.tokens(LONG), 1)
        tasks.append(asyncio.create_task(run_load(address, COMPLETIONS, body, clients=1, requests=1, result=prompts)))
        await asyncio.sleep(1)
    gaps = streams.gaps_s[begin:]
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    return gaps, prompts


def measure_long_prompts(bench: Bench) -> Iterator[dict[str, Any]]:
    """Let a prompt of 1,500 tokens arrive every second, and look at the time between the tokens of running streams."""
    for name in SHAPES:
        figures = []
        with run_worker(bench.model(name), CONTEXT, bench.threads, bench.engine) as ours:
            for _ in range(bench.rounds):
                gaps, prompts = asyncio.run(_disturb(bench, ours.address))
                if prompts.failures:
                    raise RuntimeError(f"{prompts.failures} long prompts failed: {prompts.statuses}")
                # Tokens that came together were not waited for.
                gaps = sorted(gap for gap in gaps if gap > 0)
                figures.append((statistics.median(gaps), gaps[int(len(gaps) * 0.99)], prompts))
        waits = [wait * 1000 for _, _, prompts in figures for wait in prompts.first_byte_s]
        yield {
            "model": name,
            "streams": STREAMS,
            "gap_p50_ms": middle([p50 * 1000 for p50, _, _ in figures], 2),
            "gap_p99_ms": middle([p99 * 1000 for _, p99, _ in figures], 2),
            "prompts": bench.rounds * ARRIVALS,
            "prompts_answered_meanwhile": sum(prompts.requests for _, _, prompts in figures),
            "first_token_ms": middle(waits, 1) if waits else None,
            "ratio": middle([p99 / p50 for p50, p99, _ in figures]),
            "target": 3.0,
        }


def measure_prefix(bench: Bench) -> Iterator[dict[str, Any]]:
    """Send a prompt of 1,500 tokens and a few more, then these with others behind them, and compare first tokens."""
    for name in SHAPES:
        pairs = []
        with run_worker(bench.model(name), CONTEXT, bench.threads, bench.engine) as ours:
            send(ours, bench.bodies(4, 16), clients=1)
            for _ in range(bench.rounds):
                prefix = bench.tokens(LONG)
                first, second = (
                    send(ours, [bench.body([*prefix, *bench.tokens(8)], 4)], clients=1).first_byte_s[0]
                    for _ in range(2)
                )
                pairs.append((first, second))
        yield {
            "model": name,
            "first_ms": middle([first * 1000 for first, _ in pairs], 1),
            "second_ms": middle([second * 1000 for _, second in pairs], 1),
            "ratio": middle([second / first for first, second in pairs]),
            "target": 0.2,
        }


def measure_loop(bench: Bench) -> Iterator[dict[str, Any]]:
    """Take the time of the decode loop's steps apart; no HTTP, the model is loaded in here. Compares builds, too."""
    plan = make_plan(
        bench.model("100M"), find_engine(bench.engine), n_ctx=CONTEXT, n_parallel=SLOTS, n_threads=bench.threads
    )

    def run_rounds(sequences: int, length: int, max_tokens: int) -> list[Share]:
        prompts = [[bench.tokens(length) for _ in range(sequences)] for _ in range(bench.rounds + 1)]
        # The first round warms up.
        return run_loop(plan, prompts, max_tokens=max_tokens)[1:]

    shares, single, reading = run_rounds(SLOTS, SHORT, 128), run_rounds(1, SHORT, 128), run_rounds(1, LONG, 1)
    yield {
        "model": "100M",
        "sequences": SLOTS,
        "step_ms": middle([share.step_ms for share in shares]),
        "step_of_one_ms": middle([share.step_ms for share in single]),
        "prompt_ms_per_token": middle([share.busy_s * 1000 / LONG for share in reading]),
        "decode_share": middle([share.decode for share in shares], 4),
        "choose_share": middle([share.choose for share in shares], 4),
        "rest_share": middle([share.rest for share in shares], 4),
        "ratio": middle([1 - share.decode for share in shares], 4),
        "target": 0.05,
    }


PARTS = {
    "one-stream": measure_one_stream,
    "eight-streams": measure_eight_streams,
    "server": measure_server,
    "long-prompts": measure_long_prompts,
    "prefix": measure_prefix,
    "loop": measure_loop,
}


def main() -> None:
    """Measure, and print one line of JSON for each figure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", metavar="PART", help="default: all; --list names them")
    parser.add_argument("--list", action="store_true", help="list the parts")
    parser.add_argument("--engine", default="llama-cpp-python", help="the engine to measure")
    parser.add_argument("--other", default="llama.cpp", help="the engine to compare it with")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=THREADS)
    arguments = parser.parse_args()
    unknown = set(arguments.parts) - set(PARTS)
    if unknown:
        parser.error(f"there is no part {', '.join(sorted(unknown))}; there are: {', '.join(PARTS)}")
    if arguments.list:
        for name, part in PARTS.items():
            print(f"{name:14} {(part.__doc__ or '').splitlines()[0]}")
        return
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(Path(folder), arguments.engine, arguments.other, arguments.rounds, arguments.threads)
        for name in arguments.parts or PARTS:
            for figures in PARTS[name](bench):
                print(json.dumps({"part": name, **figures}), flush=True)


if __name__ == "__main__":
    main()
