"""What a model has computed, as the embeddings that requests want: dense, sparse, or one for each token."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from sentence_transformers.base.modules import Normalize
from torch.nn import functional

from modelrack.batching import BatchLimits
from modelrack.embedding import Embedding

from .loading import Loaded

__all__ = ["Outputs", "outputs_of"]

_SPARSE_SHARE = 8
"""A model that scores all tokens of its vocabulary at each place takes more memory for a place."""


class Outputs:
    """One vector for each text."""

    names = frozenset({"dense"})

    def __init__(self, loaded: Loaded) -> None:
        model = loaded.model
        self._cut: int | None = getattr(model, "truncate_dim", None)
        self.dimensions: int | None = self._cut or model.get_embedding_dimension()
        last = list(model.children())[-1]
        is_scaled = isinstance(last, Normalize) and last.module_output_name == "sentence_embedding"
        self.is_normalized = is_scaled and self._cut is None and model.dtype in (None, torch.float32)

    def arguments(self, task: str | None) -> dict[str, Any]:
        """Return what the model is told beside its features."""
        return {} if task is None else {"task": task}

    def limits(self, limits: BatchLimits, wanted: int | None) -> BatchLimits:
        """Return the limits of batches, where `wanted` tokens were not asked for."""
        return limits

    def read(self, found: dict[str, Any], batch: Sequence[Any]) -> list[Embedding]:
        """Return the embeddings of a batch; float32."""
        vectors = found["sentence_embedding"]
        if self._cut is not None:
            vectors = vectors[..., : self._cut]
        return [Embedding(dense=row) for row in vectors.float().cpu().numpy()]

    def measure(self, embedding: Embedding) -> None:
        """Learn from a first embedding how long they are."""
        if embedding.dense is not None:
            self.dimensions = len(embedding.dense)


class _Sparse(Outputs):
    """Weights of tokens."""

    names = frozenset({"sparse"})

    def __init__(self, loaded: Loaded) -> None:
        super().__init__(loaded)
        self.dimensions = 0
        self._most: int | None = loaded.model.max_active_dims

    def arguments(self, task: str | None) -> dict[str, Any]:
        most = {} if self._most is None else {"max_active_dims": self._most}
        return {**super().arguments(task), **most}

    def limits(self, limits: BatchLimits, wanted: int | None) -> BatchLimits:
        if wanted is not None:
            return limits
        return replace(limits, batch_tokens=max(1, limits.batch_tokens // _SPARSE_SHARE))

    def read(self, found: dict[str, Any], batch: Sequence[Any]) -> list[Embedding]:
        from sentence_transformers.util import select_max_active_dims

        weights = found["sentence_embedding"]
        if self._most is not None:
            weights = select_max_active_dims(weights, max_active_dims=self._most)
        return [Embedding(sparse=_weights(row)) for row in weights.float().cpu()]


class _MultiVector(Outputs):
    """One vector for each token."""

    names = frozenset({"multi_vector"})

    def __init__(self, loaded: Loaded) -> None:
        super().__init__(loaded)
        self.dimensions = 0

    def arguments(self, task: str | None) -> dict[str, Any]:
        return {"task": task}

    def read(self, found: dict[str, Any], batch: Sequence[Any]) -> list[Embedding]:
        vectors, masks = found["token_embeddings"].float().cpu(), found["attention_mask"].bool().cpu()
        return [Embedding(multi_vector=rows[mask].numpy()) for rows, mask in zip(vectors, masks, strict=True)]


class _Heads(Outputs):
    """One vector for each text; weights of tokens and vectors of tokens, by two more layers on the tokens' states.

    Source: BGE M3-Embedding (arXiv 2402.03216), section 3.2: a token that occurs more than once has its largest weight;
    the first token has no vector.
    """

    names = frozenset({"dense", "sparse", "multi_vector"})

    def __init__(self, loaded: Loaded, folder: Path) -> None:
        super().__init__(loaded)
        self._sparse, self._vectors = (
            {name: value.to(loaded.device, loaded.model.dtype) for name, value in load_file(folder / file).items()}
            for file in _HEADS
        )
        tokenizer = loaded.model.tokenizer
        marks = (tokenizer.cls_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id, tokenizer.unk_token_id)
        self._marks = {mark for mark in marks if mark is not None}

    def read(self, found: dict[str, Any], batch: Sequence[Any]) -> list[Embedding]:
        """Return the embeddings of a batch, each with what is wanted of it; float32."""
        embeddings = super().read(found, batch)
        states, mask = found["token_embeddings"], found["attention_mask"].bool().cpu()
        if any("sparse" in one.outputs for one in batch):
            weights = functional.relu(functional.linear(states, **self._sparse)).squeeze(-1).float().cpu()
            ids = found["input_ids"].cpu()
            for number, one in enumerate(batch):
                if "sparse" in one.outputs:
                    row = mask[number]
                    embeddings[number].sparse = self._largest(ids[number][row].tolist(), weights[number][row].tolist())
        if any("multi_vector" in one.outputs for one in batch):
            vectors = functional.linear(states, **self._vectors).float()
            vectors = functional.normalize(vectors, dim=-1).cpu()
            for number, one in enumerate(batch):
                if "multi_vector" in one.outputs:
                    embeddings[number].multi_vector = vectors[number][mask[number]][1:].numpy()
        return embeddings

    def _largest(self, ids: list[int], weights: list[float]) -> dict[int, float]:
        found: dict[int, float] = {}
        for token, weight in zip(ids, weights, strict=True):
            if weight > found.get(token, 0.0) and token not in self._marks:
                found[token] = weight
        return found


_HEADS = ("sparse_linear.safetensors", "colbert_linear.safetensors")
"""Files of BGE-M3 beside its weights. Their makers publish them as pickles, which are not loaded."""

_KINDS: dict[str, type[Outputs]] = {"dense": Outputs, "sparse": _Sparse, "multi_vector": _MultiVector}


def outputs_of(loaded: Loaded, folder: Path) -> Outputs:
    """Return what a model makes.

    Args:
        folder: with its files.
    """
    if loaded.kind == "dense" and all((folder / name).is_file() for name in _HEADS):
        return _Heads(loaded, folder)
    return _KINDS[loaded.kind](loaded)


def _weights(row: torch.Tensor) -> dict[int, float]:
    places = row.nonzero().squeeze(1)
    return dict(zip(places.tolist(), row[places].tolist(), strict=True))
