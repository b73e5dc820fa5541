"""What a model keeps for each token and sequence, by its config.json or GGUF header; figures reckoned by hand."""

from pathlib import Path
from typing import Any

import pytest

from catalog.gguf_files import write_gguf
from modelrack.catalog.gguf_memory import read_model
from modelrack.catalog.shapes import Shape, shape_of_config, shape_of_gguf, typical_shape

LLAMA_8B = {
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "vocab_size": 128256,
    "max_position_embeddings": 131072,
}


def shape(**config: Any) -> Shape:
    found = shape_of_config(config)
    assert found is not None
    return found


def test_grouped_heads() -> None:
    found = shape(**LLAMA_8B)
    assert found.cache_values(1) == 32 * 2 * 8 * 128
    assert found.cache_values(1000, 3) == 3 * 1000 * 65536
    assert (found.layers, found.width, found.hidden, found.vocabulary) == (32, 4096, 14336, 128256)
    assert (found.context_length, found.source) == (131072, "config")


@pytest.mark.parametrize(
    ("changes", "values"),
    [
        ({"num_key_value_heads": None}, 32 * 2 * 32 * 128),
        ({"head_dim": 64}, 32 * 2 * 8 * 64),
        ({"head_dim": 192, "v_head_dim": 128}, 32 * 8 * (192 + 128)),
        ({"multi_query": True, "num_key_value_heads": None}, 32 * 2 * 128),
        ({"kv_lora_rank": 512, "qk_rope_head_dim": 64}, 32 * (512 + 64)),
    ],
)
def test_other_attentions(changes: dict[str, Any], values: int) -> None:
    assert shape(**{**LLAMA_8B, **changes}).cache_values(1) == values


@pytest.mark.parametrize(
    "config",
    [
        {"sliding_window": 512, "sliding_window_pattern": 4},
        {"sliding_window": 512, "layer_types": (["sliding_attention"] * 3 + ["full_attention"]) * 8},
        {"sliding_window": 512, "use_sliding_window": True, "max_window_layers": 8},
        {"attention_chunk_size": 512, "layer_types": (["chunked_attention"] * 3 + ["full_attention"]) * 8},
    ],
)
def test_sliding_windows_keep_no_more_than_their_width(config: dict[str, Any]) -> None:
    found = shape(**LLAMA_8B, **config)
    each = 2 * 8 * 128
    assert found.cache_values(100) == 32 * 100 * each
    assert found.cache_values(10_000) == (8 * 10_000 + 24 * 512) * each


def test_a_window_that_is_not_used() -> None:
    found = shape(**LLAMA_8B, sliding_window=512, use_sliding_window=False)
    assert found.cache_values(10_000) == 32 * 10_000 * 2 * 8 * 128
    named = shape(**LLAMA_8B, sliding_window=None, layer_types=["sliding_attention"] * 32)
    assert named.cache_values(10_000) == found.cache_values(10_000)


def test_hybrids_keep_a_state_in_most_layers() -> None:
    mamba = {"mamba_d_state": 16, "mamba_d_conv": 4, "mamba_expand": 2}
    found = shape(**LLAMA_8B, **mamba, attn_layer_period=8, attn_layer_offset=4)
    state = 8192 * 16 + 4 * (8192 + 2 * 16)
    assert found.cache_values(1000, 2) == 2 * (4 * 1000 * 2048 + 28 * state)
    named = shape(**LLAMA_8B, **mamba, layers_block_type=(["mamba"] * 4 + ["attention"] + ["mamba"] * 3) * 4)
    assert named.cache_values(1000, 2) == found.cache_values(1000, 2)
    pattern = shape(**LLAMA_8B, **mamba, hybrid_override_pattern=("MMMM*---") * 4)
    assert pattern.cache_values(1000) == 4 * 1000 * 2048 + 16 * state


def test_linear_attention_keeps_a_matrix_for_each_head() -> None:
    linear = {
        "full_attention_interval": 4,
        "linear_num_value_heads": 32,
        "linear_num_key_heads": 16,
        "linear_key_head_dim": 128,
        "linear_value_head_dim": 128,
        "linear_conv_kernel_dim": 4,
    }
    state = 32 * 128 * 128 + 4 * (2 * 16 * 128 + 32 * 128)
    assert shape(**LLAMA_8B, **linear).cache_values(10) == 8 * 10 * 2048 + 24 * state


def test_a_model_without_attention() -> None:
    found = shape(hidden_size=768, num_hidden_layers=24, state_size=16, conv_kernel=4, expand=2, vocab_size=50280)
    assert found.cache_values(1) == found.cache_values(100_000) == 24 * (1536 * 16 + 4 * (1536 + 32))
    two = shape(
        hidden_size=64, num_hidden_layers=4, state_size=16, num_heads=8, head_dim=16, n_groups=1, vocab_size=200
    )
    assert two.cache_values(100) == 10752, "as Transformers' own model of this configuration keeps"


def test_nested_and_strange_configs() -> None:
    assert shape(model_type="any", vision_config={}, text_config=LLAMA_8B).cache_values(1) == 65536
    assert shape(n_layer=12, n_embd=768, n_head=12, vocab_size=50257).cache_values(1) == 12 * 2 * 768
    for config in (
        {},
        {"num_hidden_layers": "many", "hidden_size": 4},
        {"num_hidden_layers": 1 << 50, "hidden_size": 64},
        {"num_hidden_layers": True, "hidden_size": 64},
    ):
        assert shape_of_config(config) is None


def test_gguf_headers(tmp_path: Path) -> None:
    keys = {
        "general.architecture": "llama",
        "llama.block_count": 4,
        "llama.embedding_length": 256,
        "llama.feed_forward_length": 768,
        "llama.attention.head_count": 4,
        "llama.attention.head_count_kv": 2,
        "llama.context_length": 2048,
    }
    found = shape_of_gguf(read_model(str(write_gguf(tmp_path / "a.gguf", keys))))
    assert found is not None
    assert (found.cache_values(1), found.context_length, found.source) == (4 * 2 * 2 * 64, 2048, "gguf")
    latent = {**keys, "llama.attention.kv_lora_rank": 512, "llama.rope.dimension_count": 64}
    found = shape_of_gguf(read_model(str(write_gguf(tmp_path / "b.gguf", latent))))
    assert found is not None and found.cache_values(1) == 4 * 576
    hybrid = {
        **keys,
        "llama.attention.head_count_kv": [0, 2, 0, 2],
        "llama.ssm.inner_size": 512,
        "llama.ssm.state_size": 16,
        "llama.ssm.conv_kernel": 4,
        "llama.ssm.group_count": 1,
    }
    found = shape_of_gguf(read_model(str(write_gguf(tmp_path / "c.gguf", hybrid))))
    assert found is not None
    assert found.cache_values(10) == 2 * 10 * 2 * 128 + 2 * (512 * 16 + 4 * (512 + 32))


def test_typical_shapes_have_about_the_parameters_that_they_stand_for() -> None:
    for size in (0.5, 1.2, 3, 7, 8, 14, 32, 70, 123, 405):
        found = typical_shape(size)
        heads = found.cache[0].values
        attention = found.width * (2 * found.width + heads)
        counted = found.layers * (attention + 3 * found.width * found.hidden) + found.vocabulary * found.width
        assert 0.75 * size < counted / 1e9 < 1.35 * size, size
    assert typical_shape(1e-6).layers == 4
    assert typical_shape(1e5).layers == 61
