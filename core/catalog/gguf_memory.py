"""Tell from a GGUF header how much memory its attention cache will need; for every engine that runs GGUF files."""

from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any, Protocol

from ..errors import BadRequest
from ..hooks.types import LoadPlan, Machine, MemoryEstimate
from .gguf import GgufMetadata, read_metadata
from .shapes import typical_shape
from .weights import weights_by_size

__all__ = [
    "CACHE_TYPES",
    "ChooseSizes",
    "Sizes",
    "cache_bytes_per_token",
    "estimate",
    "extra_weights",
    "file_bytes",
    "free_memory",
    "output_buffer_bytes",
    "read_model",
]

CACHE_TYPES: dict[str, float] = {
    "f32": 4.0,
    "f16": 2.0,
    "bf16": 2.0,
    "q8_0": 34 / 32,
    "q5_1": 24 / 32,
    "q5_0": 22 / 32,
    "q4_1": 20 / 32,
    "q4_0": 18 / 32,
    "iq4_nl": 18 / 32,
}
"""Types that a cache may have, with the bytes that a value takes (a block's bytes over its values, from ggml)."""


def cache_bytes_per_token(metadata: GgufMetadata, type_k: str = "f16", type_v: str = "f16") -> int:
    """Return the bytes that one token takes in the attention cache, over all layers.

    Heads may differ by layer (`attention.head_count_kv` is then an array: read it with `arrays=`); a latent attention
    (`attention.kv_lora_rank`) keeps one compressed vector instead. Sliding windows are not taken off: the answer is
    an upper bound then. Recurrent layers keep a state of fixed size, which is not counted.

    Raises: KeyError: an unknown type.
    """
    size_k, size_v = CACHE_TYPES[type_k], CACHE_TYPES[type_v]
    layers = metadata.number("block_count") or 0
    latent = metadata.number("attention.kv_lora_rank")
    if latent:
        rotated = metadata.number("rope.dimension_count") or 64
        return int(layers * (latent + rotated) * size_k)
    heads = metadata.number("attention.head_count") or 1
    width = metadata.number("embedding_length") or 0
    head_width = width // heads
    width_k = metadata.number("attention.key_length") or head_width
    width_v = metadata.number("attention.value_length") or head_width
    return int(_all_kv_heads(metadata, layers, heads) * (width_k * size_k + width_v * size_v))


def _all_kv_heads(metadata: GgufMetadata, layers: int, heads: int) -> int:
    value = metadata.keys.get(f"{metadata.architecture}.attention.head_count_kv")
    if isinstance(value, (list, tuple)):
        return sum(count for count in value if isinstance(count, int))
    return layers * (value if isinstance(value, int) else heads)


def output_buffer_bytes(metadata: GgufMetadata, batch: int, micro_batch: int) -> int:
    """Return roughly what a forward pass takes beside weights and cache: logits and activations, in float32."""
    width = metadata.number("embedding_length") or 0
    hidden = metadata.number("feed_forward_length") or 4 * width
    vocabulary = metadata.vocabulary_size or 0
    return 4 * (micro_batch * (4 * width + 3 * hidden) + min(batch, 64) * vocabulary)


class Sizes(Protocol):
    """What an engine sets aside beside the weights."""

    @property
    def cache_bytes(self) -> int:
        """Return what the attention cache takes."""

    @property
    def buffer_bytes(self) -> int:
        """Return what a forward pass and the process take."""


class ChooseSizes(Protocol):
    """An engine's choice of what its options leave open; raises LaunchFailed if nothing useful fits."""

    def __call__(
        self,
        options: Mapping[str, Any],
        metadata: GgufMetadata,
        free_bytes: int,
        *,
        on_accelerator: bool,
        extra_bytes: int = 0,
    ) -> Sizes:
        """Choose by the model's header and the memory that is free."""


def estimate(plan: LoadPlan, machine: Machine, choose_sizes: ChooseSizes, process_bytes: int) -> MemoryEstimate | None:
    """Estimate what a replica will need: weights by the file's size, the cache and buffers from its header.

    Before a download, by the header that a model of that size would have; None if the size is not known either. Layers
    that the accelerators have no room for (`n_gpu_layers`) stay in main memory.

    Args:
        process_bytes: main memory of a process on an accelerator, without weights and cache.

    Raises: LaunchFailed: nothing useful fits.
    """
    metadata = read_model(plan.files.path) if plan.files.path else _expected_model(plan)
    if metadata is None:
        return None
    free = free_memory(machine, plan.accelerators)
    extra = extra_weights(plan)
    sizes = choose_sizes(plan.options, metadata, free, on_accelerator=bool(plan.accelerators), extra_bytes=extra)
    weights = metadata.file_bytes + extra
    if not plan.accelerators:
        return MemoryEstimate(weights_bytes=weights, cache_bytes=sizes.cache_bytes, overhead_bytes=sizes.buffer_bytes)
    share = _offloaded(plan.options, metadata, weights + sizes.cache_bytes, free - sizes.buffer_bytes)
    cached = share if plan.options.get("offload_kv", True) else 0.0
    on_device, cache_on_device = int(weights * share), int(sizes.cache_bytes * cached)
    return MemoryEstimate(
        weights_bytes=on_device,
        cache_bytes=cache_on_device,
        overhead_bytes=sizes.buffer_bytes,
        host_bytes=process_bytes + weights - on_device + sizes.cache_bytes - cache_on_device,
    )


def _offloaded(options: Mapping[str, Any], metadata: GgufMetadata, needed: int, room: int) -> float:
    """Return the part of the layers that goes to the accelerators, 0 to 1."""
    wanted = options.get("n_gpu_layers", "auto")
    layers = (metadata.number("block_count") or 1) + 1  # the output counts as one
    if isinstance(wanted, int):
        return 1.0 if wanted < 0 else min(1.0, wanted / layers)
    if needed <= room:
        return 1.0
    return int(layers * max(0, room) / needed) / layers


def _expected_model(plan: LoadPlan) -> GgufMetadata | None:
    """Return the header that a file of this size and quantization is expected to have, or None if no size is known."""
    size = plan.variant.size_b
    if not size:
        return None
    shape = typical_shape(size)
    heads_values = shape.cache[0].values // 2
    keys: dict[str, Any] = {
        "general.architecture": "expected",
        "expected.block_count": shape.layers,
        "expected.embedding_length": shape.width,
        "expected.feed_forward_length": shape.hidden,
        "expected.attention.head_count": 1,
        "expected.attention.head_count_kv": 1,
        "expected.attention.key_length": heads_values,
        "expected.attention.value_length": heads_values,
        "expected.vocab_size": shape.vocabulary,
    }
    if plan.family.context_length:
        keys["expected.context_length"] = plan.family.context_length
    weights = weights_by_size(size, plan.quantization, "gguf", shape)
    return GgufMetadata(
        path="",
        parts=(),
        version=3,
        keys=keys,
        array_lengths={},
        tensor_count=0,
        parameters=int(size * 1e9),
        tensor_bytes=weights,
        file_bytes=weights,
        tensor_type=None,
    )


def extra_weights(plan: LoadPlan) -> int:
    """Return the bytes of the files that are loaded beside the model: projector, draft model, adapters."""
    options = plan.options
    projector = options.get("mmproj") or plan.files.projector
    return file_bytes((projector, options.get("draft_model"), *(path for _, path in plan.lora)))


def read_model(path: str) -> GgufMetadata:
    """Read a model's header with what the estimates need.

    Raises: BadRequest: it is no GGUF file, cut off, or a multimodal projector.
    """
    metadata = read_metadata(path)
    key = f"{metadata.architecture}.attention.head_count_kv"
    if key in metadata.array_lengths and key not in metadata.keys:
        metadata = read_metadata(path, arrays=(key,))
    if metadata.is_projector:
        raise BadRequest(f"{path} is a multimodal projector, which is no model by itself.", param="model_path")
    return metadata


def file_bytes(names: Iterable[str | None]) -> int:
    """Return the bytes of files that are loaded beside a model; those that are missing count nothing."""
    paths = [Path(name) for name in names if name]
    return sum(path.stat().st_size for path in paths if path.is_file())


def free_memory(machine: Machine, accelerators: Collection[int]) -> int:
    """Return the free bytes where a cache will lie: in the given accelerators, else in main memory."""
    if accelerators:
        return sum(device.memory_free_bytes for device in machine.accelerators if device.index in accelerators)
    return machine.memory_free_bytes
