"""Where a model computes, in which type of numbers, and with how many threads.

The functions are given PyTorch, as a module: the core does not import it.
"""

from functools import lru_cache
from pathlib import Path
from typing import Any

import psutil

from ..catalog.memory import weights_of
from ..errors import LaunchFailed
from ..hooks.types import LoadPlan, Machine
from ..machine import probe

__all__ = ["SHARE", "choose_device", "choose_dtype", "expected_dtype", "has_fast_bfloat16", "use_threads"]

_BFLOAT16 = (8, 0)
"""Compute capability from which CUDA devices have bfloat16."""
SHARE = 0.8
"""Share of the free memory that weights in float32 may take before they are kept in 16 bits."""


def choose_device(torch: Any, plan: LoadPlan) -> Any:
    """Return the first device (`torch.device`) of those given to the replica; without any, the CPU.

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


def choose_dtype(torch: Any, wanted: str, stored: str | None, device: Any, weight_bytes: int) -> str:
    """Return the name of the type that weights are loaded in; `auto` where the files shall decide.

    Args:
        wanted: the option `dtype`.
        stored: of the files (`bfloat16`); None: they do not say.
        weight_bytes: of the files.
    """
    if wanted != "auto" or stored not in ("float16", "bfloat16"):
        return wanted
    if device.type == "cpu":
        is_slow = stored == "float16" or not has_fast_bfloat16()
        if is_slow and 2 * weight_bytes <= SHARE * psutil.virtual_memory().available:
            return "float32"
        return "bfloat16"
    if device.type == "cuda" and stored == "bfloat16" and torch.version.hip is None:
        return "bfloat16" if torch.cuda.get_device_capability(device) >= _BFLOAT16 else "float16"
    return stored


def expected_dtype(plan: LoadPlan, machine: Machine) -> str:
    """Return what weights will be converted to, before there is a process that could tell: by `choose_dtype`."""
    wanted: str = plan.options["dtype"]
    if wanted != "auto" or plan.accelerators or has_fast_bfloat16():
        return wanted
    weights = weights_of(plan, 4.0)
    return "float32" if weights is not None and weights <= SHARE * machine.memory_free_bytes else "bfloat16"


@lru_cache(maxsize=1)
def has_fast_bfloat16() -> bool:
    """Tell whether the CPU multiplies matrices in bfloat16 faster than in float32 (AMX); asks the system, not torch."""
    try:
        return " amx_tile" in Path("/proc/cpuinfo").read_text()
    except OSError:
        return False


def use_threads(torch: Any, n_threads: int | None) -> int:
    """Set how many threads compute on the CPU, and return the number. None: one less than there are cores.

    They wait for each other by spinning. If anything else takes a core from one of them (the server, a client,
    tokenizing), all are as slow as that one, ten times and more; so a core is left to everything else.
    """
    count = n_threads or max(1, probe().cores - 1)
    torch.set_num_threads(count)
    return count
