"""`torch.compile` around the steps of `generate`, with a cache of a fixed size and CUDA graphs."""

from collections.abc import Callable, Mapping
from typing import Any

import torch

from modelrack.errors import LaunchFailed

__all__ = ["compile_settings"]

_LEAST = 1024
"""Tokens of the smallest cache: each size is compiled for on its own."""


def compile_settings(
    options: Mapping[str, Any], model: Any, device: torch.device
) -> Callable[[int], dict[str, Any]] | None:
    """Return what a `GenerationConfig` must say so that steps are compiled, by the most tokens of a sequence; or None.

    Args:
        options: with `compile`.

    Raises: LaunchFailed: it would not pay, or cannot be done.
    """
    if not options["compile"]:
        return None
    if device.type not in ("cuda", "xpu"):
        raise LaunchFailed(
            "Compiling needs an accelerator: on the CPU, Transformers does not compile the steps of `generate`.",
            remedy="Launch it without the option compile.",
        )
    if not getattr(model, "_can_compile_fullgraph", False):
        raise LaunchFailed(
            f"Transformers cannot compile {type(model).__name__}.", remedy="Launch it without the option compile."
        )

    def settings(length: int) -> dict[str, Any]:
        size = max(_LEAST, 1 << (length - 1).bit_length())
        return {"cache_implementation": "static", "max_cache_len": size}

    return settings
