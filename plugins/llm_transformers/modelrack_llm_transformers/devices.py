"""In which type of numbers a model computes, and what memory is free there."""

from typing import Any

import psutil
import torch

from modelrack import pytorch

__all__ = ["choose_dtype", "free_bytes"]

_DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


def choose_dtype(wanted: str, config: Any, device: torch.device, weight_bytes: int) -> torch.dtype:
    """Return the type that weights are loaded in; float32 where neither the launch nor the files say.

    Args:
        wanted: the option `dtype`.
        config: the model's.
        weight_bytes: of the files.
    """
    stored = getattr(config, "dtype", None) or getattr(config.get_text_config(), "dtype", None)
    name = str(stored).removeprefix("torch.")
    return _DTYPES.get(pytorch.choose_dtype(torch, wanted, name, device, weight_bytes), torch.float32)


def free_bytes(device: torch.device) -> int:
    """Return the bytes of memory that are free on a device."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    if device.type == "xpu":
        return int(torch.xpu.mem_get_info(device)[0])
    if device.type == "mps":
        return int(torch.mps.recommended_max_memory() - torch.mps.driver_allocated_memory())
    return int(psutil.virtual_memory().available)
