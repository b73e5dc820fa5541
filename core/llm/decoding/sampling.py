"""What engines must take the same way of how tokens are chosen, so that they answer alike."""

import secrets

from ..contract import Sampling

__all__ = ["COLD", "SEEDS", "is_greedy", "seed_of"]

SEEDS = 2**32 - 1
"""Seeds are taken modulo this: llama.cpp's have 32 bits, and the greatest of them means "random"."""
COLD = 1e-5
"""Logits that are divided by a lower temperature are no numbers any more."""


def is_greedy(sampling: Sampling) -> bool:
    """Tell whether the likeliest token is chosen."""
    return sampling.temperature < COLD


def seed_of(sampling: Sampling, index: int, default: int | None) -> int:
    """Return the seed of a choice.

    Args:
        index: of the choice.
        default: for requests that bring none; None is a new one each time.
    """
    seed = sampling.seed if sampling.seed is not None else default
    return secrets.randbelow(SEEDS) if seed is None else (seed + index) % SEEDS
