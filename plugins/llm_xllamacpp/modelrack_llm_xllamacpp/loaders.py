"""The loader of each type of models. Imports no engine by itself."""

from collections.abc import Mapping
from importlib import import_module

from modelrack.hooks import LoadPlan
from modelrack.worker import Loader

__all__ = ["open_loader"]

_LOADERS: Mapping[str, tuple[str, str]] = {
    "LLM": (".worker", "LlamaCppLoader"),
    "embedding": (".pooled", "GgufEmbeddingLoader"),
    "rerank": (".pooled", "GgufRerankLoader"),
}
"""Module and class by type."""


def open_loader(plan: LoadPlan) -> Loader:
    """Return what loads a model, by its type."""
    module, name = _LOADERS[plan.family.model_type]
    loader: Loader = getattr(import_module(module, __package__), name)(plan)
    return loader
