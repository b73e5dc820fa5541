"""How much memory a model will need, and from that how long its sequences can be and how many cells they share."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from modelrack.catalog import gguf_memory
from modelrack.catalog.gguf import GgufMetadata
from modelrack.catalog.gguf_memory import (
    cache_bytes_per_token,
    extra_weights,
    output_buffer_bytes,
    read_model,
)
from modelrack.errors import BadRequest, LaunchFailed
from modelrack.hooks import LoadPlan, Machine, MemoryEstimate

__all__ = ["Sizes", "choose_sizes", "estimate", "extra_weights"]

_LEAST_CONTEXT = 4096
_FALLBACK_CONTEXT = 4096
"""For files that do not say what context they were trained on."""
_MOST_CELLS = 65_536
"""More are rarely in use at once, and every sequence that ends makes llama.cpp look at each of them."""
_MOST_IDLE = 8192
"""Every step looks at them too: 2048 made 8 sequences of a 100M model 6 % slower on a CPU, larger models less."""
_BLOCK = 256
"""llama.cpp rounds cells up to this."""
_RUNTIME_BYTES = 96 << 20
"""The process itself, with Python, numpy and llama.cpp's code."""
_MIB = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """What was chosen: tokens of a sequence, sequences, cells for all of them, and the bytes these take."""

    n_ctx: int
    n_parallel: int
    cells: int
    prefix_cells: int
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

    Raises: LaunchFailed: what the options ask for cannot fit.
    """
    per_token = max(1, _bytes_per_token(metadata, options) + _draft_bytes_per_token(options))
    n_batch = options["n_batch"] or (2048 if on_accelerator else 512)
    n_ubatch = min(options["n_ubatch"], n_batch)
    n_parallel = options["n_parallel"]
    buffers = output_buffer_bytes(metadata, n_batch, n_ubatch) + _RUNTIME_BYTES
    trained = metadata.context_length or _FALLBACK_CONTEXT
    # Mapped weights that are in the page cache already are free memory to the kernel, so they are not counted twice.
    budget = max(0, free_bytes - metadata.file_bytes - extra_bytes - buffers) // 2 // per_token
    n_ctx, cells = options["n_ctx"], options["kv_cells"]
    if n_ctx is None:
        n_ctx = trained
        if n_ctx > budget:
            n_ctx = max(min(trained, _LEAST_CONTEXT), budget // _BLOCK * _BLOCK)
    elif n_ctx == 0:
        n_ctx = trained
    if cells is None:
        cells = max(n_ctx, min(n_ctx * n_parallel, _MOST_CELLS, budget))
    cells = -(-cells // _BLOCK) * _BLOCK
    n_ctx = min(n_ctx, cells)
    prefix_cells = options["prefix_cells"]
    if prefix_cells is None:
        prefix_cells = min(_MOST_IDLE, cells // 2)
    cache = per_token * cells
    if cache + buffers > free_bytes:
        raise LaunchFailed(
            f"A cache of {cells} tokens takes {(cache + buffers) // _MIB} MiB beside the weights, and "
            f"{free_bytes // _MIB} MiB are free.",
            remedy="Launch it with a smaller n_ctx or kv_cells, or with cache_type_k and cache_type_v q8_0.",
        )
    return Sizes(
        n_ctx=n_ctx,
        n_parallel=n_parallel,
        cells=cells,
        prefix_cells=min(prefix_cells, cells),
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


def _bytes_per_token(metadata: GgufMetadata, options: Mapping[str, Any]) -> int:
    return cache_bytes_per_token(metadata, options["cache_type_k"], options["cache_type_v"])


def _draft_bytes_per_token(options: Mapping[str, Any]) -> int:
    """Return what a cell of the draft model's cache takes, which has as many as the model's."""
    path = options.get("draft_model")
    if not path:
        return 0
    try:
        return _bytes_per_token(read_model(path), options)
    except BadRequest:
        # It is refused, with the reason, when it is loaded.
        return 0
