"""The shape of a language model: what its memory is reckoned from.

It is read from `config.json` or from a GGUF header where there are files; before a download it is that of a published
model of about the same size, which is near enough to choose by.
"""

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from .gguf import GgufMetadata

__all__ = ["CacheGroup", "Shape", "shape_of_config", "shape_of_gguf", "typical_shape"]

_MAX = 1 << 40
"""No dimension of a model is larger; a file that says so is not believed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheGroup:
    """Layers that keep alike of what they have read.

    Args:
        layers: how many.
        values: numbers kept for each token by each of them, keys and values together.
        window: tokens that are kept at most; None: all.
        state: numbers kept for each sequence by each of them, however long it is (mamba, linear attention).
    """

    layers: int
    values: int = 0
    window: int | None = None
    state: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """What of a model's architecture decides how much memory it needs.

    Args:
        layers: transformer blocks.
        width: of the residual stream (`hidden_size`).
        hidden: of the feed-forward layers (`intermediate_size`); of one expert's times those used for a token.
        vocabulary: tokens.
        cache: what its layers keep.
        context_length: tokens it was trained on; None if nobody says.
        tied: the output uses the embedding's weights.
        source: where this is known from.
    """

    layers: int
    width: int
    hidden: int
    vocabulary: int
    cache: tuple[CacheGroup, ...]
    context_length: int | None = None
    tied: bool = False
    source: Literal["config", "gguf", "typical"] = "typical"

    def cache_values(self, tokens: int, sequences: int = 1) -> int:
        """Return how many numbers `sequences` sequences of `tokens` tokens keep, over all layers."""
        total = 0
        for group in self.cache:
            kept = tokens if group.window is None else min(tokens, group.window)
            total += group.layers * sequences * (kept * group.values + group.state)
        return total


_Row = tuple[float, int, int, int, int, int, int]
_TYPICAL: tuple[_Row, ...] = (
    # parameters (billions), layers, width, hidden, vocabulary, heads for keys and values, their width
    (0.0035, 4, 256, 768, 1536, 2, 64),
    (0.015, 6, 288, 768, 32000, 6, 48),
    (0.135, 30, 576, 1536, 49152, 3, 64),
    (0.36, 32, 960, 2560, 49152, 5, 64),
    (0.5, 24, 896, 4864, 151936, 2, 64),
    (1.2, 16, 2048, 8192, 128256, 8, 64),
    (1.7, 28, 2048, 6144, 151936, 8, 128),
    (3.2, 28, 3072, 8192, 128256, 8, 128),
    (8.0, 32, 4096, 14336, 128256, 8, 128),
    (14.8, 48, 5120, 13824, 152064, 8, 128),
    (32.8, 64, 5120, 27648, 152064, 8, 128),
    (70.6, 80, 8192, 28672, 128256, 8, 128),
    (123.0, 88, 12288, 28672, 32768, 8, 128),
    (235.0, 94, 4096, 12288, 151936, 4, 128),
    (405.0, 126, 16384, 53248, 128256, 8, 128),
    (671.0, 61, 7168, 18432, 129280, 1, 288),
)
"""Shapes by size.

Source: the `config.json` of demo-chat, karpathy/tinyllamas (15M), HuggingFaceTB/SmolLM2-135M and -360M,
Qwen/Qwen2.5-0.5B, meta-llama/Llama-3.2-1B, Qwen/Qwen3-1.7B, Llama-3.2-3B, Llama-3.1-8B, Qwen2.5-14B, Qwen2.5-32B,
Llama-3.1-70B, mistralai/Mistral-Large-Instruct-2407, Qwen3-235B-A22B, Llama-3.1-405B, deepseek-ai/DeepSeek-V3 (its
latent attention keeps 576 numbers, written here as one head of 288).
"""


def typical_shape(size_b: float) -> Shape:
    """Return the shape of a published model of about that size: an approximation.

    Args:
        size_b: parameters in billions.
    """
    nearest = min(_TYPICAL, key=lambda row: abs(math.log(row[0] / size_b)))
    _, layers, width, hidden, vocabulary, heads, head_width = nearest
    return Shape(
        layers=layers,
        width=width,
        hidden=hidden,
        vocabulary=vocabulary,
        cache=(CacheGroup(layers=layers, values=2 * heads * head_width),),
    )


class _Config:
    """A `config.json`, whose keys have different names in different models."""

    def __init__(self, data: Mapping[str, Any]) -> None:
        text: Mapping[str, Any] = next(
            (data[key] for key in ("text_config", "llm_config") if isinstance(data.get(key), Mapping)), {}
        )
        self._data = {**data, **text}

    def number(self, *names: str) -> int | None:
        """Return the first of these keys that holds a whole number greater than 0."""
        for name in names:
            value = self._data.get(name)
            if isinstance(value, int) and not isinstance(value, bool) and 0 < value < _MAX:
                return value
        return None

    def flag(self, name: str) -> bool | None:
        """Return a truth value, or None where there is none."""
        value = self._data.get(name)
        return value if isinstance(value, bool) else None

    def names(self, *keys: str) -> list[str]:
        """Return the first of these keys that holds a list of strings, or an empty list."""
        for key in keys:
            value = self._data.get(key)
            if isinstance(value, list) and value and all(isinstance(item, str) for item in value):
                return value
        return []

    def numbers(self, key: str) -> list[int]:
        """Return a list of whole numbers, or an empty list."""
        value = self._data.get(key)
        return [item for item in value if isinstance(item, int)] if isinstance(value, list) else []

    def text(self, key: str) -> str:
        """Return a string, or an empty one."""
        value = self._data.get(key)
        return value if isinstance(value, str) else ""


def shape_of_config(data: Mapping[str, Any]) -> Shape | None:
    """Return the shape that a `config.json` tells of, or None if it does not say how many and how wide the layers are.

    Source of the keys: the configuration classes of Transformers.
    """
    config = _Config(data)
    layers = config.number("num_hidden_layers", "n_layer", "n_layers", "num_layers")
    width = config.number("hidden_size", "n_embd", "d_model", "dim")
    if layers is None or width is None or layers > 1 << 16:
        return None
    hidden = (
        config.number("intermediate_size", "n_inner", "ffn_dim", "d_ff", "ffn_hidden_size", "hidden_dim") or 4 * width
    )
    expert = config.number("moe_intermediate_size")
    if expert is not None:
        hidden = expert * (config.number("num_experts_per_tok", "moe_top_k") or 1)
    return Shape(
        layers=layers,
        width=width,
        hidden=hidden,
        vocabulary=config.number("vocab_size", "padded_vocab_size") or 0,
        cache=_cache_of_config(config, layers, width),
        context_length=config.number("max_position_embeddings", "n_positions", "max_seq_len", "seq_length"),
        tied=config.flag("tie_word_embeddings") is True,
        source="config",
    )


def _cache_of_config(config: _Config, layers: int, width: int) -> tuple[CacheGroup, ...]:
    values = _values_of_config(config, width)
    window = config.number("sliding_window", "attention_window_size")
    chunk = config.number("attention_chunk_size") or window
    state = _state_of_config(config, width)
    counts = Counter(_layer_kinds(config, layers, window))
    groups = (
        CacheGroup(layers=counts["full"], values=values),
        CacheGroup(layers=counts["sliding"], values=values, window=window),
        CacheGroup(layers=counts["chunked"], values=values, window=chunk),
        CacheGroup(layers=counts["state"], state=state),
    )
    return tuple(group for group in groups if group.layers)


def _values_of_config(config: _Config, width: int) -> int:
    latent = config.number("kv_lora_rank")
    if latent is not None:  # DeepSeek's latent attention keeps one compressed vector and the rotated part of the keys
        return latent + (config.number("qk_rope_head_dim") or 64)
    heads = config.number("num_attention_heads", "n_head", "n_heads", "num_heads") or 1
    kept = config.number("num_key_value_heads", "num_kv_heads", "n_head_kv", "multi_query_group_num") or heads
    if config.flag("multi_query") and not config.flag("new_decoder_architecture"):
        kept = 1
    head = config.number("head_dim", "kv_channels", "attention_head_dim") or width // heads
    return kept * (head + (config.number("v_head_dim") or head))


_KINDS = {
    "full_attention": "full",
    "attention": "full",
    "full": "full",
    "global": "full",
    "hybrid": "full",
    "sliding_attention": "sliding",
    "local": "sliding",
    "local_attention": "sliding",
    "chunked_attention": "chunked",
    "linear_attention": "state",
    "mamba": "state",
    "mamba2": "state",
    "recurrent": "state",
    "conv": "state",
    "moe": "none",
    "mlp": "none",
}
_PATTERN = {"*": "full", "M": "state"}
"""Letters of `hybrid_override_pattern` (Nemotron-H); the others keep nothing."""


def _layer_kinds(config: _Config, layers: int, window: int | None) -> Iterable[str]:
    """Return for each layer what it keeps: `full`, `sliding`, `chunked`, `state` or `none`."""
    named = config.names("layer_types", "layers_block_type", "block_types", "_block_types")
    if named:
        repeated = [named[place % len(named)] for place in range(layers)]
        return [
            "full" if kind == "sliding_attention" and window is None else _KINDS.get(kind, "full") for kind in repeated
        ]
    pattern = config.text("hybrid_override_pattern")
    if pattern:
        return [_PATTERN.get(letter, "none") for letter in pattern]
    attending = config.numbers("attn_layer_indices") or config.numbers("full_attn_idxs")
    if attending:
        return ["full" if place in attending else "state" for place in range(layers)]
    every = config.number("attn_layer_period", "full_attention_interval")
    if every is not None:
        offset = config.number("attn_layer_offset") or (0 if config.number("attn_layer_period") else every - 1)
        return ["full" if place % every == offset % every else "state" for place in range(layers)]
    has_state = config.number("mamba_d_state", "ssm_state_size", "state_size", "d_state") is not None
    if has_state and config.number("num_attention_heads", "n_head", "n_heads") is None:
        return ["state"] * layers  # heads of another name are those of the state (Mamba 2)
    return _windowed(config, layers, window)


def _windowed(config: _Config, layers: int, window: int | None) -> Iterable[str]:
    if window is None or config.flag("use_sliding_window") is False:
        return ["full"] * layers
    every = config.number("sliding_window_pattern")
    if every is not None:
        return ["full" if (place + 1) % every == 0 else "sliding" for place in range(layers)]
    first = config.number("max_window_layers") or 0
    return ["full" if place < first else "sliding" for place in range(layers)]


def _state_of_config(config: _Config, width: int) -> int:
    """Return the numbers that a layer without attention keeps for a sequence: its state and what it convolves."""
    kernel = config.number("mamba_d_conv", "conv_kernel", "linear_conv_kernel_dim", "conv_L_cache", "d_conv") or 4
    heads = config.number("linear_num_value_heads")
    if heads is not None:  # gated delta rule: a matrix for each head
        keys = config.number("linear_key_head_dim") or 128
        values = config.number("linear_value_head_dim") or 128
        convolved = 2 * (config.number("linear_num_key_heads") or heads) * keys + heads * values
        return heads * keys * values + kernel * convolved
    state = config.number("mamba_d_state", "ssm_state_size", "state_size", "d_state")
    if state is None:  # a convolution alone
        return kernel * width
    mamba_heads, head = (
        config.number("mamba_n_heads", "mamba_num_heads"),
        config.number("mamba_d_head", "mamba_head_dim"),
    )
    if mamba_heads and head:
        inner = mamba_heads * head
    else:
        inner = (config.number("mamba_expand", "expand") or 2) * width
    groups = config.number("mamba_n_groups", "n_groups") or 1
    return inner * state + kernel * (inner + 2 * groups * state)


def shape_of_gguf(metadata: GgufMetadata) -> Shape | None:
    """Return the shape that a GGUF header tells of, or None if it says too little.

    Heads may differ by layer (`attention.head_count_kv` is then an array). A latent attention keeps one compressed
    vector. Layers without attention have no heads there; their state is counted where the header tells its size.
    """
    layers, width = metadata.number("block_count"), metadata.number("embedding_length")
    if not layers or not width:
        return None
    return Shape(
        layers=layers,
        width=width,
        hidden=metadata.number("feed_forward_length") or 4 * width,
        vocabulary=metadata.vocabulary_size or 0,
        cache=_cache_of_gguf(metadata, layers, width),
        context_length=metadata.context_length,
        source="gguf",
    )


def _cache_of_gguf(metadata: GgufMetadata, layers: int, width: int) -> tuple[CacheGroup, ...]:
    latent = metadata.number("attention.kv_lora_rank")
    if latent:
        return (CacheGroup(layers=layers, values=latent + (metadata.number("rope.dimension_count") or 64)),)
    heads = metadata.number("attention.head_count") or 1
    head_width = width // heads
    values = (metadata.number("attention.key_length") or head_width) + (
        metadata.number("attention.value_length") or head_width
    )
    by_layer = _heads_by_layer(metadata.keys.get(f"{metadata.architecture}.attention.head_count_kv"), layers, heads)
    counts = Counter(count for count in by_layer if count > 0)
    groups = [CacheGroup(layers=number, values=count * values) for count, number in counts.items()]
    inner, state = metadata.number("ssm.inner_size"), metadata.number("ssm.state_size")
    recurrent = sum(count == 0 for count in by_layer)
    if inner and state and recurrent:
        kernel = metadata.number("ssm.conv_kernel") or 4
        shared = 2 * (metadata.number("ssm.group_count") or 1) * state
        groups.append(CacheGroup(layers=recurrent, state=inner * state + kernel * (inner + shared)))
    return tuple(groups)


def _heads_by_layer(value: Any, layers: int, heads: int) -> Sequence[int]:
    if isinstance(value, (list, tuple)):
        return [count for count in value if isinstance(count, int) and count >= 0]
    return [value if isinstance(value, int) else heads] * layers
