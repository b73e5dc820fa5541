"""What both trainings share: the optimizer, and the rate at which it learns."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import nn
from transformers import BertTokenizer


def rate_factor(step: int, steps: int) -> float:
    """Return the part of the peak learning rate: a short rise, then a cosine fall."""
    rise = min(100, max(1, steps // 10))
    if step < rise:
        return (step + 1) / rise
    return 0.5 * (1 + math.cos(math.pi * (step - rise) / max(1, steps - rise)))


def make_optimizer(model: nn.Module, rate: float) -> torch.optim.AdamW:
    """Return AdamW with weight decay on the matrices only."""
    trained = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in trained if p.dim() > 1], "weight_decay": 0.05},
        {"params": [p for p in trained if p.dim() <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=rate, betas=(0.9, 0.98), fused=True)


def by_length(tokenizer: BertTokenizer, ids: Sequence[list[int]], chunk: int) -> list[tuple[torch.Tensor, dict]]:
    """Return padded batches of texts of similar length, each with the places of its texts."""
    order = sorted(range(len(ids)), key=lambda number: len(ids[number]))
    batches = []
    for start in range(0, len(order), chunk):
        numbers = order[start : start + chunk]
        batch = tokenizer.pad({"input_ids": [ids[number] for number in numbers]}, return_tensors="pt")
        batches.append((torch.tensor(numbers), dict(batch)))
    return batches


def in_order(parts: Sequence[tuple[torch.Tensor, torch.Tensor]]) -> torch.Tensor:
    """Return the rows of all batches where their texts were."""
    places = torch.cat([numbers for numbers, _ in parts])
    rows = torch.cat([part for _, part in parts])
    return rows[torch.argsort(places)]
