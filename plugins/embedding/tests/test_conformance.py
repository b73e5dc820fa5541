"""The conformance kit, pointed at the engine `sentence-transformers`."""

from collections.abc import Sequence
from pathlib import Path

from modelrack.testing.conformance import EmbeddingConformance, EmbeddingSubject, Model
from modelrack.testing.st import write_embedder, write_multi_vector, write_sparse


def embed_by_library(path: Path, texts: Sequence[str]) -> Sequence[Sequence[float]]:
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(path), device="cpu", local_files_only=True)
    return [list(map(float, row)) for row in model.encode(list(texts))]


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
    )
