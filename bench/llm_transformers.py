"""Measure the engine `Transformers` through the server against `generate_batch` in a script, with equal prompts.

The model has random weights: about a hundred million parameters in float32 on the CPU, 1 to 8 billion in bfloat16 on a
GPU. Rounds alternate between the two, and the median of the ratios of neighbouring rounds is taken.

    python bench/llm_transformers.py                          # 1 and 8 streams on the CPU
    python bench/llm_transformers.py --threads 1              # on a busy machine, where threads wait for each other
    python bench/llm_transformers.py --gpu --size 8B          # 1, 16, 64 and 256 streams on the first GPU
    python bench/llm_transformers.py --gpu --bandwidth 4.8    # with the share of a memory bandwidth of 4.8 TB/s

Run it in the environment of the engine: .venv-engines/llm_transformers/bin/python. On a GPU, both have it at once, so
each gets a share of its memory.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from random import Random
from time import perf_counter
from typing import Any

import httpx
import psutil

from load import LoadResult, run, run_load
from modelrack.testing.gguf import LARGE
from modelrack.testing.hf import write_random_model
from modelrack.testing.serving import Server, start_server

COMPLETIONS = "/v1/completions"
UID = "bench"
PROMPT = 32
LETTERS = range(ord("a"), ord("z") + 1)
"""Tokens that stand for letters: the vocabularies of the random models begin with the 256 bytes."""
SIZES = {
    "1B": {"hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 16, "num_attention_heads": 32},
    "3B": {"hidden_size": 3072, "intermediate_size": 8192, "num_hidden_layers": 28, "num_attention_heads": 24},
    "8B": {"hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32, "num_attention_heads": 32},
}
"""Shapes of Llama 3; their vocabulary has 128,256 tokens."""
SHARE = 0.4
"""Of a GPU's free memory, for the cache of each side."""
PAGE, CPU_TOKENS, CPU_STEP = 16, 16_384, 256


def write_model(folder: Path, size: str) -> Path:
    """Write a model; returns its folder."""
    path = write_random_model(folder / "100M", LARGE)
    if size == "100M":
        return path
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    shape = {"num_key_value_heads": 8, "max_position_embeddings": 8192, "vocab_size": 128_256, "rope_theta": 500_000.0}
    special = {name: json.loads((path / "config.json").read_text())[name] for name in ("bos_token_id", "eos_token_id")}
    config = LlamaConfig(**SIZES[size], **shape, **special, tie_word_embeddings=size != "8B")
    torch.set_default_dtype(torch.bfloat16)
    with torch.device("cuda"):
        model = LlamaForCausalLM(config)
    large = folder / size
    model.save_pretrained(large)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (large / name).write_bytes((path / name).read_bytes())
    return large


def serve_orders(path: str, streams: int, threads: int | None, *, gpu: bool) -> None:
    """Answer orders on standard input with the seconds that `generate_batch` took. Runs in a process of its own."""
    import torch
    from transformers import AutoModelForCausalLM, GenerationConfig
    from transformers.generation.configuration_utils import ContinuousBatchingConfig

    torch.set_num_threads(threads or torch.get_num_threads())
    dtype = torch.bfloat16 if gpu else torch.float32
    model = AutoModelForCausalLM.from_pretrained(path, dtype=dtype, device_map={"": "cuda" if gpu else "cpu"})
    sizes: dict[str, Any] = {"max_memory_percent": SHARE}
    if not gpu:
        sizes = {"page_size": PAGE, "num_blocks": CPU_TOKENS // PAGE, "max_batch_tokens": CPU_STEP}
    batching = ContinuousBatchingConfig(max_requests_per_batch=streams, **sizes)
    print("ready", file=sys.__stdout__, flush=True)
    for line in sys.stdin:
        order = json.loads(line)
        count = order["count"]
        told = GenerationConfig(max_new_tokens=count, do_sample=False, eos_token_id=-1, pad_token_id=0)
        begun = perf_counter()
        # Kept, so that the cache is made and graphs are recorded in the first round only.
        found = model.generate_batch(
            order["prompts"], generation_config=told, continuous_batching_config=batching, persistent_manager=True
        )
        took_s = perf_counter() - begun
        if [len(one.generated_tokens) for one in found.values()] != [count] * len(order["prompts"]):
            raise RuntimeError("generate_batch has not written all tokens")
        print(took_s, file=sys.__stdout__, flush=True)


@dataclass(frozen=True)
class Bare:
    """`generate_batch` in a process of its own.

    Args:
        ask: has it compute so many tokens after each of some prompts, and returns the seconds that it took.
    """

    pid: int
    ask: Callable[[Sequence[Sequence[int]], int], float]


@contextmanager
def run_bare(path: Path, streams: int, threads: int | None, *, gpu: bool) -> Iterator[Bare]:
    """Start `generate_batch` in a script."""
    command = [sys.executable, __file__, "--bare", str(path), "--streams", str(streams)]
    command += [*(["--gpu"] if gpu else []), *(["--threads", str(threads)] if threads else [])]
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    assert process.stdin is not None and process.stdout is not None
    orders, answers = process.stdin, process.stdout

    def ask(prompts: Sequence[Sequence[int]], count: int) -> float:
        orders.write(json.dumps({"prompts": prompts, "count": count}) + "\n")
        orders.flush()
        return float(_line(answers))

    try:
        while _line(answers) != "ready":
            pass
        yield Bare(process.pid, ask)
    finally:
        process.kill()
        process.wait()


def _cpu_s(pid: int) -> float:
    """Return the CPU time of a process, with that of threads that have ended: `generate_batch` makes one each time."""
    times = psutil.Process(pid).cpu_times()
    return float(times.user + times.system)


def _line(answers: Any) -> str:
    line: str = answers.readline()
    if not line:
        raise RuntimeError("generate_batch has failed; run it by hand: --bare MODEL")
    return line.strip()


def launch(server: Server, path: Path, streams: int, threads: int | None, *, gpu: bool) -> int:
    """Launch the model beside the server, and return its worker's process."""
    options: dict[str, Any] = {"max_num_seqs": streams, "batching": "continuous", "environment": "server"}
    options |= {"n_threads": threads} if threads else {}
    options |= {"kv_memory_fraction": SHARE} if gpu else {"n_gpu": 0, "kv_tokens": CPU_TOKENS, "dtype": "float32"}
    body = {"model_name": str(path), "model_uid": UID, "model_engine": "Transformers", **options}
    answer = httpx.post(f"{server.url}/v1/models?wait_ready=true", json=body, timeout=600, trust_env=False)
    if answer.status_code != 200:
        raise RuntimeError(answer.text)
    children = psutil.Process(server.process.pid).children(recursive=True)
    return next(child.pid for child in children if "modelrack.worker" in child.cmdline())


def send(server: Server, prompts: Sequence[Sequence[int]], count: int) -> LoadResult:
    """Send prompts, each by a client of its own, as greedy streams that do not end by themselves."""
    fields = {"model": UID, "max_tokens": count, "temperature": 0, "stream": True, "ignore_eos": True}
    bodies = [json.dumps({**fields, "prompt": list(prompt)}).encode() for prompt in prompts]
    host, port = server.url.removeprefix("http://").rsplit(":", 1)
    result = run(run_load((host, int(port)), COMPLETIONS, bodies, clients=len(bodies), requests=len(bodies)))
    if result.failures:
        raise RuntimeError(f"{result.failures} of {len(bodies)} requests failed: {result.statuses}")
    return result


def measure(path: Path, streams: int, *, count: int, rounds: int, threads: int | None, gpu: bool) -> dict[str, Any]:
    """Compare the two with so many streams."""
    chance = Random(1)
    tokens = streams * count
    pairs, costs, first = [], [], []
    with tempfile.TemporaryDirectory() as home, start_server(Path(home)) as server:
        worker = launch(server, path, streams, threads, gpu=gpu)
        with run_bare(path, streams, threads, gpu=gpu) as bare:
            for number in range(rounds + 1):
                prompts = [chance.choices(LETTERS, k=PROMPT) for _ in range(streams)]
                before = _cpu_s(worker), _cpu_s(bare.pid)
                theirs_s = bare.ask(prompts, count)
                ours = send(server, prompts, count)
                # The first round warms up.
                if number:
                    pairs.append((tokens / ours.wall_s, tokens / theirs_s))
                    costs.append((_cpu_s(worker) - before[0], _cpu_s(bare.pid) - before[1]))
                    first.append(statistics.median(ours.first_byte_s) * 1000)
    return {
        "model": path.name,
        "streams": streams,
        "tokens_per_s": round(statistics.median(ours for ours, _ in pairs), 1),
        "generate_batch_tokens_per_s": round(statistics.median(theirs for _, theirs in pairs), 1),
        "ratio": round(statistics.median(ours / theirs for ours, theirs in pairs), 3),
        "cpu_ms_per_token": round(statistics.median(ours for ours, _ in costs) / tokens * 1000, 2),
        "cpu_ratio": round(statistics.median(theirs / ours for ours, theirs in costs), 3),
        "first_token_ms": round(statistics.median(first), 1),
        "target": 0.95,
    }


def main() -> None:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gpu", action="store_true", help="on the first GPU, in bfloat16")
    parser.add_argument("--size", choices=("100M", *SIZES), help="of the model; default: 100M, with --gpu 1B")
    parser.add_argument("--streams", type=int, nargs="+", help="default: 1 8, with --gpu 1 16 64 256")
    parser.add_argument("--tokens", type=int, help="of each answer; default: 64, with --gpu 256")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument(
        "--threads", type=int, help="that compute on the CPU; default: of the engine and of PyTorch each"
    )
    parser.add_argument("--bandwidth", type=float, help="of the GPU's memory, in TB/s")
    parser.add_argument("--bare", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    gpu: bool = arguments.gpu
    if arguments.bare:
        serve_orders(arguments.bare, arguments.streams[0], arguments.threads, gpu=gpu)
        return
    count = arguments.tokens or (256 if gpu else 64)
    with tempfile.TemporaryDirectory() as folder:
        path = write_model(Path(folder), arguments.size or ("1B" if gpu else "100M"))
        weight_bytes = sum(file.stat().st_size for file in path.glob("*.safetensors"))
        for streams in arguments.streams or ((1, 16, 64, 256) if gpu else (1, 8)):
            figures = measure(path, streams, count=count, rounds=arguments.rounds, threads=arguments.threads, gpu=gpu)
            if streams == 1 and arguments.bandwidth:
                # Each token reads all weights once.
                limit = arguments.bandwidth * 1e12 / weight_bytes
                figures["bandwidth_share"] = round(figures["tokens_per_s"] / limit, 3)
            print(json.dumps(figures), flush=True)


if __name__ == "__main__":
    main()
