"""What engines on llama.cpp share for GGUF models that pool what they read into one vector or one score.

What belongs to an engine's description is here. A worker imports the modules: `facts` of a model's file, `memory`,
`texts` to tokens, and `models`, in which only the computing is missing.
"""

from .engines import POOLED_OPTIONS, POOLED_TYPES, accepts_gguf, estimate_by_type

__all__ = ["POOLED_OPTIONS", "POOLED_TYPES", "accepts_gguf", "estimate_by_type"]
