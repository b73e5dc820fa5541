"""How much memory a replica will take, as the server reckons it before it starts; imports no engine."""

from pathlib import Path

from modelrack.catalog.memory import estimate_torch, shape_of
from modelrack.catalog.weights import folder_weights
from modelrack.hooks import LoadPlan, Machine, MemoryEstimate
from modelrack.pytorch import expected_dtype

__all__ = ["estimate"]

_CPU_SEQUENCES = 8
_SEQUENCES = 256
_CPU_STEP = 256
_STEP = 2048
_MOST_TOKENS = 65_536
_DEFAULT_CONTEXT = 4096
"""As in sizes.py, which needs torch."""


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
        dtype=expected_dtype(plan, machine),
        quantization=None if wanted == "none" else wanted.removeprefix("bnb-").replace("bit", "-bit"),
        extra_bytes=sum(folder_weights(Path(path)) or 0 for path in beside if Path(path).is_dir()),
    )
