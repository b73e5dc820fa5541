"""What engines for encoder models on PyTorch share: options, memory, devices, number types, folders and loading.

An engine's plugin may use all of it, or none. What needs PyTorch is given it.
"""

from ..pytorch import attempt, choose_device, choose_dtype, telling, use_threads
from .allocation import keep_freed_memory
from .folders import check_weights, stored_dtype
from .interruption import Interrupted, Interruption
from .memory import estimate
from .options import EncoderOptions, batch_limits
from .tokens import TextTokenizer, make_token_handlers

__all__ = [
    "EncoderOptions",
    "Interrupted",
    "Interruption",
    "TextTokenizer",
    "attempt",
    "batch_limits",
    "check_weights",
    "choose_device",
    "choose_dtype",
    "estimate",
    "keep_freed_memory",
    "make_token_handlers",
    "stored_dtype",
    "telling",
    "use_threads",
]
