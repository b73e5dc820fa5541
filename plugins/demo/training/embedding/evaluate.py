"""Measure the exported embedding model: nearest neighbours, and how well the two forms agree."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from embedding.export import GGUF_NAME
from embedding.train import DIMENSIONS
from retrieval.cases import Case, held_out_cases, training_cases
from retrieval.llama import LlamaCpp
from retrieval.passages import load_passages, load_words
from retrieval.report import selection, shares, write_rows
from retrieval.tokens import compare, random_texts
from sentence_transformers import SentenceTransformer

TRAINING_CASES, RANDOM_TEXTS = 2000, 3000
KEPT = {"question": 130, "variant": 30, "statement": 90, "wrapper": 40, "fresh": 200}


def unit(vectors: np.ndarray, width: int) -> np.ndarray:
    """Return the first dimensions of vectors, scaled to length one."""
    cut = vectors[:, :width]
    return cut / np.linalg.norm(cut, axis=1, keepdims=True)


def nearest(texts: np.ndarray, passages: np.ndarray, width: int = DIMENSIONS[0]) -> np.ndarray:
    """Return the number of the nearest passage for each text."""
    return np.argmax(unit(texts, width) @ unit(passages, width).T, axis=1)


def show_wrong(cases: Sequence[Case], found: np.ndarray, passages: Sequence[str], most: int) -> None:
    """Print texts whose nearest passage is a wrong one."""
    wrong = [(case, number) for case, number in zip(cases, found, strict=True) if number != case.passage]
    for case, number in wrong[:most]:
        print(f"  {case.kind}: {case.text!r} finds {passages[number]!r}, not {passages[case.passage]!r}")


def measure(title: str, cases: Sequence[Case], vectors: np.ndarray, own: np.ndarray) -> None:
    """Print the shares of texts that find their passage, with all dimensions and with fewer."""
    for width in DIMENSIONS:
        right = nearest(vectors, own, width) == [case.passage for case in cases]
        shares(f"{title}, {width} dimensions", [case.kind for case in cases], right)


def compare_tokens(model: SentenceTransformer, llama: LlamaCpp, texts: Sequence[str]) -> None:
    """Print for how many texts the two forms see the same tokens."""
    for title, group in (("data", texts), ("random texts", random_texts(load_words(), RANDOM_TEXTS))):
        ids = model.tokenizer(list(group), split_special_tokens=True)["input_ids"]
        compare(title, group, ids, llama.tokens(group))


def write_held_out(path: Path, passages: Sequence[str], cases: Sequence[Case], right: np.ndarray) -> None:
    """Write all passages and an even selection of the held-out texts."""
    chosen = selection([case.kind for case in cases], KEPT)
    rows = [
        {"text": case.text, "passage": case.passage, "kind": case.kind, "verified": bool(right[number])}
        for number in chosen
        for case in [cases[number]]
    ]
    write_rows(path, {"passages": passages, "lookups": rows})
    print(f"{len(rows)} held-out texts, {sum(row['verified'] for row in rows)} of them right in both forms")


def main() -> None:
    """Run all measurements."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", type=Path, required=True)
    parser.add_argument("--heldout", type=Path, help="write a selection of the held-out texts to this file")
    parser.add_argument("--show", type=int, default=0, help="how many wrong answers to print")
    options = parser.parse_args()
    passages = load_passages()
    texts = [passage.text for passage in passages]
    held_out, known = held_out_cases(passages), training_cases(passages, TRAINING_CASES)
    every = texts + [case.text for case in held_out] + [case.text for case in known]
    model = SentenceTransformer(str(options.models / "safetensors"), device="cpu")
    llama = LlamaCpp(options.models / GGUF_NAME)
    wanted, right = np.array([case.passage for case in held_out]), np.ones(len(held_out), dtype=bool)
    vectors = {"safetensors": model.encode(every), "GGUF": llama.embed(every)}
    for name, found in vectors.items():
        own, asked, rest = np.split(found, [len(texts), len(texts) + len(held_out)])
        measure(f"{name}, held out", held_out, asked, own)
        measure(f"{name}, training", known, rest, own)
        right &= nearest(asked, own) == wanted
        show_wrong(held_out, nearest(asked, own), texts, options.show)
    cosines = np.sum(unit(vectors["safetensors"], 128) * unit(vectors["GGUF"], 128), axis=1)
    print(f"cosine of the two forms: least {cosines.min():.6f}, mean {cosines.mean():.6f}, {len(cosines)} texts")
    compare_tokens(model, llama, every)
    if options.heldout:
        write_held_out(options.heldout, texts, held_out, right)


if __name__ == "__main__":
    main()
