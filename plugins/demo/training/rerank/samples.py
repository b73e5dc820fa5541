"""Draw queries, each with one document that answers it and several that do not."""

from __future__ import annotations

import random
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from embedding.train import embed
from retrieval.everyday import Kind, Meaning
from retrieval.pairs import Pairs, join
from retrieval.passages import Passage
from torch.nn import functional
from transformers import AutoTokenizer, BertModel

DOCUMENTS = 6
HARD, HARD_POOL = 2, 12
QUERIES_MINED = 4
EVERYDAY_SHARE, WORDS_SHARE = 0.14, 0.05
SEVERAL_SHARE = 0.2
SHORT = 200


@dataclass(frozen=True)
class Sample:
    """Hold a query with its documents; the first is the right one."""

    query: str
    documents: list[str]


def mine(folder: Path, passages: list[Passage]) -> list[list[int]]:
    """Return for each passage the others that an embedding model finds nearest to its queries, the nearest first."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = BertModel.from_pretrained(folder, dtype=torch.float32).eval()
    source = random.Random(0)
    texts = [passage.text for passage in passages]
    asked = [source.sample(p.queries, min(QUERIES_MINED, len(p.queries))) for p in passages]
    with torch.no_grad():
        own = functional.normalize(embed(model, tokenizer, texts), dim=1).numpy()
        queries = functional.normalize(embed(model, tokenizer, [q for some in asked for q in some]), dim=1).numpy()
    found, start = [], 0
    for number, some in enumerate(asked):
        scores = np.max(queries[start : start + len(some)] @ own.T, axis=0)
        start += len(some)
        scores[number] = -1
        found.append([int(n) for n in np.argsort(-scores)[:HARD_POOL]])
    return found


class Samples:
    """Draw samples from the facts, from sentences of every day and from words without any order."""

    def __init__(self, seed: int, folder: Path) -> None:
        """Read the data, and find the documents that are hard to tell apart with the model in a folder."""
        self.pairs = Pairs(seed)
        self.random = self.pairs.random
        self.passages = self.pairs.passages
        self.hard = mine(folder, self.passages)
        self.difficulty = 1.0
        self.table, self.statement_share, self.preface_share = 1, 0.06, 0.0

    def draw(self) -> Sample:
        """Draw a sample of short documents.

        With little `difficulty` (0 to 1) most wrong ones have nothing to do with the query: that is learned first.
        """
        draw = self.random.random()
        if draw < EVERYDAY_SHARE:
            return self.everyday()
        if draw < EVERYDAY_SHARE + WORDS_SHARE:
            return self.words()
        number = self.random.randrange(len(self.passages))
        passage = self.passages[number]
        draw = self.random.random()
        query = self.pairs.statement(passage) if draw < self.statement_share else self.query(passage)
        wrong = self.wrong(number, DOCUMENTS - 1)
        if self.random.random() < SEVERAL_SHARE * self.difficulty:
            return Sample(query, self.several(passage, wrong))
        return Sample(query, [self.document(item) for item in [passage, *wrong]])

    def query(self, passage: Passage) -> str:
        """Draw a question, as it is in the data or changed."""
        if self.random.random() > self.difficulty:
            return self.random.choice(passage.queries)
        if self.preface_share and self.random.random() < self.preface_share:
            return f"{self.preface()} {self.pairs.query(passage)}"
        return self.pairs.query(passage)

    def preface(self) -> str:
        """Draw words that come before a question and do not matter."""
        if self.random.random() < 0.3:
            return join([self.pairs.everyday.sentence()[0]])
        words = " ".join(self.random.sample(self.pairs.words, self.random.randint(1, 5)))
        return words.capitalize() + self.random.choice([":", ",", ".", " -", "!"])

    def wrong(self, number: int, count: int) -> list[Passage]:
        """Draw passages that do not answer: near ones, some of the same table, and any."""
        passage = self.passages[number]
        near = self.random.sample(self.hard[number], min(HARD, count))
        table = [item for item in self.pairs.blocks[passage.block] if item is not passage]
        chosen = [self.passages[n] for n in near]
        chosen += self.random.sample(table, min(self.table, len(table)))
        chosen = [item for item in chosen if self.random.random() < self.difficulty]
        while len(chosen) < count:
            other = self.random.choice(self.passages)
            if other is not passage:
                chosen.append(other)
        self.random.shuffle(chosen)
        return chosen[:count]

    def document(self, passage: Passage) -> str:
        """Draw a document that says what a passage says."""
        return passage.text if self.random.random() < 0.7 else self.pairs.statement(passage)

    def several(self, passage: Passage, wrong: list[Passage]) -> list[str]:
        """Draw documents of two or three sentences, one of which answers in the right document."""
        documents = []
        for number, first in enumerate([passage, *wrong]):
            others = [item for item in wrong if item is not first and len(item.text) < SHORT]
            group = [first, *self.random.sample(others, min(len(others), self.random.randint(1, 2)))]
            self.random.shuffle(group)
            documents.append(join(self.document(item) for item in group))
            if number == DOCUMENTS // 2:
                break
        return documents + [self.document(item) for item in wrong[-(DOCUMENTS - len(documents)) :]]

    def everyday(self) -> Sample:
        """Draw a question of every day; the wrong answers differ in what the question names, most in one thing only."""
        everyday = self.pairs.everyday
        sort = self.random.choice(everyday.kinds)
        meaning = everyday.meaning(sort)
        template = self.random.choice(sort.questions)
        query = everyday.text(template, meaning)
        named = sorted({name.lower() for name in re.findall(r"\{(\w+)\}", template)})
        documents = [everyday.text(self.random.choice(sort.statements), meaning)]
        for number in range(DOCUMENTS - 1):
            other = self.differing(sort, meaning, named) if number < self.difficulty * (HARD + self.table) else None
            documents.append(
                everyday.text(self.random.choice(sort.statements), other) if other else everyday.sentence()[0]
            )
        return Sample(query, documents)

    def differing(self, sort: Kind, meaning: Meaning, named: list[str]) -> Meaning:
        """Return a meaning that differs in one of the slots that are named."""
        slot = self.random.choice([name for name in named if name in sort.slots])
        words = [words for words in self.pairs.everyday.lists[slot] if words != meaning[slot]]
        return meaning | {slot: self.random.choice(words)}

    def words(self) -> Sample:
        """Draw a few words, and documents of words of which one has them all."""
        documents = [self.random.sample(self.pairs.words, self.random.randint(5, 12)) for _ in range(DOCUMENTS)]
        query = self.random.sample(documents[0], self.random.randint(2, 4))
        return Sample(" ".join(query), [" ".join(words) for words in documents])

    def long(self, documents: int, most: int) -> Sample:
        """Draw a question, and long documents of which one has the answer somewhere."""
        number = self.random.randrange(len(self.passages))
        query = self.pairs.query(self.passages[number])
        found = []
        for place in range(documents):
            sentences = [first for first, _ in self.pairs.sentences(self.random.randint(4, most))]
            known = {self.passages[number].text, *self.passages[number].statements}
            sentences = [text for text in sentences if text not in known]
            if place == 0:
                sentences.insert(self.random.randint(0, len(sentences)), self.document(self.passages[number]))
            else:
                other = self.passages[self.random.choice(self.hard[number])]
                sentences.insert(self.random.randint(0, len(sentences)), self.document(other))
            found.append(join(sentences))
        return Sample(query, found)
