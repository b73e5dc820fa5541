"""Embedding models for modelrack: families, and an engine on sentence-transformers."""
