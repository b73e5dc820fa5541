"""How much memory a replica will take, as the server reckons it before it starts; imports no engine."""

from functools import lru_cache
from pathlib import Path

from modelrack.catalog.memory import estimate_torch, shape_of, weights_of
from modelrack.catalog.weights import folder_weights
from modelrack.hooks import LoadPlan, Machine, MemoryEstimate

__all__ = ["estimate"]

_CPU_SEQUENCES = 8
_SEQUENCES = 256
_CPU_STEP = 256
_STEP = 2048
_MOST_TOKENS = 65_536
_DEFAULT_CONTEXT = 4096
"""As in sizes.py, which needs torch."""
_SHARE = 0.8
"""Share of the free memory that weights in float32 may take before they are kept in 16 bits, as in devices.py."""


def estimate(plan: LoadPlan, machine: Machine) -> MemoryEstimate | None:
    """Estimate what a replica will take; None: neither the model's files nor its size are known."""
    options = plan.options
    on_cpu = not plan.accelerators
    shape = shape_of(plan)
    most = options["max_num_seqs"] or (_CPU_SEQUENCES if on_cpu else _SEQUENCES)
    context = options["max_model_len"] or (shape and shape.context_length) or _DEFAULT_CONTEXT
    tokens = options["kv_tokens"]
    share = options["kv_memory_fraction"]
    if on_cpu and tokens is None:
        tokens, share = min(most * context, max(_MOST_TOKENS, context)), share / 2
    beside = [path for _, path in plan.lora] + [path for path in (options["draft_model"],) if path]
    wanted = options["quantization"]
    return estimate_torch(
        plan,
        machine,
        sequences=most,
        cache_tokens=tokens,
        cache_share=share,
        batched_tokens=options["max_batch_tokens"] or (_CPU_STEP if on_cpu else _STEP),
        dtype=_dtype(plan, machine),
        quantization=None if wanted == "none" else wanted.removeprefix("bnb-").replace("bit", "-bit"),
        extra_bytes=sum(folder_weights(Path(path)) or 0 for path in beside if Path(path).is_dir()),
    )


def _dtype(plan: LoadPlan, machine: Machine) -> str | None:
    """Return what weights are converted to: on a CPU that is slow in 16 bits float32, if memory allows."""
    wanted: str = plan.options["dtype"]
    if wanted != "auto" or plan.accelerators or _computes_bfloat16():
        return wanted
    weights = weights_of(plan, 4.0)
    return "float32" if weights is not None and weights <= _SHARE * machine.memory_free_bytes else "bfloat16"


@lru_cache(maxsize=1)
def _computes_bfloat16() -> bool:
    """Tell whether the CPU has AMX, without asking torch."""
    try:
        return " amx_tile" in Path("/proc/cpuinfo").read_text()
    except OSError:
        return False
