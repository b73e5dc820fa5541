"""Rerank models: what an engine implements, and the handlers made of it."""

from .contract import RerankModel, RerankTraits, RerankWork
from .handlers import make_handlers

__all__ = ["RerankModel", "RerankTraits", "RerankWork", "make_handlers"]
