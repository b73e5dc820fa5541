"""The conformance kit, pointed at the engine `sentence-transformers`."""

from collections.abc import Sequence
from pathlib import Path

from modelrack.testing.conformance import EmbeddingConformance, EmbeddingSubject, Model
from modelrack.testing.st import write_embedder, write_multi_vector, write_sparse
from modelrack_demo.heldout import load


def embed_by_library(path: Path, texts: Sequence[str]) -> Sequence[Sequence[float]]:
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(path), device="cpu", local_files_only=True)
    return [list(map(float, row)) for row in model.encode(list(texts))]


def meanings() -> tuple[tuple[str, ...], tuple[tuple[str, int], ...]]:
    """Return the facts that demo-embedding knows, and texts that its training never saw with the fact of each."""
    held_out = load()
    return held_out.passages, tuple((one.text, one.passage) for one in held_out.lookups if one.verified)


class TestSentenceTransformers(EmbeddingConformance):
    subject = EmbeddingSubject(
        engine="sentence-transformers",
        models={
            "main": Model(name=lambda folder: write_embedder(folder / "bert")),
            "narrow": Model(name=lambda folder: write_embedder(folder / "bert"), options={"queue_items": 8}),
            "shortened": Model(
                name=lambda folder: write_embedder(folder / "qwen3", kind="qwen3"), options={"matryoshka": True}
            ),
            "sparse": Model(name=lambda folder: write_sparse(folder / "splade")),
            "multi_vector": Model(name=lambda folder: write_multi_vector(folder / "colbert")),
        },
        options={"n_threads": 1},
        reference=embed_by_library,
        meanings={"demo-embedding": meanings()},
    )
