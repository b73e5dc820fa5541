"""What the conformance kit points engines of GGUF models that embed or rank at, and what they are compared with."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..hooks.types import Family, LoadPlan, ModelFiles, Variant
from ..pooling import POOLED_OPTIONS
from .conformance import EmbeddingSubject, Model, RerankSubject
from .gguf_bert import BERT, bert_weights, wordpiece_vocabulary, write_bert_model, write_decoder_model
from .numpy_bert import NumpyBert

__all__ = ["embedding_subject", "pooled_plan", "reference_bert", "rerank_subject"]

_TOLERANCE = 1e-3
"""Attention reads keys and values in 16 bits."""
_REFERENCE_TOLERANCE = 3e-3
"""So do llama.cpp's activations, from a table."""
_FEW = {"queue_items": 8}


def reference_bert(*, head: bool, seed: int = 0) -> NumpyBert:
    """Return what `write_bert_model` writes, computed with numpy."""
    tokens = wordpiece_vocabulary()
    return NumpyBert(bert_weights(BERT, seed, len(tokens), head=head), tokens, BERT.heads)


def embedding_subject(engine: str, **further: Any) -> EmbeddingSubject:
    """Return the subject of an engine that embeds with GGUF models."""
    return EmbeddingSubject(
        engine=engine,
        models={
            "main": Model(name=_write_mean),
            "narrow": Model(name=_write_mean, options=_FEW),
            "shortened": Model(
                name=lambda folder: write_decoder_model(folder / "last.gguf"), options={"matryoshka": True}
            ),
        },
        options={"n_threads": 1},
        tolerance=_TOLERANCE,
        reference=_embed,
        reference_tolerance=_REFERENCE_TOLERANCE,
        **further,
    )


def rerank_subject(engine: str, **further: Any) -> RerankSubject:
    """Return the subject of an engine that ranks with GGUF models."""
    return RerankSubject(
        engine=engine,
        models={"main": Model(name=_write_rank), "narrow": Model(name=_write_rank, options=_FEW)},
        options={"n_threads": 1},
        tolerance=_TOLERANCE,
        reference=_rank,
        reference_tolerance=_REFERENCE_TOLERANCE,
        **further,
    )


def _write_mean(folder: Path) -> Path:
    return write_bert_model(folder / "mean.gguf")


def _write_rank(folder: Path) -> Path:
    return write_bert_model(folder / "rank.gguf", pooling="rank")


def _embed(path: Path, texts: Sequence[str]) -> Sequence[Sequence[float]]:
    model = reference_bert(head=False)
    return [list(map(float, model.embed(text, "mean"))) for text in texts]


def _rank(path: Path, query: str, documents: Sequence[str]) -> Sequence[float]:
    model = reference_bert(head=True)
    return [1 / (1 + math.exp(-model.score(query, document))) for document in documents]


def pooled_plan(path: Path, model_type: str, facts: Mapping[str, Any] | None = None, **options: Any) -> LoadPlan:
    """Return the plan of a launch of a GGUF model that embeds or ranks, for loading it in this process."""
    return LoadPlan(
        model_uid=path.stem,
        family=Family(name=path.stem, model_type=model_type, facts=facts or {}),
        variant=Variant(format="gguf"),
        quantization="none",
        files=ModelFiles(path=str(path), format="gguf"),
        options=POOLED_OPTIONS[model_type].model_validate({"n_threads": 1, **options}).model_dump(),
    )
