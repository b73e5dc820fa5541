"""Train the embedding model from scratch: texts that belong together come close, all others go away."""

from __future__ import annotations

import argparse
import math
import time
from pathlib import Path

import torch
from retrieval.learning import by_length, in_order, make_optimizer, rate_factor
from retrieval.pairs import Pair, Pairs
from retrieval.wordpiece import CONTEXT_LENGTH, train, wrap
from torch import nn
from torch.nn import functional
from transformers import BertConfig, BertModel, BertTokenizer

SEED = 20260
FACTS, EVERYDAY, WORDS = 176, 48, 32
LONG_EVERY, LONG_PAIRS, LONG_SENTENCES = 10, 16, 45
CHUNK = 96
TEMPERATURE = 0.05
DIMENSIONS = (128, 64, 32)
DIMENSION_WEIGHTS = (1.0, 0.5, 0.3)


def build_model(tokenizer: BertTokenizer) -> BertModel:
    """Return the untrained model.

    Positions begin as sines and cosines, so that those of long texts, which are rare, mean something from the start.
    Token types stay zero: llama.cpp gives every token the first type, also in the second text of a pair.
    """
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=128,
        num_hidden_layers=4,
        num_attention_heads=4,
        intermediate_size=512,
        max_position_embeddings=CONTEXT_LENGTH,
        hidden_dropout_prob=0.05,
        attention_probs_dropout_prob=0.0,
        pad_token_id=tokenizer.pad_token_id,
    )
    model = BertModel(config)
    model.set_attn_implementation("eager")  # for short texts its gradients take half the time of the others'
    with torch.no_grad():
        model.embeddings.position_embeddings.weight.copy_(0.02 * sinusoids(CONTEXT_LENGTH, config.hidden_size))
        model.embeddings.token_type_embeddings.weight.zero_()
    model.embeddings.token_type_embeddings.weight.requires_grad_(False)
    model.pooler.requires_grad_(False)
    return model


def sinusoids(length: int, width: int) -> torch.Tensor:
    """Return sines and cosines of positions, of shape (length, width)."""
    rates = torch.exp(-math.log(10000.0) * torch.arange(0, width, 2) / width)
    angles = torch.arange(length)[:, None] * rates
    return torch.cat([angles.sin(), angles.cos()], dim=1)


def embed(model: BertModel, tokenizer: BertTokenizer, texts: list[str]) -> torch.Tensor:
    """Return the mean of the last hidden states of each text; texts of similar length run together."""
    parts = []
    for numbers, batch in by_length(tokenizer, tokenizer(texts, truncation=True)["input_ids"], CHUNK):
        hidden = model(**batch).last_hidden_state.float()
        mask = batch["attention_mask"][:, :, None].float()
        parts.append((numbers, (hidden * mask).sum(1) / mask.sum(1)))
    return in_order(parts)


def pair_loss(model: BertModel, tokenizer: BertTokenizer, pairs: list[Pair]) -> torch.Tensor:
    """Return the loss of picking each text's partner out of all, both ways, also with fewer dimensions."""
    vectors = embed(model, tokenizer, [first for first, _ in pairs] + [second for _, second in pairs])
    targets = torch.arange(len(pairs))
    loss = torch.zeros(())
    for width, weight in zip(DIMENSIONS, DIMENSION_WEIGHTS, strict=True):
        left, right = functional.normalize(vectors[:, :width], dim=1).chunk(2)
        with torch.autocast("cpu", enabled=False):
            scores = left @ right.T / TEMPERATURE
        both = functional.cross_entropy(scores, targets) + functional.cross_entropy(scores.T, targets)
        loss = loss + weight * both / (2 * sum(DIMENSION_WEIGHTS))
    return loss


def run(model: BertModel, tokenizer: BertTokenizer, options: argparse.Namespace) -> None:
    """Run the training loop."""
    pairs = Pairs(SEED)
    optimizer = make_optimizer(model, options.rate)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: rate_factor(step, options.steps))
    start, total, count = time.time(), 0.0, 0
    model.train()
    for step in range(1, options.steps + 1):
        if step % LONG_EVERY == 0:
            batch = pairs.long_pairs(LONG_PAIRS, LONG_SENTENCES)
        else:
            batch = pairs.fact_pairs(FACTS) + pairs.everyday_pairs(EVERYDAY) + pairs.word_pairs(WORDS)
        with torch.autocast("cpu", torch.bfloat16):
            loss = pair_loss(model, tokenizer, batch)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        scheduler.step()
        if step % LONG_EVERY:
            total, count = total + loss.item(), count + 1
        if step % 50 == 0:
            print(f"step {step} loss {total / count:.4f} seconds {time.time() - start:.0f}", flush=True)
            total, count = 0.0, 0


def main() -> None:
    """Train and save the model beside its tokenizer."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=1100)
    parser.add_argument("--rate", type=float, default=2e-3)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(SEED)
    tokenizer = wrap(train())
    model = build_model(tokenizer)
    print(f"{sum(p.numel() for p in model.parameters())} parameters")
    run(model, tokenizer, options)
    model.save_pretrained(options.out)
    tokenizer.save_pretrained(options.out)


if __name__ == "__main__":
    main()
