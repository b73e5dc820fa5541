"""Measure the engine `cross-encoder` through the server, against sentence-transformers' `CrossEncoder` in a script.

Models have random weights. Rounds alternate between the two, and the median of the ratios of neighbouring rounds is
taken, so that a busy machine disturbs both alike.

    python bench/rerank.py                                     # a BERT of 2 layers and a width of 64
    python bench/rerank.py --model 6x384 --parts documents
    python bench/rerank.py --gpu --model 24x1024 --parts documents

Run it in the environment of the engine: .venv-engines/rerank/bin/python.
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
    launch,
    measure_start,
    median_ratio,
    run_bare,
    serve_orders,
    texts,
)
from load import run, run_load
from modelrack.machine import probe
from modelrack.testing.encoders import write_bert
from modelrack.testing.serving import Server, start_server

ENGINE = "cross-encoder"
ROUTE = "/v1/rerank"
DOCUMENTS = 100
QUERY = (6, 12)


@dataclass(frozen=True)
class Bench:
    """What is compared."""

    path: Path
    threads: int | None
    rounds: int
    gpu: bool

    def launch(self, server: Server) -> Target:
        """Launch the model."""
        options: dict[str, Any] = {"n_gpu": "auto" if self.gpu else 0}
        options |= {"n_threads": self.threads} if self.threads else {}
        return launch(server, self.path, "rerank", ENGINE, ROUTE, **options)


def run_orders(path: str, threads: int | None, *, gpu: bool) -> None:
    """Load the model with the library, and score what is ordered. Runs in a process of its own."""
    import torch
    from sentence_transformers import CrossEncoder

    if threads:
        torch.set_num_threads(threads)
    model = CrossEncoder(path, device="cuda" if gpu else "cpu", local_files_only=True)

    def score(order: dict[str, Any]) -> None:
        for query, documents in order["requests"]:
            pairs = [(query, document) for document in documents]
            model.predict(pairs, batch_size=order["batch_size"], show_progress_bar=False)

    serve_orders(score)


def ask(target: Target, requests: list[tuple[str, list[str]]], clients: int) -> float:
    """Send requests, and return the seconds that they took together."""
    bodies = [json.dumps({"model": UID, "query": query, "documents": its}).encode() for query, its in requests]
    result = run(run_load(target.address, target.path, bodies, clients=clients, requests=len(bodies)))
    if result.failures:
        raise RuntimeError(f"{result.failures} of {len(bodies)} requests failed: {result.statuses}")
    return result.wall_s


def draw(chance: Random, count: int, words: tuple[int, int]) -> list[tuple[str, list[str]]]:
    """Return requests of 100 documents."""
    return [(texts(chance, 1, *QUERY)[0], texts(chance, DOCUMENTS, *words)) for _ in range(count)]


def measure_documents(bench: Bench, target: Target, bare: Bare) -> Iterator[dict[str, Any]]:
    """Compare requests of 100 documents with calls of `predict`, in the size of batches that suits it best."""
    chance = Random(1)
    for words in ((8, 14), (20, 80), (100, 250)):
        pairs: dict[int, list[tuple[float, float]]] = {32: [], 100: []}
        for number in range(bench.rounds + 1):
            requests = draw(chance, 2, words)
            theirs = {size: bare.ask(requests=requests, batch_size=size) for size in pairs}
            ours = ask(target, requests, 1)
            if number:
                for size, its in pairs.items():
                    its.append((theirs[size], ours))
        best = min(pairs, key=lambda size: statistics.median(theirs for theirs, _ in pairs[size]))
        scored = 2 * DOCUMENTS
        yield {
            "part": "100 documents",
            "words": words,
            "documents_per_s": round(scored / statistics.median(ours for _, ours in pairs[best])),
            "predict_documents_per_s": round(scored / statistics.median(theirs for theirs, _ in pairs[best])),
            "predict_batch_size": best,
            "ratio": median_ratio(pairs[best]),
            "ratio_default_batch_size": median_ratio(pairs[32]),
            "target": 0.95,
        }


def measure(bench: Bench, parts: list[str]) -> Iterator[dict[str, Any]]:
    """Run the parts with one model."""
    with ExitStack() as stack:
        home = stack.enter_context(tempfile.TemporaryDirectory())
        server = stack.enter_context(start_server(Path(home)))
        if "start" in parts:
            yield measure_start(__file__, bench.path, server, bench.launch, rounds=bench.rounds, gpu=bench.gpu)
        if "documents" in parts:
            target = bench.launch(server)
            bare = stack.enter_context(run_bare(__file__, bench.path, bench.threads, gpu=bench.gpu))
            yield from measure_documents(bench, target, bare)


PARTS: tuple[str, ...] = ("start", "documents")


def main() -> None:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gpu", action="store_true", help="on the first GPU")
    parser.add_argument("--model", nargs="+", choices=SHAPES, default=["2x64"])
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument(
        "--threads",
        type=int,
        default=max(1, probe().cores - 1),
        help="that compute on the CPU, on all sides; default: as the engine, one less than there are cores",
    )
    parser.add_argument("--bare", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.bare:
        run_orders(arguments.bare, arguments.threads, gpu=arguments.gpu)
        return
    with tempfile.TemporaryDirectory() as folder:
        for name in arguments.model:
            path = write_bert(Path(folder) / name, SHAPES[name], head="classification")
            bench = Bench(path, arguments.threads, arguments.rounds, arguments.gpu)
            for figures in measure(bench, arguments.parts):
                print(json.dumps({"model": name, **figures}), flush=True)


if __name__ == "__main__":
    main()
