"""Serve language, embedding, rerank, image, audio and video models through plugins."""

__version__ = "0.1.0"
