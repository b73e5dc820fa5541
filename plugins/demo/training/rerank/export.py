"""Export the trained rerank model to GGUF (float16) and to a folder for sentence-transformers (float32)."""

from __future__ import annotations

import argparse
from pathlib import Path

import gguf
import torch
from retrieval.folder import model_config, write_model
from retrieval.gguf_bert import Card, write_gguf
from transformers import AutoTokenizer, BertForSequenceClassification

GGUF_NAME = "demo-rerank-f16.gguf"
CARD = Card(
    name="modelrack demo rerank",
    basename="demo-rerank",
    description="A tiny rerank model for simple facts in English",
    pooling=gguf.PoolingType.RANK,
)


def main() -> None:
    """Export a trained model."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    tokenizer = AutoTokenizer.from_pretrained(options.model)
    model = BertForSequenceClassification.from_pretrained(options.model, dtype=torch.float32)
    config = model_config(model.config, "BertForSequenceClassification")
    config |= {
        "id2label": {"0": "LABEL_0"},
        "label2id": {"LABEL_0": 0},
        "sentence_transformers": {"activation_fn": "torch.nn.modules.activation.Sigmoid"},
    }
    write_model(options.out / "safetensors", config, tokenizer, model.state_dict())
    write_gguf(options.out / GGUF_NAME, CARD, model.config, tokenizer, model.state_dict())
    print(f"{options.out / GGUF_NAME}: {(options.out / GGUF_NAME).stat().st_size} bytes")


if __name__ == "__main__":
    main()
