"""Tell from a GGUF header how much memory its attention cache will need; for every engine that runs GGUF files."""

from collections.abc import Collection, Iterable
from pathlib import Path

from ..errors import BadRequest
from ..hooks.types import Machine
from .gguf import GgufMetadata, read_metadata

__all__ = [
    "CACHE_TYPES",
    "cache_bytes_per_token",
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
