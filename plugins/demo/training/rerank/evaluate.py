"""Measure the exported rerank model: is the right document first, on which side of 0.5, do the two forms agree?"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from rerank.cases import Choice, choices
from rerank.export import GGUF_NAME
from retrieval.cases import held_out_cases, training_cases
from retrieval.llama import LlamaCpp
from retrieval.passages import load_passages
from retrieval.report import selection, shares, write_rows
from sentence_transformers import CrossEncoder, SentenceTransformer

TRAINING_CASES = 200
HELD_OUT_CASES = {"question": 500, "variant": 100, "statement": 200, "wrapper": 100, "fresh": 200}
KEPT = {"question": 80, "variant": 20, "statement": 40, "wrapper": 20, "fresh": 50}


def sigmoid(values: np.ndarray) -> np.ndarray:
    """Return the logistic function of values."""
    return 1 / (1 + np.exp(-values))


def torch_scores(model: CrossEncoder, asked: Sequence[Choice], passages: Sequence[str]) -> np.ndarray:
    """Return the scores of all candidates, of shape (choices, candidates), between 0 and 1."""
    pairs = [(choice.case.text, passages[number]) for choice in asked for number in choice.candidates]
    return model.predict(pairs, batch_size=64, show_progress_bar=False).reshape(len(asked), -1)


def llama_scores(llama: LlamaCpp, asked: Sequence[Choice], passages: Sequence[str]) -> np.ndarray:
    """Return the same from llama.cpp."""
    rows = [llama.scores(choice.case.text, [passages[n] for n in choice.candidates]) for choice in asked]
    return sigmoid(np.array(rows))


def places(asked: Sequence[Choice]) -> np.ndarray:
    """Return where the right candidate of each choice is."""
    return np.array([choice.candidates.index(choice.case.passage) for choice in asked])


def first_is_right(asked: Sequence[Choice], scores: np.ndarray) -> np.ndarray:
    """Return for each choice whether the right candidate has the highest score."""
    return np.argmax(scores, axis=1) == places(asked)


def measure(title: str, asked: Sequence[Choice], scores: np.ndarray) -> None:
    """Print how often the right candidate is first, and how many candidates are on their side of 0.5."""
    shares(f"{title}, right one first", [choice.case.kind for choice in asked], first_is_right(asked, scores))
    own = np.zeros_like(scores, dtype=bool)
    own[np.arange(len(asked)), places(asked)] = True
    good, bad = np.mean(scores[own] > 0.5), np.mean(scores[~own] < 0.5)
    print(f"{title}: {100 * good:.1f} % of the right above 0.5, {100 * bad:.1f} % of the others below", flush=True)


def show_wrong(asked: Sequence[Choice], scores: np.ndarray, passages: Sequence[str], most: int) -> None:
    """Print choices in which a wrong candidate comes first."""
    wrong = [pair for pair in zip(asked, scores, strict=True) if not first_is_right([pair[0]], pair[1][None])[0]]
    for choice, row in wrong[:most]:
        best, own = int(np.argmax(row)), choice.candidates.index(choice.case.passage)
        first, wanted = passages[choice.candidates[best]], passages[choice.case.passage]
        print(f"  {choice.case.kind}: {choice.case.text!r}: {row[best]:.2f} {first!r}, {row[own]:.2f} {wanted!r}")


def write_held_out(path: Path, asked: Sequence[Choice], right: np.ndarray) -> None:
    """Write choices, and whether both forms are right about them."""
    rows = []
    for choice, is_right in zip(asked, right, strict=True):
        place = choice.candidates.index(choice.case.passage)
        row = {"query": choice.case.text, "documents": choice.candidates, "right": place, "kind": choice.case.kind}
        rows.append(row | {"verified": bool(is_right)})
    write_rows(path, {"choices": rows})
    print(f"{len(rows)} held-out choices, {sum(row['verified'] for row in rows)} of them right in both forms")


def main() -> None:
    """Run all measurements."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", type=Path, required=True)
    parser.add_argument("--embedding", type=Path, required=True, help="the folder of the embedding model")
    parser.add_argument("--heldout", type=Path, help="write a selection of the held-out choices to this file")
    parser.add_argument("--show", type=int, default=0, help="how many wrong answers to print")
    options = parser.parse_args()
    passages = load_passages()
    texts = [passage.text for passage in passages]
    held_out = held_out_cases(passages)
    held_out = [held_out[number] for number in selection([case.kind for case in held_out], HELD_OUT_CASES)]
    cases = held_out + training_cases(passages, TRAINING_CASES)
    encoder = SentenceTransformer(str(options.embedding), device="cpu")
    asked = choices(cases, passages, encoder.encode([case.text for case in cases]) @ encoder.encode(texts).T)
    scores = torch_scores(CrossEncoder(str(options.models / "safetensors"), device="cpu"), asked, texts)
    count = len(held_out)
    measure("safetensors, held out", asked[:count], scores[:count])
    measure("safetensors, training", asked[count:], scores[count:])
    show_wrong(asked[:count], scores[:count], texts, options.show)
    kept = selection([case.kind for case in held_out], KEPT)
    some, first = [asked[number] for number in kept], scores[kept]
    second = llama_scores(LlamaCpp(options.models / GGUF_NAME, rerank=True), some, texts)
    measure("safetensors, those kept", some, first)
    measure("GGUF, those kept", some, second)
    same = 100 * np.mean(np.argmax(first, axis=1) == np.argmax(second, axis=1))
    print(f"the two forms: the same document first in {same:.1f} %, largest gap {np.abs(first - second).max():.4f}")
    if options.heldout:
        write_held_out(options.heldout, some, first_is_right(some, first) & first_is_right(some, second))


if __name__ == "__main__":
    main()
