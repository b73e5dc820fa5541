"""How much memory a model will need, and from that how long and how many its sequences can be."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from modelrack.catalog import gguf_memory
from modelrack.catalog.gguf import GgufMetadata
from modelrack.catalog.gguf_memory import (
    cache_bytes_per_token,
    extra_weights,
    output_buffer_bytes,
)
from modelrack.errors import LaunchFailed
from modelrack.hooks import LoadPlan, Machine, MemoryEstimate

__all__ = ["Sizes", "choose_sizes", "estimate", "extra_weights"]

_SLOTS = 8
_WANTED_SLOTS = 4
_LEAST_CONTEXT = 4096
_FALLBACK_CONTEXT = 4096
"""For files that do not say what context they were trained on."""
_RUNTIME_BYTES = 64 << 20
"""The process itself, with Python and llama.cpp's code."""
_MIB = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """What was chosen: tokens for each sequence, sequences, and the bytes of their cache and of the buffers beside."""

    n_ctx: int
    n_parallel: int
    n_batch: int
    n_ubatch: int
    cache_bytes: int
    buffer_bytes: int


def choose_sizes(
    options: Mapping[str, Any], metadata: GgufMetadata, free_bytes: int, *, on_accelerator: bool, extra_bytes: int = 0
) -> Sizes:
    """Choose what the options leave open, so that the cache takes at most half of the free memory.

    Args:
        free_bytes: of the memory that the cache will lie in.
        extra_bytes: weights beside the model's.

    Raises: LaunchFailed: what the options ask for cannot fit, or nothing useful can.
    """
    weights = metadata.file_bytes + extra_bytes
    per_token = max(1, cache_bytes_per_token(metadata, options["cache_type_k"], options["cache_type_v"]))
    n_batch = options["n_batch"] or (2048 if on_accelerator else 512)
    n_ubatch = min(options["n_ubatch"], n_batch)
    buffers = output_buffer_bytes(metadata, n_batch, n_ubatch) + _RUNTIME_BYTES
    trained = metadata.context_length or _FALLBACK_CONTEXT
    unified = bool(options["kv_unified"])
    # Mapped weights that are in the page cache already are free memory to the kernel, so they are not counted twice.
    budget_tokens = max(0, free_bytes - weights - buffers) // 2 // per_token
    n_ctx = options["n_ctx"]
    if n_ctx is None:
        wanted = 1 if unified else (options["n_parallel"] or _WANTED_SLOTS)
        n_ctx = trained
        if n_ctx * wanted > budget_tokens:
            n_ctx = max(min(trained, _LEAST_CONTEXT), budget_tokens // wanted // 256 * 256)
    elif n_ctx == 0:
        n_ctx = trained
    n_parallel = options["n_parallel"]
    if n_parallel is None:
        n_parallel = _SLOTS if unified else max(1, min(_SLOTS, budget_tokens // max(1, n_ctx)))
    cache = per_token * n_ctx * (1 if unified else n_parallel)
    if cache + buffers > free_bytes:
        raise LaunchFailed(
            f"A context of {n_ctx} tokens for {n_parallel} sequence{'s' if n_parallel > 1 else ''} takes "
            f"{(cache + buffers) // _MIB} MiB beside the weights, and {free_bytes // _MIB} MiB are free.",
            remedy="Launch it with a smaller n_ctx or n_parallel, or with cache_type_k and cache_type_v q8_0.",
        )
    return Sizes(
        n_ctx=n_ctx,
        n_parallel=n_parallel,
        n_batch=n_batch,
        n_ubatch=n_ubatch,
        cache_bytes=cache,
        buffer_bytes=buffers,
    )


def estimate(plan: LoadPlan, machine: Machine) -> MemoryEstimate | None:
    """Estimate what a replica will need; None: neither its file nor its size is known.

    Raises: LaunchFailed: nothing useful fits.
    """
    return gguf_memory.estimate(plan, machine, choose_sizes, _RUNTIME_BYTES * 2)
