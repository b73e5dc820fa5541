"""Tell from a GGUF header how much memory its attention cache will need; for every engine that runs GGUF files."""

from .gguf import GgufMetadata

__all__ = ["CACHE_TYPES", "cache_bytes_per_token", "output_buffer_bytes"]

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
