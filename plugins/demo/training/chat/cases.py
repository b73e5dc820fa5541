"""Collect the questions that the trained model is tested with."""

from __future__ import annotations

import random
from dataclasses import dataclass

from chat.samples import Sampler
from facts import load_lines
from phrasing import plain, wrapped

SEED = 77
UNKNOWN_CASES = 150
WRAPPED_CASES = 300
SUM_CASES = 80


@dataclass(frozen=True)
class Case:
    """Hold a question with the text its answer must contain."""

    question: str
    must_contain: str
    answer: str
    kind: str
    group: str

    def right(self, answer: str) -> bool:
        """Return whether an answer contains the required text."""
        return self.must_contain.lower() in answer.lower()


def held_out_cases() -> list[Case]:
    """Return the cases that no training question equals."""
    sampler = Sampler(SEED)
    cases = []
    for fact in sampler.facts:
        for kind, questions in (("phrasing", fact.held_out), ("variant", fact.held_out_variants)):
            cases += [Case(text, fact.must_contain, fact.answer, kind, fact.group) for text in questions]
    sums = sampler.random.sample([case for case in cases if case.group == "sums"], SUM_CASES)
    cases = [case for case in cases if case.group != "sums"] + sums
    return cases + unknown_cases(sampler) + wrapped_cases(sampler) + fresh_cases(sampler)


def fresh_cases(sampler: Sampler) -> list[Case]:
    """Return the questions that were written last and never looked at while the data changed."""
    lines = [line.split(" | ") for line in load_lines("fresh.txt") if not line.startswith("#")]
    return [Case(text, wanted, "", "fresh", "fresh") for text, wanted in lines if plain(text) not in sampler.known]


def unknown_cases(sampler: Sampler) -> list[Case]:
    """Return questions without an answer from templates that training does not use."""
    unknown = sampler.unknown
    questions = dict.fromkeys(sampler.unknown_question(unknown.held_out) for _ in range(UNKNOWN_CASES))
    return [Case(text, unknown.must_contain, unknown.answer, "unknown", "unknown") for text in questions]


def wrapped_cases(sampler: Sampler) -> list[Case]:
    """Return known questions in wrappers that training does not use."""
    wrappers = load_lines("wrappers.txt", "!")
    facts = [fact for fact in sampler.facts if fact.group in ("facts", "tables")]
    cases = []
    for fact in sampler.random.sample(facts, WRAPPED_CASES):
        question = wrapped(sampler.random.choice(wrappers), sampler.random.choice(fact.phrasings))
        cases.append(Case(question, fact.must_contain, fact.answer, "wrapper", fact.group))
    return cases


def training_cases(limit: int) -> list[Case]:
    """Return a sample of the training phrasings."""
    facts = Sampler(SEED).facts
    cases = [Case(text, f.must_contain, f.answer, "training", f.group) for f in facts for text in f.phrasings]
    return random.Random(SEED).sample(cases, min(limit, len(cases)))
