"""What engines on PyTorch share: devices, types of numbers, and loading under watch.

An engine's plugin may use all of it, or none. What needs PyTorch is given it, as a module: the core does not import it.
"""

from .devices import SHARE, choose_device, choose_dtype, expected_dtype, has_fast_bfloat16, use_threads
from .loading import attempt, telling
from .options import RemoteCode

__all__ = [
    "SHARE",
    "RemoteCode",
    "attempt",
    "choose_device",
    "choose_dtype",
    "expected_dtype",
    "has_fast_bfloat16",
    "telling",
    "use_threads",
]
