"""Rerank models: what an engine implements, and the handlers made of it."""

from .contract import RerankModel, RerankTraits, RerankWork
from .errors import document_too_long, query_too_long
from .handlers import make_handlers
from .loader import RerankLoader

__all__ = [
    "RerankLoader",
    "RerankModel",
    "RerankTraits",
    "RerankWork",
    "document_too_long",
    "make_handlers",
    "query_too_long",
]
