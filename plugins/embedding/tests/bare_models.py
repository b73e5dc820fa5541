"""Load a model in the test's own process, and embed with it as the batcher would."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from modelrack.embedding import Embedding, EmbeddingWork
from modelrack.errors import ModelrackError
from modelrack.hooks import Family, LoadPlan, ModelFiles, Variant
from modelrack_embedding.loading import load
from modelrack_embedding.model import SentenceModel
from modelrack_embedding.options import SentenceTransformersOptions

TEXTS = (
    "The largest animal is a blue whale.",
    "hello",
    "What is it? " * 5,
    "x" * 60,
    "Grüße, 你好 🐋🦭! नमस्ते",
    "\n\t  white space   everywhere \r\n",
    "where is the capital of this country and how many people are in it by day and by night",
)


def make_plan(folder: Path, facts: Mapping[str, Any] | None = None, **options: Any) -> LoadPlan:
    return LoadPlan(
        model_uid="it",
        family=Family(name="it", model_type="embedding", facts=facts or {}),
        variant=Variant(format="pytorch"),
        quantization="none",
        files=ModelFiles(path=str(folder), format="pytorch"),
        options=SentenceTransformersOptions.model_validate({"n_threads": 1, **options}).model_dump(mode="json"),
    )


def open_model(folder: Path, facts: Mapping[str, Any] | None = None, **options: Any) -> SentenceModel:
    plan = make_plan(folder, facts, **options)
    return SentenceModel(load(plan, lambda progress, stage: None), plan)


def library(folder: Path, name: str = "SentenceTransformer", **arguments: Any) -> Any:
    """Return the model as the library alone loads it."""
    import sentence_transformers

    return getattr(sentence_transformers, name)(str(folder), device="cpu", local_files_only=True, **arguments)


def works(texts: Sequence[Any], **fields: Any) -> list[EmbeddingWork]:
    return [EmbeddingWork(index, text, **fields) for index, text in enumerate(texts)]


def embed(model: SentenceModel, given: Sequence[EmbeddingWork]) -> list[Embedding]:
    """Embed works, those of one group in one batch, sorted by length; return their embeddings in order."""
    prepared = []
    for one in model.prepare(given):
        if isinstance(one, ModelrackError):
            raise one
        prepared.append(one)
    found: dict[int, Embedding] = {}
    for group in dict.fromkeys(one.group for one in prepared):
        places = [place for place, one in enumerate(prepared) if one.group == group]
        places.sort(key=lambda place: prepared[place].tokens)
        batch = model.run([prepared[place].payload for place in places])
        found |= dict(zip(places, batch, strict=True))
    return [found[place] for place in range(len(given))]


def tokens(model: SentenceModel, given: Sequence[EmbeddingWork]) -> list[int]:
    """Return how many tokens of each are read."""
    counted = []
    for one in model.prepare(given):
        if isinstance(one, ModelrackError):
            raise one
        counted.append(one.tokens)
    return counted


def apart(found: Sequence[Embedding], expected: Any) -> float:
    """Return how far dense embeddings are from what the library gave, at most."""
    import numpy as np

    assert all(one.dense.dtype == np.float32 for one in found)
    return max(float(np.abs(one.dense - np.asarray(row)).max()) for one, row in zip(found, expected, strict=True))
