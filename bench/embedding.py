"""Measure the engine `sentence-transformers` through the server, against the library in a script and infinity's server.

Models have random weights. Rounds alternate between the sides, and the median of the ratios of neighbouring rounds is
taken, so that a busy machine disturbs both alike.

    python bench/embedding.py                                  # all parts on a BERT of 2 layers and a width of 64
    python bench/embedding.py --infinity ENVIRONMENT/bin/python    # and infinity's server (package infinity-emb)
    python bench/embedding.py --model 6x384 --parts batches mixed start
    python bench/embedding.py --gpu --model 24x1024 0.6B --parts batches singles mixed

Run it in the environment of the engine: .venv-engines/embedding/bin/python.
"""

import argparse
import json
import statistics
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

from encoders_rig import (
    SHAPES,
    UID,
    Bare,
    Target,
    cpu_s,
    launch,
    measure_start,
    median_ratio,
    run_bare,
    run_infinity,
    serve_orders,
    texts,
)
from load import LoadResult, run, run_load, run_mix
from modelrack.machine import probe
from modelrack.testing.serving import Server, start_server
from modelrack.testing.st import write_embedder

ENGINE = "sentence-transformers"
ROUTE = "/v1/embeddings"
CLIENTS = (1, 8, 32)
SHORT, LONG = (8, 14), (508, 508)
"""Words of short and long texts; two special tokens come to them."""
DECODER = {
    "hidden_size": 1024,
    "intermediate_size": 3072,
    "num_hidden_layers": 28,
    "num_attention_heads": 16,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "max_position_embeddings": 32_768,
}
"""Shape of Qwen3-Embedding-0.6B, but for its vocabulary."""


@dataclass(frozen=True)
class Bench:
    """What is compared."""

    path: Path
    threads: int | None
    rounds: int
    gpu: bool
    infinity: Path | None

    def options(self) -> dict[str, Any]:
        """Return what a launch is told."""
        found: dict[str, Any] = {"n_gpu": "auto"} if self.gpu else {"n_gpu": 0}
        return found | ({"n_threads": self.threads} if self.threads else {})

    def launch(self, server: Server) -> Target:
        """Launch the model."""
        return launch(server, self.path, "embedding", ENGINE, ROUTE, **self.options())

    def bare(self) -> Any:
        """Start the library by itself."""
        return run_bare(__file__, self.path, self.threads, gpu=self.gpu)


def write_model(folder: Path, name: str) -> Path:
    """Write a model, and return its folder."""
    if name in SHAPES:
        return write_embedder(folder / name, SHAPES[name])
    import torch
    from transformers import Qwen3Config, Qwen3Model

    path = write_embedder(folder / name, kind="qwen3")
    told = json.loads((path / "config.json").read_text())
    config = Qwen3Config(**{**told, **DECODER, "dtype": "bfloat16"})
    torch.set_default_dtype(torch.bfloat16)
    with torch.device("cuda"):
        model = Qwen3Model(config)
    model.save_pretrained(path)
    pooling = path / "1_Pooling" / "config.json"
    pooling.write_text(json.dumps({**json.loads(pooling.read_text()), "embedding_dimension": DECODER["hidden_size"]}))
    return path


def run_orders(path: str, threads: int | None, *, gpu: bool) -> None:
    """Load the model with the library, and encode what is ordered. Runs in a process of its own."""
    import torch
    from sentence_transformers import SentenceTransformer

    if threads:
        torch.set_num_threads(threads)
    model = SentenceTransformer(path, device="cuda" if gpu else "cpu", local_files_only=True)

    def encode(order: dict[str, Any]) -> None:
        for batch in order["batches"]:
            model.encode(batch, batch_size=order["batch_size"], show_progress_bar=False)

    serve_orders(encode)


def body(text: str | list[str]) -> bytes:
    """Return a request's body, as OpenAI's SDK sends it."""
    return json.dumps({"model": UID, "input": text, "encoding_format": "base64"}).encode()


def load(target: Target, bodies: list[bytes], clients: int) -> LoadResult:
    """Send each body once."""
    result = run(run_load(target.address, target.path, bodies, clients=clients, requests=len(bodies)))
    if result.failures:
        raise RuntimeError(f"{target.name}: {result.failures} of {len(bodies)} requests failed: {result.statuses}")
    return result


def measure_batches(bench: Bench, target: Target, bare: Bare) -> Iterator[dict[str, Any]]:
    """Compare requests of 64 texts with calls of `encode`, in the size of batches that suits it best."""
    chance = Random(1)
    count = 4 if bench.gpu else 3
    for words in ((8, 14), (5, 60), (100, 250)):
        pairs: dict[int, list[tuple[float, float]]] = {32: [], 64: []}
        for number in range(bench.rounds + 1):
            batches = [texts(chance, 64, *words) for _ in range(count)]
            theirs = {size: bare.ask(batches=batches, batch_size=size) for size in pairs}
            ours = load(target, [body(batch) for batch in batches], 1).wall_s
            if number:
                for size, its in pairs.items():
                    its.append((theirs[size], ours))
        best = min(pairs, key=lambda size: statistics.median(theirs for theirs, _ in pairs[size]))
        yield {
            "part": "64 texts",
            "words": words,
            "texts_per_s": round(64 * count / statistics.median(ours for _, ours in pairs[best])),
            "encode_texts_per_s": round(64 * count / statistics.median(theirs for theirs, _ in pairs[best])),
            "encode_batch_size": best,
            "ratio": median_ratio(pairs[best]),
            "ratio_default_batch_size": median_ratio(pairs[32]),
            "target": 0.95,
        }


def measure_singles(bench: Bench, targets: list[Target], bare: Bare) -> Iterator[dict[str, Any]]:
    """Compare single short texts from one and more clients, and infinity's server."""
    chance = Random(2)
    speeds: dict[tuple[str, int], list[float]] = {}
    costs: dict[tuple[str, int], list[float]] = {}
    alone = []
    for number in range(bench.rounds + 1):
        few = texts(chance, 100, *SHORT)
        alone.append(100 / bare.ask(batches=[[text] for text in few], batch_size=32))
        for clients in CLIENTS:
            bodies = [body(text) for text in texts(chance, 300 if clients == 1 else 2000, *SHORT)]
            for target in targets:
                before = cpu_s(target)
                result = load(target, bodies, clients)
                if number:
                    speeds.setdefault((target.name, clients), []).append(len(bodies) / result.wall_s)
                    costs.setdefault((target.name, clients), []).append((cpu_s(target) - before) / len(bodies) * 1e3)
    ours = targets[0].name
    for clients in CLIENTS:
        figures: dict[str, Any] = {
            "part": "single texts",
            "clients": clients,
            "encode_per_s": round(statistics.median(alone), 1),
        }
        for target in targets:
            figures[f"{target.name}_per_s"] = round(statistics.median(speeds[target.name, clients]), 1)
            figures[f"{target.name}_cpu_ms"] = round(statistics.median(costs[target.name, clients]), 2)
        figures["to_one_client"] = median_ratio(list(zip(speeds[ours, clients], speeds[ours, 1], strict=True)))
        figures |= {"target_to_one_client": 4} if clients == 32 else {}
        for other in targets[1:]:
            its = list(zip(speeds[ours, clients], speeds[other.name, clients], strict=True))
            figures |= {f"to_{other.name}": median_ratio(its), f"target_to_{other.name}": 1.3}
        yield figures


def measure_mixed(bench: Bench, target: Target, bare: Bare) -> Iterator[dict[str, Any]]:
    """Compare how long short texts take among others of 512 tokens with how long they take alone."""
    chance = Random(3)
    for clients in CLIENTS[1:]:
        pairs, p50, long_ms = [], [], []
        for number in range(bench.rounds + 1):
            short = [(body(text), "short") for text in texts(chance, 450, *SHORT)]
            long = [(body(text), "long") for text in texts(chance, 50, *LONG)]
            mixed = short + long
            chance.shuffle(mixed)
            found = [run(run_mix(target.address, target.path, bodies, clients=clients)) for bodies in (short, mixed)]
            if any(result.failures for kinds in found for result in kinds.values()):
                raise RuntimeError("requests failed")
            if number:
                times = [statistics.median(kinds["short"].latency_s) * 1e3 for kinds in found]
                pairs.append((times[1], times[0]))
                p50.append(times)
                long_ms.append(statistics.median(found[1]["long"].latency_s) * 1e3)
        yield {
            "part": "90 % short, 10 % of 512 tokens",
            "clients": clients,
            "short_p50_ms": round(statistics.median(mixed for _, mixed in p50), 2),
            "short_alone_p50_ms": round(statistics.median(only for only, _ in p50), 2),
            "long_p50_ms": round(statistics.median(long_ms), 2),
            "ratio": median_ratio(pairs),
            "target": 2,
        }


def measure(bench: Bench, parts: list[str]) -> Iterator[dict[str, Any]]:
    """Run the parts with one model."""
    with ExitStack() as stack:
        home = stack.enter_context(tempfile.TemporaryDirectory())
        server = stack.enter_context(start_server(Path(home)))
        if "start" in parts:
            yield measure_start(__file__, bench.path, server, bench.launch, rounds=bench.rounds, gpu=bench.gpu)
        if parts == ["start"]:
            return
        target = bench.launch(server)
        bare = stack.enter_context(bench.bare())
        if "batches" in parts:
            yield from measure_batches(bench, target, bare)
        if "mixed" in parts:
            yield from measure_mixed(bench, target, bare)
        if "singles" in parts:
            targets = [target]
            if bench.infinity is not None:
                targets.append(stack.enter_context(run_infinity(bench.infinity, bench.path, bench.threads)))
            yield from measure_singles(bench, targets, bare)


PARTS: tuple[str, ...] = ("start", "batches", "mixed", "singles")


def main() -> None:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gpu", action="store_true", help="on the first GPU")
    parser.add_argument("--model", nargs="+", choices=(*SHAPES, "0.6B"), default=["2x64"])
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument(
        "--threads",
        type=int,
        default=max(1, probe().cores - 1),
        help="that compute on the CPU, on all sides; default: as the engine, one less than there are cores",
    )
    parser.add_argument("--infinity", type=Path, help="Python of an environment that has infinity's server")
    parser.add_argument("--bare", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.bare:
        run_orders(arguments.bare, arguments.threads, gpu=arguments.gpu)
        return
    with tempfile.TemporaryDirectory() as folder:
        for name in arguments.model:
            path = write_model(Path(folder), name)
            bench = Bench(path, arguments.threads, arguments.rounds, arguments.gpu, arguments.infinity)
            for figures in measure(bench, arguments.parts):
                print(json.dumps({"model": name, **figures}), flush=True)


if __name__ == "__main__":
    main()
