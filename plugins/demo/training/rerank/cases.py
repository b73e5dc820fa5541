"""Collect the held-out queries, each with candidates of which one is right."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from retrieval.cases import Case
from retrieval.passages import Passage

SEED = 78
CANDIDATES, HARD = 20, 10


@dataclass(frozen=True)
class Choice:
    """Hold a case with the numbers of its candidates; `case.passage` is one of them."""

    case: Case
    candidates: list[int]


def choices(cases: Sequence[Case], passages: Sequence[Passage], similar: np.ndarray) -> list[Choice]:
    """Return each case with its own passage, the most similar others and some at random, in a random order.

    Args:
        similar: similarity of each case to each passage, of shape (cases, passages).
    """
    source = random.Random(SEED)
    found = []
    for case, row in zip(cases, similar, strict=True):
        near = [int(n) for n in np.argsort(-row)[: HARD + 1] if n != case.passage][:HARD]
        rest = [n for n in range(len(passages)) if n != case.passage and n not in near]
        candidates = [case.passage, *near, *source.sample(rest, CANDIDATES - HARD - 1)]
        source.shuffle(candidates)
        found.append(Choice(case, candidates))
    return found
