"""Export the trained embedding model to GGUF (float16) and to a folder for sentence-transformers (float32)."""

from __future__ import annotations

import argparse
from pathlib import Path

import gguf
import torch
from embedding.train import DIMENSIONS
from retrieval.folder import model_config, write_json, write_model
from retrieval.gguf_bert import Card, write_gguf
from transformers import AutoTokenizer, BertModel, BertTokenizer

GGUF_NAME = "demo-embedding-f16.gguf"
CARD = Card(
    name="modelrack demo embedding",
    basename="demo-embedding",
    description="A tiny embedding model for simple facts in English",
    pooling=gguf.PoolingType.MEAN,
)


def write_folder(folder: Path, model: BertModel, tokenizer: BertTokenizer) -> None:
    """Write the folder: the encoder, the mean of its hidden states, unit length."""
    config = model_config(model.config, "BertModel") | {"matryoshka_dimensions": sorted(DIMENSIONS)}
    write_model(folder, config, tokenizer, model.state_dict())
    kinds = {"": "Transformer", "1_Pooling": "Pooling", "2_Normalize": "Normalize"}
    modules = [
        {"idx": number, "name": str(number), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for number, (path, kind) in enumerate(kinds.items())
    ]
    write_json(folder / "modules.json", modules)
    width = model.config.hidden_size
    modes = {"pooling_mode_cls_token": False, "pooling_mode_mean_tokens": True, "pooling_mode_max_tokens": False}
    write_json(folder / "1_Pooling" / "config.json", {"word_embedding_dimension": width, **modes})
    write_json(folder / "2_Normalize" / "config.json", {})
    length = model.config.max_position_embeddings
    write_json(folder / "sentence_bert_config.json", {"max_seq_length": length, "do_lower_case": False})
    settings = {"prompts": {}, "default_prompt_name": None, "similarity_fn_name": "cosine"}
    write_json(folder / "config_sentence_transformers.json", settings)


def main() -> None:
    """Export a trained model."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    tokenizer = AutoTokenizer.from_pretrained(options.model)
    model = BertModel.from_pretrained(options.model, dtype=torch.float32)
    write_folder(options.out / "safetensors", model, tokenizer)
    weights = {name: value for name, value in model.state_dict().items() if not name.startswith("pooler.")}
    write_gguf(options.out / GGUF_NAME, CARD, model.config, tokenizer, weights)
    print(f"{options.out / GGUF_NAME}: {(options.out / GGUF_NAME).stat().st_size} bytes")


if __name__ == "__main__":
    main()
