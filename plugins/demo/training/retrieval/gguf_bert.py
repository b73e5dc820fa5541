"""Write a BERT encoder, or a BERT that scores pairs of texts, as GGUF."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import gguf
import numpy as np
import torch
from transformers import BertConfig, BertTokenizer

SPACE = "\u2581"
WHOLE = {
    "embeddings.word_embeddings.weight": "token_embd.weight",
    "embeddings.position_embeddings.weight": "position_embd.weight",
    "embeddings.token_type_embeddings.weight": "token_types.weight",
    "embeddings.LayerNorm.weight": "token_embd_norm.weight",
    "embeddings.LayerNorm.bias": "token_embd_norm.bias",
    "pooler.dense.weight": "cls.weight",
    "pooler.dense.bias": "cls.bias",
    "classifier.weight": "cls.output.weight",
    "classifier.bias": "cls.output.bias",
}
LAYER = {
    "attention.self.query": "attn_q",
    "attention.self.key": "attn_k",
    "attention.self.value": "attn_v",
    "attention.output.dense": "attn_output",
    "attention.output.LayerNorm": "attn_output_norm",
    "intermediate.dense": "ffn_up",
    "output.dense": "ffn_down",
    "output.LayerNorm": "layer_output_norm",
}


@dataclass(frozen=True)
class Card:
    """Say what the file is: its names, and how llama.cpp makes one answer of all tokens."""

    name: str
    basename: str
    description: str
    pooling: gguf.PoolingType


def gguf_name(name: str) -> str:
    """Return the GGUF name of a tensor of Transformers."""
    name = name.removeprefix("bert.")
    if name in WHOLE:
        return WHOLE[name]
    _, _, layer, rest = name.split(".", 3)
    part, kind = rest.rsplit(".", 1)
    return f"blk.{layer}.{LAYER[part]}.{kind}"


def phantom_space(token: str, special: set[str]) -> str:
    """Return a piece as llama.cpp knows it: a mark before those that begin a word, none before those inside."""
    if token in special:
        return token
    return token.removeprefix("##") if token.startswith("##") else SPACE + token


def add_model_keys(writer: gguf.GGUFWriter, config: BertConfig, card: Card, parameters: int) -> None:
    """Write the metadata of the model."""
    writer.add_type(gguf.GGUFType.MODEL)
    writer.add_name(card.name)
    writer.add_basename(card.basename)
    writer.add_description(card.description)
    writer.add_organization("modelrack")
    writer.add_license("apache-2.0")
    writer.add_languages(["en"])
    writer.add_size_label(f"{parameters / 1e6:.1f}M")
    writer.add_context_length(config.max_position_embeddings)
    writer.add_vocab_size(config.vocab_size)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_layer_norm_eps(config.layer_norm_eps)
    writer.add_causal_attention(False)
    writer.add_pooling_type(card.pooling)
    if card.pooling == gguf.PoolingType.RANK:
        writer.add_classifier_output_labels(["LABEL_0"])
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_F16)


def add_tokenizer_keys(writer: gguf.GGUFWriter, tokenizer: BertTokenizer, token_types: int) -> None:
    """Write the vocabulary and the special tokens: [CLS] begins a text, [SEP] ends each text of a pair."""
    special = set(tokenizer.all_special_tokens)
    tokens = tokenizer.convert_ids_to_tokens(list(range(len(tokenizer))))
    kinds = [gguf.TokenType.CONTROL if token in special else gguf.TokenType.NORMAL for token in tokens]
    kinds[tokenizer.unk_token_id] = gguf.TokenType.UNKNOWN
    writer.add_tokenizer_model("bert")
    writer.add_tokenizer_pre("default")
    writer.add_token_list([phantom_space(token, special) for token in tokens])
    writer.add_token_types(kinds)
    writer.add_token_type_count(token_types)
    writer.add_bos_token_id(tokenizer.cls_token_id)
    writer.add_eos_token_id(tokenizer.sep_token_id)
    writer.add_sep_token_id(tokenizer.sep_token_id)
    writer.add_unk_token_id(tokenizer.unk_token_id)
    writer.add_pad_token_id(tokenizer.pad_token_id)
    writer.add_mask_token_id(tokenizer.mask_token_id)
    writer.add_add_bos_token(True)
    writer.add_add_eos_token(True)
    writer.add_add_sep_token(False)


def add_tensors(writer: gguf.GGUFWriter, weights: dict[str, torch.Tensor]) -> None:
    """Write the tensors: matrices as float16, vectors, positions and token types as float32."""
    for name, value in weights.items():
        small = value.dim() < 2 or "position" in name or "token_type" in name or name.startswith("classifier")
        kind = np.float32 if small else np.float16
        writer.add_tensor(gguf_name(name), value.float().numpy().astype(kind))


def write_gguf(
    path: Path, card: Card, config: BertConfig, tokenizer: BertTokenizer, weights: dict[str, torch.Tensor]
) -> None:
    """Write the whole GGUF file."""
    writer = gguf.GGUFWriter(path, "bert")
    add_model_keys(writer, config, card, sum(value.numel() for value in weights.values()))
    add_tokenizer_keys(writer, tokenizer, config.type_vocab_size)
    add_tensors(writer, weights)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
