"""How memory that a batch has used is kept for the next."""

import ctypes
import sys

__all__ = ["keep_freed_memory"]

_TRIM_THRESHOLD = -1
_MMAP_THRESHOLD = -3
_LARGEST = 1 << 30
_NEVER = (1 << 31) - 1


def keep_freed_memory() -> bool:
    """Have the C library keep what is freed, and return whether it does; only glibc is told.

    A forward pass on the CPU takes and frees the same megabytes again and again. By default they go back to the system
    and come back as zeroed pages: up to a third of the time of a batch of a small model.

    Source: mallopt(3), M_TRIM_THRESHOLD and M_MMAP_THRESHOLD.
    """
    if sys.platform != "linux":
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except AttributeError:  # another C library
        return False
    return bool(mallopt(_MMAP_THRESHOLD, _LARGEST)) and bool(mallopt(_TRIM_THRESHOLD, _NEVER))
