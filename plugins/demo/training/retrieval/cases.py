"""Collect the held-out texts, each with the passage that it must find."""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from facts import load_lines
from phrasing import wrapped
from retrieval.passages import Passage, bare

SEED = 77
WRAPPED_CASES = 300


@dataclass(frozen=True)
class Case:
    """Hold a text, the number of the passage it belongs to, and where the text comes from."""

    text: str
    passage: int
    kind: str


def held_out_cases(passages: Sequence[Passage]) -> list[Case]:
    """Return the cases whose texts, or templates, or wrappers, training does not have."""
    cases = []
    for number, passage in enumerate(passages):
        cases += [Case(text, number, "question") for text in passage.held_out_queries]
        cases += [Case(text, number, "variant") for text in passage.held_out_variants]
        cases += [Case(text, number, "statement") for text in passage.held_out_statements]
    return unambiguous(cases + wrapped_cases(passages) + fresh_cases(passages))


def unambiguous(cases: Iterable[Case]) -> list[Case]:
    """Return the cases without texts that belong to several passages."""
    cases = list(cases)
    homes: dict[str, set[int]] = {}
    for case in cases:
        homes.setdefault(bare(case.text), set()).add(case.passage)
    return [case for case in cases if len(homes[bare(case.text)]) == 1]


def wrapped_cases(passages: Sequence[Passage]) -> list[Case]:
    """Return known questions in wrappers that training does not use."""
    source = random.Random(SEED)
    wrappers = load_lines("wrappers.txt", "!")
    chosen = source.sample(range(len(passages)), WRAPPED_CASES)
    texts = [wrapped(source.choice(wrappers), source.choice(passages[number].queries)) for number in chosen]
    return [Case(text, number, "wrapper") for number, text in zip(chosen, texts, strict=True)]


def fresh_cases(passages: Sequence[Passage]) -> list[Case]:
    """Return the texts of fresh_texts.txt, which were written last and never used to change the data.

    Raises: ValueError: a line names no passage, or more than one.
    """
    cases = []
    for line in load_lines("fresh_texts.txt"):
        if line.startswith("#"):
            continue
        text, beginning = line.split(" | ")
        found = [number for number, passage in enumerate(passages) if passage.text.startswith(beginning)]
        if len(found) != 1:
            raise ValueError(f"{beginning!r} begins {len(found)} passages")
        cases.append(Case(text, found[0], "fresh"))
    return cases


def training_cases(passages: Sequence[Passage], count: int) -> list[Case]:
    """Return a sample of the texts that training uses."""
    every = [Case(text, n, "training") for n, passage in enumerate(passages) for text in passage.queries]
    return random.Random(SEED).sample(unambiguous(every), count)
