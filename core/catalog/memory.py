"""How much memory a replica will need: weights, cache, buffers; for the `estimate` of every engine.

Nothing here knows an engine. What an engine sets aside, and for how many tokens and sequences, its plugin says.
"""

import hashlib
import json
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from ..errors import BadRequest, LaunchFailed
from ..hooks.types import Accelerator, LoadPlan, Machine, MemoryEstimate
from .gguf_memory import free_memory, read_model
from .local import inspect_files
from .shapes import Shape, shape_of_config, shape_of_gguf, typical_shape
from .weights import DTYPE_BYTES, folder_weights, weights_by_size

__all__ = [
    "DEFAULT_CONTEXT",
    "activation_bytes",
    "cache_bytes",
    "corrected",
    "devices_of",
    "dtype_bytes",
    "estimate_encoder",
    "estimate_plainly",
    "estimate_reserving",
    "estimate_torch",
    "measure_key",
    "shape_of",
    "total_bytes",
    "weights_of",
]

DEFAULT_CONTEXT = 4096
"""Tokens that are reckoned with where neither the launch nor the model says how many."""

TORCH_BYTES = 450 << 20
"""A process that has imported PyTorch and an engine on it (measured: 350 to 500 MiB on the CPU)."""

CUDA_BYTES = 500 << 20
"""What a process takes on an accelerator before it loads anything: its context and the libraries' workspaces."""

_PROCESS_BYTES = 128 << 20
"""A process of an engine that says nothing of itself."""
_PLAIN_BATCH = 512

_WRITES = frozenset({"chat", "generate"})
_WRITES_NOTHING = frozenset({"embed", "rerank"})
"""Abilities of models that keep a cache of what they have read, and of such that read a text once."""

_GIB = 1 << 30


def dtype_bytes(name: str | None, default: float = 2.0) -> float:
    """Return the bytes of a number of a type, by any of its names (`bfloat16`, `fp8`); `default` for None and `auto`.

    Raises: BadRequest: no such type is known.
    """
    if name is None or name == "auto":
        return default
    plain = name.lower().removeprefix("torch.")
    plain = "fp8" if plain.startswith("fp8") else plain
    if plain not in DTYPE_BYTES:
        raise BadRequest(f"'{name[:50]}' is no known type of numbers.", param="dtype")
    return DTYPE_BYTES[plain]


def shape_of(plan: LoadPlan) -> Shape | None:
    """Return the shape of a model: by its files if they are here, else that of a model of its size; None if unknown.

    Raises: BadRequest: its files are broken.
    """
    shape: Shape | None = None
    if plan.files.path:
        found = inspect_files(plan.files)
        shape = shape_of_gguf(read_model(found.gguf.path)) if found.gguf else shape_of_config(found.metadata)
    size = plan.variant.size_b
    if shape is None and size:
        shape = replace(typical_shape(size), context_length=plan.family.context_length)
    return shape


def weights_of(plan: LoadPlan, dtype: float | None = None) -> int | None:
    """Return the bytes of a model's weights once they are loaded; None if neither files nor size are known.

    Args:
        dtype: bytes of a number where weights are converted while loading; None: as the files have them.
    """
    path = Path(plan.files.path) if plan.files.path else None
    if path is not None and path.is_dir():
        found = folder_weights(path, dtype)
        if found is not None:
            return found
    elif path is not None and plan.files.format == "gguf":
        return read_model(str(path)).file_bytes
    elif path is not None and path.is_file():
        return path.stat().st_size
    if not plan.variant.size_b:
        return None
    return weights_by_size(plan.variant.size_b, plan.quantization, plan.variant.format, shape_of(plan), dtype or 2.0)


def cache_bytes(shape: Shape, tokens: int, sequences: int = 1, value_bytes: float = 2.0) -> int:
    """Return the bytes that sequences of so many tokens keep, over all layers."""
    return int(shape.cache_values(tokens, sequences) * value_bytes)


def activation_bytes(shape: Shape, tokens: int, rows: int = 1, value_bytes: float = 2.0) -> int:
    """Return roughly what a forward pass takes beside weights and cache.

    Args:
        tokens: computed at once: for each, the residual stream, queries, keys and values, and the feed-forward layer.
        rows: of logits, in float32, with a copy for sampling.
    """
    return int(tokens * (4 * shape.width + 3 * shape.hidden) * value_bytes) + 8 * rows * shape.vocabulary


def devices_of(plan: LoadPlan, machine: Machine) -> list[Accelerator]:
    """Return the accelerators that a replica was given."""
    return [device for device in machine.accelerators if device.index in plan.accelerators]


def estimate_torch(
    plan: LoadPlan,
    machine: Machine,
    *,
    context: int | None = None,
    sequences: int = 1,
    cache_tokens: int | None = None,
    cache_share: float | None = None,
    batched_tokens: int = 2048,
    dtype: str | None = None,
    cache_dtype: str | None = None,
    quantization: str | None = None,
    extra_bytes: int = 0,
) -> MemoryEstimate | None:
    """Estimate a replica of an engine on PyTorch that is given its cache after loading. None: nothing is known of it.

    Args:
        context: tokens of each sequence; None: as many as the model was trained on, but not over `DEFAULT_CONTEXT`.
        sequences: answered at once.
        cache_tokens: that the cache holds over all sequences, where they share it; else `context` for each.
        cache_share: of the memory left after loading that the cache takes at most; if neither `cache_tokens` nor
            `context` is given, the cache takes all of that.
        batched_tokens: computed at once.
        dtype: what weights are converted to; None or `auto`: what the files have (2 bytes before a download).
        cache_dtype: of the cache; None: `dtype`.
        quantization: that weights are given while loading (`4-bit`).
        extra_bytes: weights beside the model's (adapters, a draft model).
    """
    own = None if dtype in (None, "auto") else dtype_bytes(dtype)
    weights, shape = weights_of(plan, own), shape_of(plan)
    if weights is None:
        return None
    if quantization is not None:
        weights = weights_by_size(weights / (own or 2.0) / 1e9, quantization, "quantized", shape, own or 2.0)
    overhead, cache = CUDA_BYTES * len(plan.accelerators), 0
    value = dtype_bytes(cache_dtype, own or 2.0)
    if shape is not None:
        overhead += activation_bytes(shape, batched_tokens, sequences, own or 2.0)
        each = context or min(shape.context_length or DEFAULT_CONTEXT, DEFAULT_CONTEXT)
        cache = cache_bytes(shape, cache_tokens or each, 1 if cache_tokens else sequences, value)
    if cache_share is not None:
        limit = int(cache_share * max(0, free_memory(machine, plan.accelerators) - weights - extra_bytes - overhead))
        cache = min(cache, limit) if cache_tokens or context else limit
    on_device = bool(plan.accelerators)
    return MemoryEstimate(
        weights_bytes=weights + extra_bytes,
        cache_bytes=cache,
        overhead_bytes=overhead + (0 if on_device else TORCH_BYTES),
        host_bytes=TORCH_BYTES if on_device else 0,
    )


def estimate_reserving(
    plan: LoadPlan,
    machine: Machine,
    *,
    share: float,
    cache_space_bytes: int | None = None,
    context: int | None = None,
    batched_tokens: int = 2048,
    sequences: int = 256,
    dtype: str | None = None,
    cache_dtype: str | None = None,
    extra_bytes: int = 0,
    process_bytes: int = TORCH_BYTES,
) -> MemoryEstimate | None:
    """Estimate a replica that sets its cache aside when it starts (vLLM). None: nothing is known of the model.

    Args:
        share: of the total memory of its devices that it takes (`gpu_memory_utilization`); on the CPU of main memory.
        cache_space_bytes: of the cache, where it is set (`VLLM_CPU_KVCACHE_SPACE`); None: what is left of the share.
        context: tokens of the longest sequence; None: as many as the model was trained on.
        process_bytes: main memory of its processes, without weights and cache.

    Raises: LaunchFailed: the cache would not hold one sequence of that length.
    """
    own = None if dtype in (None, "auto") else dtype_bytes(dtype)
    weights, shape = weights_of(plan, own), shape_of(plan)
    if weights is None:
        return None
    weights += extra_bytes
    devices = devices_of(plan, machine)
    total = sum(device.memory_total_bytes for device in devices) or machine.memory_total_bytes
    overhead = CUDA_BYTES * len(devices) if devices else process_bytes
    least = 0
    if shape is not None:
        overhead += activation_bytes(shape, batched_tokens, sequences, own or 2.0)
        tokens = context or shape.context_length or DEFAULT_CONTEXT
        least = cache_bytes(shape, tokens, 1, dtype_bytes(cache_dtype, own or 2.0))
    left = int(share * total) - weights - overhead if cache_space_bytes is None else cache_space_bytes
    if left < least:
        raise LaunchFailed(
            f"One sequence of the full length takes {least / _GIB:.2f} GiB of cache, and {max(0, left) / _GIB:.2f} GiB "
            f"would be left for it beside the weights ({weights / _GIB:.2f} GiB).",
            remedy="Launch it with a shorter context, a larger share of the memory, more devices or a smaller "
            "quantization.",
        )
    return MemoryEstimate(
        weights_bytes=weights,
        cache_bytes=max(0, left),
        overhead_bytes=overhead,
        host_bytes=process_bytes if devices else 0,
    )


def estimate_encoder(
    plan: LoadPlan,
    machine: Machine,
    *,
    batched_tokens: int,
    dtype: str | None = None,
    extra_bytes: int = 0,
    process_bytes: int = TORCH_BYTES,
) -> MemoryEstimate | None:
    """Estimate a replica that embeds or ranks: it reads texts once and keeps nothing of them, so it has no cache.

    It holds for models with encoders and with decoders. None: nothing is known of the model.

    Args:
        batched_tokens: computed at once, padding included: the texts of a batch times the longest of them.
        dtype: what weights are converted to; None or `auto`: what the files have. Quantized weights stay.
        extra_bytes: weights beside the model's (adapters).
        process_bytes: main memory of the process, without weights and activations.
    """
    own = None if dtype in (None, "auto") else dtype_bytes(dtype)
    weights, shape = weights_of(plan, own), shape_of(plan)
    if weights is None:
        return None
    overhead = CUDA_BYTES * len(plan.accelerators) if plan.accelerators else process_bytes
    if shape is not None:
        overhead += activation_bytes(shape, batched_tokens, 0, own or 4.0)
    return MemoryEstimate(
        weights_bytes=weights + extra_bytes,
        overhead_bytes=overhead,
        host_bytes=process_bytes if plan.accelerators else 0,
    )


def estimate_plainly(plan: LoadPlan, machine: Machine) -> MemoryEstimate | None:
    """Estimate a replica of an engine that says nothing: weights, a cache of a moderate context, and an overhead.

    What embeds or ranks, and writes no text, has no cache.
    """
    if _WRITES_NOTHING.intersection(plan.family.abilities) and not _WRITES.intersection(plan.family.abilities):
        return estimate_encoder(plan, machine, batched_tokens=_PLAIN_BATCH, process_bytes=_PROCESS_BYTES)
    weights, shape = weights_of(plan), shape_of(plan)
    if weights is None:
        return None
    tokens = min((shape.context_length if shape else None) or DEFAULT_CONTEXT, DEFAULT_CONTEXT)
    return MemoryEstimate(
        weights_bytes=weights,
        cache_bytes=cache_bytes(shape, tokens) if shape else 0,
        overhead_bytes=_PROCESS_BYTES + (activation_bytes(shape, _PLAIN_BATCH) if shape else 0),
    )


def total_bytes(estimate: MemoryEstimate) -> int:
    """Return all that a replica needs, in main memory and on its devices."""
    return estimate.weights_bytes + estimate.cache_bytes + estimate.overhead_bytes + estimate.host_bytes


def corrected(
    estimate: MemoryEstimate, host_bytes: int, device_bytes: int, estimated_bytes: int | None, *, on_device: bool
) -> MemoryEstimate:
    """Correct an estimate by what a replica with the same options took when it had become ready.

    An engine may choose its cache by the memory that is free, so the difference between then and now stays. Weights and
    cache are never taken off: they fill up as the model is used, and a replica just ready may not have touched them.

    Args:
        host_bytes: that it took in main memory.
        device_bytes: that it took on its devices; 0 if that could not be told.
        estimated_bytes: what was estimated then, in all.
    """
    kept = estimate.weights_bytes + estimate.cache_bytes
    grown = total_bytes(estimate) - (total_bytes(estimate) if estimated_bytes is None else estimated_bytes)
    if not on_device:
        return replace(estimate, overhead_bytes=max(0, host_bytes + grown - kept), host_bytes=0)
    if not device_bytes:
        return replace(estimate, host_bytes=host_bytes)
    return replace(estimate, overhead_bytes=max(0, device_bytes + grown - kept), host_bytes=host_bytes)


def measure_key(engine: str, plan: LoadPlan, machine: Machine) -> str:
    """Return the name under which what a replica takes is remembered: alike for replicas that would take the same."""
    path = Path(plan.files.path) if plan.files.path else None
    files = [_identity(file) for file in _files(path)] if path else []
    devices = sorted((device.kind, device.name) for device in devices_of(plan, machine))
    parts = [engine, plan.files.path, plan.files.projector, files, dict(plan.options), devices]
    parts.append([_identity(Path(adapter)) for _, adapter in plan.lora])
    text = json.dumps(parts, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def _files(path: Path) -> Iterable[Path]:
    return sorted(path.glob("*.*"))[:1000] if path.is_dir() else (path,)


def _identity(path: Path) -> tuple[str, int, int]:
    try:
        info = path.stat()
    except OSError:
        return path.name, 0, 0
    return path.name, info.st_size, info.st_mtime_ns
