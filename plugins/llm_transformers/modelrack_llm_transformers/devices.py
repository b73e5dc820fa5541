"""Where a model computes, and in which type of numbers."""

from typing import Any

import psutil
import torch

from modelrack.errors import LaunchFailed
from modelrack.hooks import LoadPlan

__all__ = ["choose_device", "choose_dtype", "free_bytes"]

_DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
_BFLOAT16 = (8, 0)
"""Compute capability from which CUDA devices have bfloat16."""
_SHARE = 0.8
"""Share of the free memory that weights in float32 may take before they are kept in 16 bits."""


def choose_device(plan: LoadPlan) -> torch.device:
    """Return the first device of those given to the replica; without any, the CPU.

    Raises: LaunchFailed: this build of PyTorch sees none of them.
    """
    if not plan.accelerators:
        return torch.device("cpu")
    if torch.cuda.is_available():
        return torch.device("cuda", 0)
    if torch.xpu.is_available():
        return torch.device("xpu", plan.accelerators[0])
    if torch.backends.mps.is_available():
        return torch.device("mps", 0)
    raise LaunchFailed(
        f"PyTorch {torch.__version__} sees none of the accelerators {list(plan.accelerators)} given to the model.",
        remedy="Install a build of PyTorch for them, let the server make an environment (--env isolated), or launch it "
        "on the CPU (--n-gpu 0).",
    )


def choose_dtype(wanted: str, config: Any, device: torch.device, weight_bytes: int) -> torch.dtype:
    """Return the type that weights are loaded in.

    Args:
        wanted: the option `dtype`.
        config: the model's.
        weight_bytes: of the files.
    """
    if wanted != "auto":
        return _DTYPES[wanted]
    stored = getattr(config, "dtype", None) or getattr(config.get_text_config(), "dtype", None)
    if isinstance(stored, str):
        stored = _DTYPES.get(stored.removeprefix("torch."))
    dtype = stored if stored in _DTYPES.values() else torch.float32
    if device.type == "cpu" and dtype != torch.float32:
        is_slow = dtype == torch.float16 or not _computes_bfloat16()
        if is_slow and 2 * weight_bytes <= _SHARE * free_bytes(device):
            return torch.float32
        return torch.bfloat16
    if device.type == "cuda" and dtype == torch.bfloat16 and torch.version.hip is None:
        capability = torch.cuda.get_device_capability(device)
        return torch.bfloat16 if capability >= _BFLOAT16 else torch.float16
    return dtype


def _computes_bfloat16() -> bool:
    """Return whether the CPU multiplies matrices in bfloat16 faster than in float32."""
    known = torch.backends.cpu.get_cpu_capability()
    has_amx = getattr(torch.cpu, "_is_amx_tile_supported", None)
    return known in ("AVX512", "SVE256") and bool(has_amx is not None and has_amx())


def free_bytes(device: torch.device) -> int:
    """Return the bytes of memory that are free on a device."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    if device.type == "xpu":
        return int(torch.xpu.mem_get_info(device)[0])
    if device.type == "mps":
        return int(torch.mps.recommended_max_memory() - torch.mps.driver_allocated_memory())
    return int(psutil.virtual_memory().available)
