"""The embedding and the rerank model find what is meant, in texts that no training saw: in llama.cpp, without a server.

Their folders for sentence-transformers are tested with the same texts where that library is:
in the plugins that run it.
"""

import json
import math
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from modelrack_demo.heldout import Choice, HeldOut, load
from modelrack_demo.plugin import BERT_MAX_TOKENS, BERT_PARAMETERS_B, DIMENSIONS, MODELS

np = pytest.importorskip("numpy", reason="numpy is not installed here")
xllamacpp = pytest.importorskip("xllamacpp", reason="xllamacpp is not installed here")

SLOTS = 4
LIMIT_BYTES = 8_000_000
MODEL_NAMES = ("demo-embedding", "demo-rerank")


class Llama:
    """A model in this process."""

    def __init__(self, name: str, *, rerank: bool) -> None:
        parameters = xllamacpp.CommonParams()
        parameters.model.path = str(MODELS / name / f"{name}-f16.gguf")
        parameters.embedding = True
        if rerank:
            parameters.pooling_type = xllamacpp.llama_pooling_type.LLAMA_POOLING_TYPE_RANK
        parameters.n_ctx = parameters.n_batch = parameters.n_ubatch = BERT_MAX_TOKENS * SLOTS
        parameters.n_parallel = SLOTS
        parameters.cpuparams.n_threads = 1
        parameters.verbosity = 0
        self.server = xllamacpp.Server(parameters)

    def embed(self, texts: Sequence[str]) -> Any:
        rows = self.server.handle_embeddings({"input": list(texts)})["data"]
        return np.array([row["embedding"] for row in sorted(rows, key=lambda row: row["index"])])

    def scores(self, query: str, documents: Sequence[str]) -> list[float]:
        rows = self.server.handle_rerank({"query": query, "documents": list(documents)})["results"]
        return [sigmoid(row["relevance_score"]) for row in sorted(rows, key=lambda row: row["index"])]


def sigmoid(value: float) -> float:
    return 1 / (1 + math.exp(-value))


def nearest(texts: Any, passages: Any, width: int = DIMENSIONS) -> list[int]:
    """Return for each text the number of the passage with the greatest cosine."""
    left, right = (
        rows[:, :width] / np.linalg.norm(rows[:, :width], axis=1, keepdims=True) for rows in (texts, passages)
    )
    return [int(number) for number in np.argmax(left @ right.T, axis=1)]


@pytest.fixture(scope="module")
def held_out() -> HeldOut:
    return load()


@pytest.fixture(scope="module")
def embedding() -> Llama:
    return Llama("demo-embedding", rerank=False)


@pytest.fixture(scope="module")
def passages(embedding: Llama, held_out: HeldOut) -> Any:
    return embedding.embed(held_out.passages)


@pytest.fixture(scope="module")
def reranker() -> Llama:
    return Llama("demo-rerank", rerank=True)


@pytest.mark.parametrize("name", MODEL_NAMES)
def test_each_form_is_small(name: str) -> None:
    files = [path for path in (MODELS / name / "safetensors").rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= LIMIT_BYTES
    assert (MODELS / name / f"{name}-f16.gguf").stat().st_size <= LIMIT_BYTES


@pytest.mark.parametrize("name", MODEL_NAMES)
def test_the_folder_holds_the_parameters_that_the_family_names(name: str) -> None:
    path = MODELS / name / "safetensors" / "model.safetensors"
    with path.open("rb") as file:
        header = json.loads(file.read(struct.unpack("<Q", file.read(8))[0]))
    tensors = [tensor for key, tensor in header.items() if key != "__metadata__"]
    assert {tensor["dtype"] for tensor in tensors} == {"F32"}
    parameters = sum(math.prod(tensor["shape"]) for tensor in tensors)
    assert parameters == pytest.approx(BERT_PARAMETERS_B * 1e9, rel=0.05)
    config = json.loads(Path(path.parent, "config.json").read_text())
    assert (config["hidden_size"], config["max_position_embeddings"]) == (DIMENSIONS, BERT_MAX_TOKENS)


def test_unseen_texts_find_their_fact(embedding: Llama, held_out: HeldOut, passages: Any) -> None:
    """All that were right when the weights were made; that is at least 95 % of what was held out, of each kind."""
    for kind in {lookup.kind for lookup in held_out.lookups}:
        some = [lookup for lookup in held_out.lookups if lookup.kind == kind]
        verified = [lookup for lookup in some if lookup.verified]
        assert len(verified) >= 0.95 * len(some) >= 25
        found = nearest(embedding.embed([lookup.text for lookup in verified]), passages)
        wrong = [lookup.text for lookup, number in zip(verified, found, strict=True) if number != lookup.passage]
        assert not wrong


@pytest.mark.parametrize("width", [64, 32])
def test_the_first_numbers_of_a_vector_do_nearly_as_well(
    embedding: Llama, held_out: HeldOut, passages: Any, width: int
) -> None:
    found = nearest(embedding.embed([lookup.text for lookup in held_out.lookups]), passages, width)
    right = [number == lookup.passage for lookup, number in zip(held_out.lookups, found, strict=True)]
    assert np.mean(right) >= 0.95


def test_case_accents_and_the_last_mark_change_nothing_or_little(embedding: Llama) -> None:
    plain, loud, small, accents, bare = embedding.embed(
        [
            "What is the capital of Brazil?",
            "WHAT IS THE CAPITAL OF BRAZIL?",
            "what is the capital of brazil?",
            "Whát is thé cápital of Brazíl?",
            "What is the capital of Brazil",
        ]
    )
    for other in (loud, small, accents):
        assert plain @ other == pytest.approx(1.0, abs=1e-3)
    assert plain @ bare > 0.9


def test_vectors_have_length_one_and_a_batch_equals_one_by_one(embedding: Llama, held_out: HeldOut) -> None:
    texts = [lookup.text for lookup in held_out.lookups[::20]]
    together = embedding.embed(texts)
    alone = np.concatenate([embedding.embed([text]) for text in texts])
    assert np.linalg.norm(together, axis=1) == pytest.approx(np.ones(len(texts)), abs=1e-3)
    assert np.sum(together * alone, axis=1) == pytest.approx(np.ones(len(texts)), abs=1e-3)


def test_a_long_text_is_nearer_to_what_it_is_about(embedding: Llama, held_out: HeldOut) -> None:
    """Four hundred tokens on capitals, and as many on colours, each with a question of its own kind."""
    capitals = [text for text in held_out.passages if text.startswith("The capital of")][:45]
    colours = [text for text in held_out.passages if text.startswith("The colour of")] * 4
    first, second, capital, colour = embedding.embed(
        [" ".join(capitals), " ".join(colours), "capital cities of countries", "the colour of things"]
    )
    assert first @ capital > second @ capital
    assert second @ colour > first @ colour


def test_the_right_document_is_first(reranker: Llama, held_out: HeldOut) -> None:
    """Among twenty, half of which the embedding model finds the most similar; 90 % of what was held out is right."""
    verified = [choice for choice in held_out.choices if choice.verified]
    assert len(verified) >= 0.9 * len(held_out.choices) >= 100
    scores = {choice: reranker.scores(choice.query, choice.documents) for choice in verified}
    assert not [choice.query for choice, row in scores.items() if max(row) != row[choice.right]]
    right = [row[choice.right] for choice, row in scores.items()]
    others = [score for choice, row in scores.items() for place, score in enumerate(row) if place != choice.right]
    assert np.mean(np.array(right) > 0.5) >= 0.95
    assert np.mean(np.array(others) < 0.5) >= 0.95


def test_the_order_of_documents_does_not_matter(reranker: Llama, held_out: HeldOut) -> None:
    choice: Choice = held_out.choices[0]
    forwards = reranker.scores(choice.query, choice.documents)
    backwards = reranker.scores(choice.query, choice.documents[::-1])
    assert backwards[::-1] == pytest.approx(forwards, abs=2e-3)


def test_a_document_with_more_than_the_answer_beats_one_without_it(reranker: Llama) -> None:
    query = "What is the capital of France?"
    with_answer = "The blue whale is the largest animal on Earth. The capital of France is Paris."
    without = "The blue whale is the largest animal on Earth. The capital of Spain is Madrid."
    first, second = reranker.scores(query, [with_answer, without])
    assert first > 0.5 > second
