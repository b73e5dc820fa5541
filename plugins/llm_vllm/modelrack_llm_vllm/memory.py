"""How much memory a replica of vLLM takes: it sets its attention cache aside when it starts."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from modelrack.catalog.memory import cache_bytes, dtype_bytes, estimate_reserving, shape_of
from modelrack.hooks import LoadPlan, Machine, MemoryEstimate

__all__ = ["cache_space", "estimate"]

_SHARE = 0.9
"""vLLM's own default of `gpu_memory_utilization`."""
_GIB = 1 << 30
_LEAST, _MOST = 1 * _GIB, 4 * _GIB
_PROCESSES = 1600 << 20
"""Its three processes without weights and cache (measured: 1.5 GiB of memory of their own on the CPU)."""


def estimate(plan: LoadPlan, machine: Machine) -> MemoryEstimate | None:
    """Estimate a replica; None: nothing is known of the model.

    Raises: LaunchFailed: the cache would not hold one sequence of the full length.
    """
    options = plan.options
    return estimate_reserving(
        plan,
        machine,
        share=options["gpu_memory_utilization"] or _SHARE,
        cache_space_bytes=cache_space(plan),
        context=options["max_model_len"],
        batched_tokens=options["max_num_batched_tokens"] or 2048,
        sequences=options["max_num_seqs"] or 256,
        dtype=options["dtype"],
        cache_dtype=_cache_type(options),
        extra_bytes=_adapter_bytes(plan),
        process_bytes=_PROCESSES,
    )


def cache_space(plan: LoadPlan) -> int | None:
    """Return the bytes of the cache; None: what is left of the devices' memory."""
    given = plan.options["kv_cache_gb"]
    if given is not None:
        return int(given * _GIB)
    return None if plan.accelerators else _on_cpus(plan)


def _on_cpus(plan: LoadPlan) -> int:
    """Return what is set aside for the cache on the CPU where the launch says nothing: one long sequence, or more."""
    shape = shape_of(plan)
    if shape is None:
        return _LEAST
    options = plan.options
    tokens = options["max_model_len"] or shape.context_length or 0
    one = cache_bytes(shape, tokens, 1, dtype_bytes(_cache_type(options), dtype_bytes(options["dtype"])))
    return max(_LEAST, min(_MOST, one))


def _cache_type(options: Mapping[str, Any]) -> str | None:
    given = options["kv_cache_dtype"]
    return "fp8" if given and given.startswith("fp8") else given


def _adapter_bytes(plan: LoadPlan) -> int:
    return sum(file.stat().st_size for _, folder in plan.lora for file in Path(folder).glob("*.safetensors"))
