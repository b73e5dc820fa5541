"""Train the rerank model, from the weights of the embedding model: does this document answer this query?"""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from rerank.samples import Sample, Samples
from retrieval.learning import by_length, in_order, make_optimizer, rate_factor
from torch import nn
from torch.nn import functional
from transformers import AutoTokenizer, BertForSequenceClassification, BertTokenizer

SEED = 20261
QUERIES = 24
LONG_EVERY, LONG_QUERIES, LONG_DOCUMENTS, LONG_SENTENCES = 12, 3, 4, 30
CHUNK = 64
RIGHT_WEIGHT = 3.0
"""Weight of a right document in the loss for each document alone: there are five wrong ones for each."""


@dataclass(frozen=True)
class Round:
    """Hold how a part of the training goes.

    Args:
        easy: parts of the round until which all samples are easy, and from which none is.
        table: how many of the wrong documents come from the table of the right one.
        statement_share: share of queries that state a fact instead of asking for it.
        preface_share: share of questions after words that do not matter.
    """

    steps: int
    rate: float
    easy: tuple[float, float]
    table: int
    statement_share: float
    preface_share: float = 0.0

    def difficulty(self, step: int) -> float:
        """Return how hard samples are at a step, from 0 to 1."""
        low, high = self.easy
        return min(1.0, max(0.0, (step / self.steps - low) / (high - low)))


ROUNDS = (
    Round(steps=1200, rate=1e-3, easy=(0.08, 0.45), table=1, statement_share=0.06),
    Round(steps=800, rate=8e-4, easy=(-1.0, 0.0), table=2, statement_share=0.12, preface_share=0.15),
    Round(steps=700, rate=1.2e-3, easy=(-1.0, 0.0), table=2, statement_share=0.08, preface_share=0.12),
)


def build_model(folder: Path) -> BertForSequenceClassification:
    """Return the encoder of the embedding model with a new head; token types stay zero, as llama.cpp knows only one."""
    model = load(folder)
    nn.init.normal_(model.classifier.weight, std=0.05)
    nn.init.zeros_(model.classifier.bias)
    return model


def load(folder: Path) -> BertForSequenceClassification:
    """Return a model of a folder, ready to be trained."""
    model = BertForSequenceClassification.from_pretrained(folder, num_labels=1, dtype=torch.float32)
    model.set_attn_implementation("eager")  # for short texts its gradients take half the time of the others'
    model.bert.embeddings.token_type_embeddings.weight.requires_grad_(False)
    return model


def score(model: BertForSequenceClassification, tokenizer: BertTokenizer, samples: list[Sample]) -> torch.Tensor:
    """Return the scores of the documents, of shape (samples, documents)."""
    queries = [sample.query for sample in samples for _ in sample.documents]
    documents = [text for sample in samples for text in sample.documents]
    ids = tokenizer(queries, documents, truncation="longest_first")["input_ids"]
    parts = [(numbers, model(**batch).logits.float()[:, 0]) for numbers, batch in by_length(tokenizer, ids, CHUNK)]
    return in_order(parts).view(len(samples), -1)


def loss_of(scores: torch.Tensor) -> torch.Tensor:
    """Return the loss: the right document before the others, and every document on its side of the middle."""
    first = functional.cross_entropy(scores, torch.zeros(len(scores), dtype=torch.long))
    wanted = torch.zeros_like(scores)
    wanted[:, 0] = 1.0
    weight = torch.ones_like(scores)
    weight[:, 0] = RIGHT_WEIGHT
    return first + functional.binary_cross_entropy_with_logits(scores, wanted, weight=weight)


def run(model: BertForSequenceClassification, tokenizer: BertTokenizer, samples: Samples, plan: Round) -> None:
    """Run one round of the training."""
    samples.table, samples.statement_share, samples.preface_share = plan.table, plan.statement_share, plan.preface_share
    optimizer = make_optimizer(model, plan.rate)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: rate_factor(step, plan.steps))
    start, total, right, count = time.time(), 0.0, 0, 0
    model.train()
    for step in range(1, plan.steps + 1):
        samples.difficulty = plan.difficulty(step)
        if step % LONG_EVERY == 0 and samples.difficulty > 0:
            batch = [samples.long(LONG_DOCUMENTS, LONG_SENTENCES) for _ in range(LONG_QUERIES)]
        else:
            batch = [samples.draw() for _ in range(QUERIES)]
        with torch.autocast("cpu", torch.bfloat16):
            scores = score(model, tokenizer, batch)
        loss = loss_of(scores)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        scheduler.step()
        total += loss.item()
        right, count = right + int((scores.argmax(1) == 0).sum()), count + len(batch)
        if step % 50 == 0:
            spent = time.time() - start
            print(f"step {step} loss {total / 50:.4f} first {right / count:.3f} seconds {spent:.0f}", flush=True)
            total, right, count = 0.0, 0, 0


def save(model: BertForSequenceClassification, tokenizer: BertTokenizer, folder: Path) -> None:
    """Save the model beside its tokenizer."""
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def main() -> None:
    """Train in rounds, and save the model beside its tokenizer after each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--embedding", type=Path, required=True, help="the trained embedding model")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--first", type=int, default=1, help="go on with this round, from the model in --out")
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(SEED)
    tokenizer = AutoTokenizer.from_pretrained(options.embedding)
    model = build_model(options.embedding) if options.first == 1 else load(options.out)
    for number, plan in list(enumerate(ROUNDS, start=1))[options.first - 1 :]:
        torch.manual_seed(SEED + number - 1)
        run(model, tokenizer, Samples(SEED + number - 1, options.embedding), plan)
        save(model, tokenizer, options.out)


if __name__ == "__main__":
    main()
