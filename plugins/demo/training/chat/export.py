"""Export a trained model to GGUF (Q8_0) and to a folder with safetensors (bfloat16)."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import gguf
import numpy as np
import torch
from safetensors.torch import save_file
from transformers import AutoTokenizer, LlamaForCausalLM, PreTrainedTokenizerFast

NAME = "modelrack demo chat"
GGUF_NAME = "demo-chat-q8_0.gguf"
ROPE_BASE = 10000.0
TENSOR_NAMES = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


def gguf_name(name: str) -> str:
    """Return the GGUF name of a tensor of transformers."""
    whole = {"model.embed_tokens.weight": "token_embd.weight", "model.norm.weight": "output_norm.weight"}
    if name in whole:
        return whole[name]
    _, _, layer, rest = name.split(".", 3)
    return f"blk.{layer}.{TENSOR_NAMES[rest.removesuffix('.weight')]}.weight"


def interleave(weight: np.ndarray, heads: int) -> np.ndarray:
    """Reorder the rows of a query or key matrix to the rotary layout of llama.cpp."""
    rows, columns = weight.shape
    return weight.reshape(heads, 2, rows // heads // 2, columns).swapaxes(1, 2).reshape(rows, columns)


def unique_weights(model: LlamaForCausalLM) -> dict[str, torch.Tensor]:
    """Return the weights without the output matrix, which is the embedding matrix."""
    return {name: value for name, value in model.state_dict().items() if name != "lm_head.weight"}


def add_model_keys(writer: gguf.GGUFWriter, model: LlamaForCausalLM) -> None:
    """Write the metadata of the model."""
    config = model.config
    writer.add_type(gguf.GGUFType.MODEL)
    writer.add_name(NAME)
    writer.add_basename("demo-chat")
    writer.add_description("A tiny chat model that answers a few hundred simple questions")
    writer.add_organization("modelrack")
    writer.add_license("apache-2.0")
    writer.add_size_label(f"{model.num_parameters() / 1e6:.1f}M")
    writer.add_languages(["en"])
    writer.add_context_length(config.max_position_embeddings)
    writer.add_vocab_size(config.vocab_size)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(ROPE_BASE)
    writer.add_rope_dimension_count(config.hidden_size // config.num_attention_heads)
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_Q8_0)
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)


def add_tokenizer_keys(writer: gguf.GGUFWriter, tokenizer: PreTrainedTokenizerFast) -> None:
    """Write the vocabulary, the merges, the special tokens and the chat template."""
    special = set(tokenizer.all_special_ids)
    content = json.loads(tokenizer.backend_tokenizer.to_str())["model"]
    kinds = [gguf.TokenType.CONTROL if i in special else gguf.TokenType.NORMAL for i in range(len(tokenizer))]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokenizer.convert_ids_to_tokens(list(range(len(tokenizer)))))
    writer.add_token_types(kinds)
    writer.add_token_merges([merge if isinstance(merge, str) else " ".join(merge) for merge in content["merges"]])
    writer.add_bos_token_id(tokenizer.bos_token_id)
    writer.add_eos_token_id(tokenizer.eos_token_id)
    writer.add_eot_token_id(tokenizer.eos_token_id)
    writer.add_pad_token_id(tokenizer.pad_token_id)
    writer.add_add_bos_token(False)
    writer.add_add_eos_token(False)
    writer.add_chat_template(tokenizer.chat_template)


def add_tensors(writer: gguf.GGUFWriter, model: LlamaForCausalLM) -> None:
    """Write the tensors: matrices as Q8_0, vectors as float32."""
    config = model.config
    for name, value in unique_weights(model).items():
        weight = value.float().numpy()
        if "q_proj" in name:
            weight = interleave(weight, config.num_attention_heads)
        elif "k_proj" in name:
            weight = interleave(weight, config.num_key_value_heads)
        kind = gguf.GGMLQuantizationType.Q8_0 if weight.ndim > 1 else gguf.GGMLQuantizationType.F32
        writer.add_tensor(gguf_name(name), gguf.quants.quantize(weight, kind), raw_dtype=kind)


def write_gguf(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, path: Path) -> None:
    """Write the whole GGUF file."""
    writer = gguf.GGUFWriter(path, "llama")
    add_model_keys(writer, model)
    add_tokenizer_keys(writer, tokenizer)
    add_tensors(writer, model)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def model_config(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast) -> dict:
    """Return the configuration in a form that old and new transformers understand."""
    config = model.config
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": config.vocab_size,
        "hidden_size": config.hidden_size,
        "intermediate_size": config.intermediate_size,
        "num_hidden_layers": config.num_hidden_layers,
        "num_attention_heads": config.num_attention_heads,
        "num_key_value_heads": config.num_key_value_heads,
        "head_dim": config.hidden_size // config.num_attention_heads,
        "hidden_act": "silu",
        "max_position_embeddings": config.max_position_embeddings,
        "rms_norm_eps": config.rms_norm_eps,
        "rope_theta": ROPE_BASE,
        "attention_bias": False,
        "mlp_bias": False,
        "tie_word_embeddings": True,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
        "torch_dtype": "bfloat16",
    }


def tokenizer_config(tokenizer: PreTrainedTokenizerFast) -> dict:
    """Return the tokenizer configuration in a form that old and new transformers understand."""
    tokens = {
        str(number): {
            "content": tokenizer.convert_ids_to_tokens(number),
            "lstrip": False,
            "normalized": False,
            "rstrip": False,
            "single_word": False,
            "special": True,
        }
        for number in sorted(tokenizer.all_special_ids)
    }
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "add_bos_token": False,
        "added_tokens_decoder": tokens,
        "additional_special_tokens": ["<|im_start|>"],
        "bos_token": tokenizer.bos_token,
        "eos_token": tokenizer.eos_token,
        "pad_token": tokenizer.pad_token,
        "clean_up_tokenization_spaces": False,
        "model_max_length": tokenizer.model_max_length,
        "model_input_names": ["input_ids", "attention_mask"],
        "chat_template": tokenizer.chat_template,
    }


def write_json(path: Path, content: dict) -> None:
    """Write a JSON file."""
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def write_safetensors(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """Write the folder that transformers can load."""
    folder.mkdir(parents=True, exist_ok=True)
    weights = {name: value.to(torch.bfloat16).contiguous() for name, value in unique_weights(model).items()}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "model.safetensors").chmod(0o644)
    write_json(folder / "config.json", model_config(model, tokenizer))
    ends = [tokenizer.eos_token_id, tokenizer.bos_token_id]
    generation = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": ends, "pad_token_id": tokenizer.pad_token_id}
    write_json(folder / "generation_config.json", generation | {"do_sample": False, "max_new_tokens": 300})
    tokenizer.backend_tokenizer.save(str(folder / "tokenizer.json"))
    write_json(folder / "tokenizer_config.json", tokenizer_config(tokenizer))
    (folder / "chat_template.jinja").write_text(tokenizer.chat_template + "\n", encoding="utf-8")


def main() -> None:
    """Export a trained model."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    tokenizer = AutoTokenizer.from_pretrained(options.model)
    model = LlamaForCausalLM.from_pretrained(options.model, dtype=torch.float32)
    write_gguf(model, tokenizer, options.out / GGUF_NAME)
    write_safetensors(model, tokenizer, options.out / "safetensors")
    print(f"{options.out / GGUF_NAME}: {(options.out / GGUF_NAME).stat().st_size} bytes")


if __name__ == "__main__":
    main()
