"""Embedding models: what an engine implements, and the handlers made of it."""

from .contract import Embedding, EmbeddingModel, EmbeddingTraits, EmbeddingWork
from .errors import InputTooLong, too_long
from .handlers import make_handlers
from .loader import EmbeddingLoader

__all__ = [
    "Embedding",
    "EmbeddingLoader",
    "EmbeddingModel",
    "EmbeddingTraits",
    "EmbeddingWork",
    "InputTooLong",
    "make_handlers",
    "too_long",
]
