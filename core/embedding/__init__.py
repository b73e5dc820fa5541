"""Embedding models: what an engine implements, and the handlers made of it."""

from .contract import Embedding, EmbeddingModel, EmbeddingTraits, EmbeddingWork
from .handlers import make_handlers

__all__ = ["Embedding", "EmbeddingModel", "EmbeddingTraits", "EmbeddingWork", "make_handlers"]
