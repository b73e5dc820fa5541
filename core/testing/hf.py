"""Make small Hugging Face model folders with random weights, for tests and benchmarks; needs the package `numpy`.

The models are those of `modelrack.testing.gguf` and `modelrack.testing.recital`, with the same weights and tokens, so
that answers of engines can be compared across formats.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from .gguf import CHATML, SPECIAL_TOKENS, TINY, Shape, byte_alphabet, printable_tokens, random_weights, vocabulary
from .gguf_extras import adapter_weights
from .hf_files import DType, write_json, write_safetensors, write_tokenizer_json
from .recital import CHAT_TEMPLATE, HEAD, USER_DEFINED, Vocabulary

__all__ = ["llama_config", "llama_weights", "write_adapter", "write_configs", "write_random_model", "write_recital"]

_NAMES = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}


def write_random_model(
    folder: Path,
    shape: Shape = TINY,
    *,
    seed: int = 0,
    chat_template: str | None = CHATML,
    dtype: DType = "float32",
) -> Path:
    """Write a Llama model with random weights into a new folder, and return it.

    It is `modelrack.testing.gguf.write_random_model`'s of the same shape and seed, but for what `dtype` rounds.

    Args:
        shape: `file_type` and `architecture` have no meaning here.
    """
    folder.mkdir()
    tokens, pairs = vocabulary()
    first = len(tokens) - len(SPECIAL_TOKENS)
    config = llama_config(shape, vocab_size=len(tokens), first_special=first)
    write_configs(folder, config, dtype)
    weights = llama_weights(random_weights(shape, seed, printable_tokens()), shape)
    write_safetensors(folder / "model.safetensors", weights, dtype)
    write_tokenizer_json(
        folder, tokens, pairs, specials=SPECIAL_TOKENS, context=shape.context, chat_template=chat_template
    )
    return folder


def llama_config(shape: Shape, *, vocab_size: int, first_special: int) -> dict[str, Any]:
    """Return what `config.json` says of a Llama model.

    Args:
        first_special: id of the token that begins texts; the one after the next ends answers.
    """
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_act": "silu",
        "hidden_size": shape.width,
        "intermediate_size": shape.hidden,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.kv_heads,
        "head_dim": shape.width // shape.heads,
        "max_position_embeddings": shape.context,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "attention_bias": False,
        "mlp_bias": False,
        "tie_word_embeddings": False,
        "vocab_size": vocab_size,
        "bos_token_id": first_special,
        "eos_token_id": first_special + 2,
        "pad_token_id": first_special,
    }


def write_configs(folder: Path, config: Mapping[str, Any], dtype: DType) -> None:
    """Write `config.json`, and what it says about the ends of texts for generation."""
    write_json(folder / "config.json", {**config, "torch_dtype": dtype})
    ids = {name: config[name] for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    write_json(folder / "generation_config.json", ids)


def llama_weights(weights: Iterator[tuple[str, Any]], shape: Shape) -> Iterator[tuple[str, Any]]:
    """Yield the weights of a Llama model as `LlamaForCausalLM` names and orders them.

    Args:
        weights: as `modelrack.testing.gguf.random_weights` yields them.
    """
    whole = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}
    heads = {"attn_q": shape.heads, "attn_k": shape.kv_heads}
    for name, values in weights:
        if name in whole:
            yield f"{whole[name]}.weight", values
            continue
        _, layer, part = name.split(".")
        if part in heads:
            values = _split_pairs(values, heads[part])
        yield f"model.layers.{layer}.{_NAMES[part]}.weight", values


def _split_pairs(values: Any, heads: int) -> Any:
    """Return the rows of each head with the first of all pairs before the second ones.

    GGUF's Llama rotates neighbours, Hugging Face's the halves of a head.
    """
    rows, columns = values.shape
    return values.reshape(heads, rows // heads // 2, 2, columns).swapaxes(1, 2).reshape(rows, columns)


def write_recital(
    folder: Path,
    scripts: Mapping[str, str],
    *,
    controls: Sequence[str] = (),
    chat_template: str = CHAT_TEMPLATE,
    context: int = 2048,
    dtype: DType = "float32",
) -> Path:
    """Write a model that recites into a new folder, and return it; see `modelrack.testing.recital.write_recital`."""
    folder.mkdir()
    known = Vocabulary(scripts, controls)
    shape = Shape(width=known.width, layers=1, heads=known.width // HEAD, kv_heads=1, hidden=HEAD, context=context)
    specials = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", *controls]
    first = known.ids[b"<|endoftext|>"]
    config = llama_config(shape, vocab_size=len(known.names), first_special=first)
    write_configs(folder, config, dtype)
    write_safetensors(folder / "model.safetensors", llama_weights(known.weights(), shape), dtype)
    plain = [name for name, kind in zip(known.names, known.types, strict=True) if kind == USER_DEFINED]
    # Without any merge, some versions of the package `tokenizers` take a space for a word that is not known.
    space = byte_alphabet()[ord(" ")]
    pairs = [(space, space)] if space * 2 in known.names else []
    write_tokenizer_json(
        folder, known.names, pairs, specials=specials, plain=plain, context=context, chat_template=chat_template
    )
    return folder


def write_adapter(folder: Path, shape: Shape = TINY, *, seed: int = 0, rank: int = 4, strength: float = 1.0) -> Path:
    """Write a LoRA adapter as peft does for a model of `write_random_model` into a new folder, and return it.

    It is `modelrack.testing.gguf_extras.write_adapter`'s of the same arguments.
    """
    folder.mkdir()
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": None,
        "inference_mode": True,
        "r": rank,
        "lora_alpha": rank,
        "lora_dropout": 0.0,
        "bias": "none",
        "fan_in_fan_out": False,
        "target_modules": ["down_proj"],
    }
    write_json(folder / "adapter_config.json", config)

    def tensors() -> Iterator[tuple[str, Any]]:
        for layer, (a, b) in enumerate(adapter_weights(shape, seed, rank, strength)):
            block = f"base_model.model.model.layers.{layer}.mlp.down_proj"
            yield f"{block}.lora_A.weight", a
            yield f"{block}.lora_B.weight", b

    write_safetensors(folder / "adapter_model.safetensors", tensors())
    return folder
