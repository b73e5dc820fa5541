"""Draw pairs of texts that belong together: query and passage, two queries for one passage, two wordings."""

from __future__ import annotations

import random
import re
from collections import defaultdict
from collections.abc import Iterable

from facts import load_lines
from phrasing import small_first, typo, vary
from retrieval.everyday import Everyday
from retrieval.passages import Passage, load_passages, load_words

Pair = tuple[str, str]
HARD_GROUP = 4
TYPO_SHARE = 0.03
SYNONYM_SHARE = 0.35
INSERT_SHARE = 0.12


class Pairs:
    """Draw pairs from the facts, from sentences of every day and from words without any order."""

    def __init__(self, seed: int) -> None:
        """Read the data and seed the random numbers."""
        self.random = random.Random(seed)
        self.passages = load_passages()
        self.everyday = Everyday(self.random)
        self.words = load_words()
        self.wrappers = load_lines("wrappers.txt", "?")
        self.statement_wrappers = load_lines("statement_wrappers.txt", "?")
        self.synonyms = load_synonyms()
        self.blocks: dict[str, list[Passage]] = defaultdict(list)
        for passage in self.passages:
            self.blocks[passage.block].append(passage)

    def query(self, passage: Passage) -> str:
        """Draw a question for a passage in some typographic form."""
        question = self.random.choice(passage.queries)
        if self.random.random() < SYNONYM_SHARE:
            question = self.reword(question)
        if self.random.random() < INSERT_SHARE:
            words = question.split()
            words.insert(self.random.randint(0, len(words)), self.random.choice(self.words))
            question = " ".join(words)
        return vary(self.random, question, self.wrappers)

    def reword(self, text: str) -> str:
        """Put synonyms for one or two of the phrases that have some."""
        low = f" {text.lower()} "
        found = [phrase for phrase in self.synonyms if re.search(rf"\b{re.escape(phrase)}\b", low)]
        for phrase in self.random.sample(found, min(len(found), self.random.randint(1, 2))):
            other = self.random.choice(self.synonyms[phrase])
            text = re.sub(rf"\b{re.escape(phrase)}\b", other, text, count=1, flags=re.IGNORECASE)
        return text

    def statement(self, passage: Passage) -> str:
        """Draw a text that says what a passage says."""
        plain = not passage.statements or self.random.random() < 0.6
        return self.say(passage.text if plain else self.random.choice(passage.statements))

    def say(self, text: str) -> str:
        """Return a statement in some typographic form."""
        template = self.random.choice(self.statement_wrappers)
        forms = {"{s}": text, "{l}": small_first(text), "{b}": text.rstrip(".").lower()}
        for mark, form in forms.items():
            template = template.replace(mark, form)
        draw = self.random.random()
        text = template.lower() if draw < 0.12 else template.upper() if draw < 0.14 else template
        return typo(self.random, text) if self.random.random() < TYPO_SHARE else text

    def fact_pair(self, passage: Passage) -> Pair:
        """Draw two texts that belong to one passage."""
        draw = self.random.random()
        if draw < 0.5:
            return self.query(passage), passage.text
        if draw < 0.7:
            return self.query(passage), self.statement(passage)
        if draw < 0.82:
            return self.query(passage), self.query(passage)
        return self.statement(passage), passage.text

    def fact_pairs(self, count: int) -> list[Pair]:
        """Draw pairs of different passages."""
        return [self.fact_pair(passage) for passage in self.random.sample(self.passages, count)]

    def everyday_pairs(self, count: int) -> list[Pair]:
        """Draw pairs of sentences, in groups of nearly the same meaning."""
        pairs = []
        for _ in range(count // HARD_GROUP):
            sort = self.random.choice(self.everyday.kinds)
            first = self.everyday.meaning(sort)
            if self.random.random() < 0.3:
                pairs += [self.everyday.question(sort, first)]
                first = self.everyday.meaning(sort)
            pairs += [self.everyday.pair(sort, first)]
            pairs += [self.everyday.pair(sort, self.everyday.meaning(sort, first)) for _ in range(HARD_GROUP - 2)]
        return [(self.surface(first), self.surface(second)) for first, second in pairs]

    def surface(self, text: str) -> str:
        """Return a text as it is, in lower case or without its last mark."""
        draw = self.random.random()
        return text.lower() if draw < 0.15 else text.rstrip(".?") if draw < 0.3 else text

    def word_pairs(self, count: int) -> list[Pair]:
        """Draw pairs of texts that share most of their words, so that words no fact has mean something, too."""
        pairs = []
        for _ in range(count):
            words = self.random.sample(self.words, self.random.randint(3, 10))
            other = self.random.sample(words, max(2, round(len(words) * self.random.uniform(0.6, 1.0))))
            other += self.random.sample(self.words, self.random.randint(0, len(words) // 4))
            pairs.append((" ".join(words), " ".join(other)))
        return pairs

    def sentences(self, count: int) -> list[Pair]:
        """Draw sentences, each in two wordings."""
        return [
            (passage.text, self.statement(passage))
            if self.random.random() < 0.3 and len((passage := self.random.choice(self.passages)).text) < 200
            else self.everyday.sentence()
            for _ in range(count)
        ]

    def long_pairs(self, count: int, most: int) -> list[Pair]:
        """Draw long texts of up to `most` sentences, each with a shorter text of some of its sentences."""
        pairs = []
        for _ in range(count):
            sentences = self.sentences(self.random.randint(6, most))
            some = self.random.sample(sentences, max(2, round(len(sentences) * self.random.uniform(0.3, 0.7))))
            pairs.append((join(first for first, _ in sentences), join(second for _, second in some)))
        return pairs


def join(sentences: Iterable[str]) -> str:
    """Return sentences as one text."""
    return " ".join(text if text.endswith((".", "!", "?")) else f"{text}." for text in sentences)


def load_synonyms() -> dict[str, list[str]]:
    """Return the phrases that may stand for a phrase."""
    found: dict[str, list[str]] = defaultdict(list)
    for line in load_lines("synonyms.txt"):
        if not line.startswith("#"):
            phrases = [phrase.strip() for phrase in line.split("/")]
            for phrase in phrases:
                found[phrase] += [other for other in phrases if other != phrase]
    return dict(found)
