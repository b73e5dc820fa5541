"""Change the wording and the look of a question, without changing what it asks."""

from __future__ import annotations

import random
import re
from collections.abc import Sequence

SMALL_WORDS = {"the", "a", "an", "is", "are", "does", "do", "of", "in", "to", "there", "was", "has", "have"}


def vary(source: random.Random, question: str, wrappers: Sequence[str]) -> str:
    """Return the question in a random typographic form; with wrappers, sometimes in one of them or reworded."""
    draw = source.random()
    if wrappers and draw < 0.28:
        question = wrapped(source.choice(wrappers), question)
    elif wrappers and draw < 0.38:
        question = source.choice(indirect(question))
    if wrappers and source.random() < 0.08:
        question = swap_question_word(question)
    if wrappers and source.random() < 0.05:
        question = " ".join(word for word in question.split() if word.lower() not in SMALL_WORDS) or question
    case = source.random()
    if case < 0.25:
        question = question.lower()
    elif case < 0.27:
        question = question.upper()
    if source.random() < 0.22:
        question = question.rstrip("?.!") or question
    if source.random() < 0.05:
        question = typo(source, question)
    if source.random() < 0.02:
        question += source.choice([" ", "\n", "??", "!", "...", " ?"])
    return question


def typo(source: random.Random, text: str) -> str:
    """Drop, double or swap one letter of a longer text."""
    if len(text) < 12:
        return text
    at = source.randrange(1, len(text) - 1)
    kind = source.randrange(3)
    if kind == 0:
        return text[:at] + text[at + 1 :]
    if kind == 1:
        return text[:at] + text[at] + text[at:]
    return text[:at] + text[at + 1] + text[at] + text[at + 2 :]


def plain(question: str) -> str:
    """Return the question in lower case without its last punctuation."""
    return question.lower().rstrip("?.! ")


def swap_question_word(question: str) -> str:
    """Exchange the question words "What" and "Which" where both can stand."""
    if re.match(r"Which (?!is |are |of )", question):
        return "What" + question.removeprefix("Which")
    if re.match(r"What (?!is |are |do |does |was |were |has )", question):
        return "Which" + question.removeprefix("What")
    return question


def small_first(question: str) -> str:
    """Return the question with a small first letter."""
    return question if question.startswith("I ") else question[:1].lower() + question[1:]


def wrapped(wrapper: str, question: str) -> str:
    """Put a question into a wrapper."""
    return wrapper.replace("{q}", question).replace("{l}", small_first(question))


def indirect(question: str) -> list[str]:
    """Return the question in indirect forms, or as it is when its grammar is another one."""
    match = re.match(r"^(What|Who|Where|Which \w+) (is|was|are|were) (.+)\?$", question)
    if match is None:
        return [question]
    what, verb, rest = match.groups()
    core = f"{what.lower()} {rest} {verb}"
    forms = [f"Do you know {core}?", f"Tell me {core}.", f"Please tell me {core}.", f"Can you tell me {core}?"]
    if what == "What":
        forms += [f"What's {rest}?", f"what's {rest}?", f"Tell me {rest}."]
    return forms
