"""Rerank models for modelrack, on sentence-transformers."""
