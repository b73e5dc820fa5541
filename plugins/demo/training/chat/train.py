"""Train the demo model from scratch on the text data of this folder."""

from __future__ import annotations

import argparse
import math
import random
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from chat.samples import Part, Sampler
from chat.tokenizer import CONTEXT_LENGTH
from torch import nn
from torch.nn import functional
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

SEED = 20250
POOL = 4096
BATCH_TOKENS = 2560
WIDTH_STEP = 8
EAGER_WIDTH = 224
DROPOUT = 0.05
Batch = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


def build_model(tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    """Return the untrained model."""
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=256,
        intermediate_size=768,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=CONTEXT_LENGTH,
        rms_norm_eps=1e-5,
        tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return LlamaForCausalLM(config)


def add_dropout(model: LlamaForCausalLM) -> None:
    """Add dropout to the output of each block, with one mask for all positions of a sample."""

    def drop(module: nn.Module, _inputs: tuple, output: torch.Tensor) -> torch.Tensor:
        if not module.training:
            return output
        mask = torch.empty(output.shape[0], 1, output.shape[2], dtype=output.dtype).bernoulli_(1 - DROPOUT)
        return output * (mask / (1 - DROPOUT))

    for layer in model.model.layers:
        layer.self_attn.o_proj.register_forward_hook(drop)
        layer.mlp.down_proj.register_forward_hook(drop)


def encode(tokenizer: PreTrainedTokenizerFast, samples: list[list[Part]]) -> list[tuple[list[int], list[float]]]:
    """Return the token ids and the loss weight of each token of the samples."""
    texts = [text for sample in samples for text, _ in sample]
    encoded = iter(tokenizer(texts, add_special_tokens=False)["input_ids"])
    result = []
    for sample in samples:
        ids: list[int] = []
        weights: list[float] = []
        for _, weight in sample:
            part = next(encoded)
            ids += part
            weights += [weight] * len(part)
        result.append((ids[:CONTEXT_LENGTH], weights[:CONTEXT_LENGTH]))
    return result


def padded_width(length: int) -> int:
    """Return the width of a batch: few widths, because each new shape costs time."""
    return -(-length // WIDTH_STEP) * WIDTH_STEP


def pad(rows: list[tuple[list[int], list[float]]], filler: int) -> Batch:
    """Return inputs, targets and weights of a batch as rectangular tensors."""
    width = padded_width(max(len(ids) for ids, _ in rows)) + 1
    ids = torch.tensor([row + [filler] * (width - len(row)) for row, _ in rows])
    weights = torch.tensor([row + [0.0] * (width - len(row)) for _, row in rows])
    return ids[:, :-1], ids[:, 1:], weights[:, 1:]


def batches(tokenizer: PreTrainedTokenizerFast) -> Iterator[Batch]:
    """Yield batches of samples of similar length, without end."""
    sampler = Sampler(SEED)
    shuffler = random.Random(SEED)
    while True:
        rows = sorted(encode(tokenizer, [sampler.sample() for _ in range(POOL)]), key=lambda row: len(row[0]))
        groups: list[list[tuple[list[int], list[float]]]] = [[]]
        for row in rows:
            if groups[-1] and padded_width(len(row[0])) * (len(groups[-1]) + 1) > BATCH_TOKENS:
                groups.append([])
            groups[-1].append(row)
        shuffler.shuffle(groups)
        for group in groups:
            yield pad(group, tokenizer.pad_token_id)


def make_optimizer(model: LlamaForCausalLM, rate: float) -> torch.optim.AdamW:
    """Return AdamW with weight decay on the matrices only."""
    matrices = [p for p in model.parameters() if p.dim() > 1]
    vectors = [p for p in model.parameters() if p.dim() <= 1]
    groups = [{"params": matrices, "weight_decay": 0.05}, {"params": vectors, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=rate, betas=(0.9, 0.98), fused=True)


def rate_factor(step: int, steps: int) -> float:
    """Return the part of the peak learning rate: a short rise, then a cosine fall."""
    rise = min(200, steps // 10)
    if step < rise:
        return (step + 1) / rise
    return 0.5 * (1 + math.cos(math.pi * (step - rise) / (steps - rise)))


def batch_loss(model: LlamaForCausalLM, batch: Batch) -> torch.Tensor:
    """Return the weighted loss of a batch."""
    inputs, targets, weights = batch
    chosen = weights > 0
    model.set_attn_implementation("eager" if inputs.shape[1] <= EAGER_WIDTH else "sdpa")
    with torch.autocast("cpu", torch.bfloat16):
        hidden = model.model(input_ids=inputs, use_cache=False).last_hidden_state
        logits = model.lm_head(hidden[chosen])
    losses = functional.cross_entropy(logits.float(), targets[chosen], reduction="none")
    return (losses * weights[chosen]).sum() / weights.sum().clamp(min=1.0)


def train(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, steps: int, rate: float) -> None:
    """Run the training loop."""
    optimizer = make_optimizer(model, rate)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: rate_factor(step, steps))
    source = batches(tokenizer)
    start, total, tokens = time.time(), 0.0, 0
    model.train()
    for step in range(1, steps + 1):
        batch = next(source)
        tokens += batch[0].numel()
        loss = batch_loss(model, batch)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        scheduler.step()
        total += loss.item()
        if step % 50 == 0:
            print(f"step {step} loss {total / 50:.4f} tokens {tokens} seconds {time.time() - start:.0f}", flush=True)
            total = 0.0


def main() -> None:
    """Train and save the model beside its tokenizer."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tokenizer", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=2600)
    parser.add_argument("--rate", type=float, default=2e-3)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(SEED)
    tokenizer = AutoTokenizer.from_pretrained(options.tokenizer)
    model = build_model(tokenizer)
    add_dropout(model)
    print(f"{sum(p.numel() for p in model.parameters())} parameters")
    train(model, tokenizer, options.steps, options.rate)
    model.save_pretrained(options.out)
    tokenizer.save_pretrained(options.out)


if __name__ == "__main__":
    main()
