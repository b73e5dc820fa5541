"""Models that embed or rank, in this process: against the bare library, and what the kit does not ask for."""

import math
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import llama_cpp
import numpy as np
import pytest

from modelrack.batching import Prepared
from modelrack.embedding import EmbeddingWork
from modelrack.errors import EngineError, LaunchFailed
from modelrack.pooling.texts import Pair
from modelrack.rerank import RerankWork
from modelrack.testing.gguf_bert import convert_bert, unigram_vocabulary, write_bert_model, write_decoder_model
from modelrack.testing.gguf_subjects import pooled_plan, reference_bert
from modelrack.testing.numpy_bert import NumpyBert
from modelrack.testing.st import write_embedder
from modelrack_demo.heldout import load
from modelrack_demo.plugin import MODELS
from modelrack_llm_gguf.pooled import GgufEmbedding, GgufEmbeddingLoader, GgufRanking, GgufRerankLoader

TEXTS = ["the blue whale is the largest animal", "honey never spoils", "a", "x " * 50]
QUERY = "what is the largest animal"
TOLERANCE = 1e-3
"""Of vectors of length 1 and probabilities; attention reads keys and values in 16 bits."""
RAW = 1e-2
"""Of vectors and scores as they come."""


@contextmanager
def embedding(path: Path, **options: Any) -> Iterator[GgufEmbedding]:
    model = GgufEmbeddingLoader(pooled_plan(path, "embedding", **options)).load_model(lambda progress, stage: None)
    yield model
    model.close()


@contextmanager
def ranking(path: Path, **options: Any) -> Iterator[GgufRanking]:
    model = GgufRerankLoader(pooled_plan(path, "rerank", **options)).load_model(lambda progress, stage: None)
    yield model
    model.close()


def embed(model: GgufEmbedding, texts: list[str]) -> tuple[Any, list[int]]:
    """Return the vectors, and the tokens counted."""
    prepared = model.prepare([EmbeddingWork(index, text) for index, text in enumerate(texts)])
    items = [one for one in prepared if isinstance(one, Prepared)]
    assert len(items) == len(texts), prepared
    rows = model.run([one.payload for one in items])
    return np.array([row.dense for row in rows]), [one.tokens for one in items]


def pairs(model: GgufRanking, query: str, documents: list[str]) -> list[Pair]:
    found = model.prepare([RerankWork(index, query, document) for index, document in enumerate(documents)])
    return [one.payload for one in found if isinstance(one, Prepared)]


def unit(row: Any) -> Any:
    return row / np.linalg.norm(row)


@pytest.mark.parametrize("pooling", ["last", "mean"])
def test_texts_are_embedded_as_by_the_bare_library(tmp_path: Path, pooling: str) -> None:
    write = write_decoder_model if pooling == "last" else write_bert_model
    path = write(tmp_path / "m.gguf")
    bare = llama_cpp.Llama(str(path), embedding=True, n_ctx=256, n_threads=1, verbose=False)
    expected = [bare.embed(text) for text in TEXTS]
    counts = [len(bare.tokenize(text.encode(), add_bos=True, special=True)) for text in TEXTS]
    bare.close()
    with embedding(path) as model:
        vectors, tokens = embed(model, TEXTS)
    assert vectors == pytest.approx(np.array(expected), abs=RAW)
    assert tokens == counts


def test_a_long_text_is_computed_in_parts(tmp_path: Path) -> None:
    path = write_decoder_model(tmp_path / "m.gguf")
    ids = [[10 + (number * step) % 300 for step in range(200 + number)] for number in range(3)]
    with embedding(path) as model:
        whole = [one.dense for one in model.run([[7, 8], *ids])]
    with embedding(path, batch_tokens=64, flash_attn="off") as model:
        parts = [one.dense for one in model.run([[7, 8], *ids])]
    for one, other in zip(whole, parts, strict=True):
        assert unit(one) == pytest.approx(unit(other), abs=2 * TOLERANCE)


@pytest.mark.parametrize("pooling", ["mean", "last"])
@pytest.mark.parametrize("options", [{"batch_items": 3, "batch_tokens": 32}, {"batch_items": 200, "max_tokens": 77}])
def test_batches_of_any_size(tmp_path: Path, pooling: str, options: dict[str, int]) -> None:
    """llama.cpp aborts the process where the texts that it tells apart do not divide a batch."""
    path = tmp_path / "m.gguf"
    path = write_bert_model(path) if pooling == "mean" else write_decoder_model(path)
    with embedding(path, warmup=False, **options) as model:
        ids = [[10 + (number * step) % 80 for step in range(1 + number * 7 % 77)] for number in range(60)]
        rows = model.run(ids)
        for number in (0, 30, 59):
            (alone,) = model.run([ids[number]])
            assert unit(rows[number].dense) == pytest.approx(unit(alone.dense), abs=TOLERANCE)


@pytest.mark.parametrize("pooling", ["rank", None])
def test_documents_are_ranked_as_by_hand(tmp_path: Path, pooling: Any) -> None:
    """Also those of files that do not say that they rank."""
    by_hand = reference_bert(head=True)
    with ranking(write_bert_model(tmp_path / "m.gguf", pooling=pooling, head=True)) as model:
        found = pairs(model, QUERY, TEXTS)
        assert [pair.tokens for pair in found] == [by_hand.encode(QUERY, text) for text in TEXTS]
        assert model.run(found) == pytest.approx([by_hand.score(QUERY, text) for text in TEXTS], abs=RAW)


def test_pairs_of_other_vocabularies_have_their_marks(tmp_path: Path) -> None:
    """XLM-RoBERTa's have an end and a separator between the two texts."""
    with ranking(write_bert_model(tmp_path / "m.gguf", pooling="rank", vocabulary="unigram")) as model:
        (found,) = pairs(model, "the", ["animal"])
        tokens = unigram_vocabulary()
        assert [tokens[token] for token in found.tokens] == ["<s>", "\u2581the", "</s>", "</s>", "\u2581animal", "</s>"]


def test_a_decoder_ranks_by_its_template(tmp_path: Path) -> None:
    """Its score is that of its answer being yes, as a logit."""
    path = write_decoder_model(tmp_path / "m.gguf", pooling="rank", template="<|im_start|>{query}|{document}")
    bare = llama_cpp.Llama(str(path), vocab_only=True, verbose=False)
    filled = [f"<|im_start|>{QUERY}|{text}".encode() for text in TEXTS]
    expected = [bare.tokenize(text, add_bos=False, special=True) for text in filled]
    bare.close()
    with ranking(path) as model:
        found = pairs(model, QUERY, TEXTS)
        assert [pair.tokens for pair in found] == expected
        probabilities, scores = model.score(found), model.run(found)
        assert all(0 < one < 1 for one in probabilities) and len(set(probabilities)) == 4
        assert scores == pytest.approx([math.log(one / (1 - one)) for one in probabilities], abs=1e-5)
        assert [model.relevance(one) for one in scores] == pytest.approx(probabilities, abs=1e-5)


def test_too_long_documents_are_cut_to_what_fits(tmp_path: Path) -> None:
    with ranking(write_bert_model(tmp_path / "m.gguf", pooling="rank")) as model:
        (pair,) = pairs(model, QUERY, ["blue whale " * 500])
        assert len(pair.tokens) == model.traits.max_tokens == 128
        assert math.isfinite(model.run([pair])[0])


@pytest.mark.parametrize("pooling", ["mean", "last"])
def test_what_nobody_waits_for_is_given_up(tmp_path: Path, pooling: str) -> None:
    path = tmp_path / "m.gguf"
    path = write_bert_model(path) if pooling == "mean" else write_decoder_model(path)
    with embedding(path) as model:
        expected, _ = embed(model, TEXTS)
        timer = threading.Timer(0.05, model.interrupt)
        timer.start()
        with pytest.raises(EngineError, match="stopped"):
            model.run([[5] * 100] * 50_000)
        timer.join()
        assert embed(model, TEXTS)[0] == pytest.approx(expected, abs=RAW)


def test_a_batch_that_cannot_be_computed_is_an_error(tmp_path: Path) -> None:
    with embedding(write_bert_model(tmp_path / "m.gguf")) as model:
        with pytest.raises(EngineError, match="could not compute a batch"):
            model.run([[5, 10_000_000]])
        with pytest.raises(EngineError, match="cannot be computed at once"):
            model.run([[5] * 10_000])
        assert len(model.run([[5]])) == 1


def test_a_model_of_another_library_keeps_its_numbers(tmp_path: Path) -> None:
    """The same weights, as sentence-transformers saves them and as a GGUF file."""
    source = write_embedder(tmp_path / "source")
    by_hand = NumpyBert.read(source)
    with embedding(convert_bert(source, tmp_path / "m.gguf")) as model:
        vectors, _ = embed(model, TEXTS[:3])
    for text, vector in zip(TEXTS, vectors, strict=False):
        assert float(unit(vector) @ unit(by_hand.embed(text, "mean"))) > 0.9999


def test_tokens_and_text(tmp_path: Path) -> None:
    with embedding(write_decoder_model(tmp_path / "m.gguf")) as model:
        ids = model.tokenizer.encode("honey", add_special=False)
        assert model.tokenizer.decode(ids) == "honey"
        assert "".join(model.tokenizer.names(ids)) == "honey"
        assert model.tokenizer.encode("honey", add_special=True) == [*ids, 414]
        assert model.traits.max_tokens == 256


def test_a_launch_that_fails_says_why(tmp_path: Path) -> None:
    path = write_bert_model(tmp_path / "m.gguf")
    with pytest.raises(LaunchFailed, match="no prompt 'query'"), embedding(path, default_prompt="query"):
        pass
    data = path.read_bytes()
    broken = tmp_path / "b.gguf"
    broken.write_bytes(data.replace(b"blk.1.ffn_up.weight", b"blk.1.ffn_UP.weight"))
    with pytest.raises(LaunchFailed, match=r"llama\.cpp could not load .*ffn_up"), embedding(broken):
        pass


def test_the_demo_model_puts_what_is_meant_first() -> None:
    """In texts that no training saw."""
    choices = [choice for choice in load().choices if choice.verified]
    assert len(choices) > 20
    with ranking(MODELS / "demo-rerank" / "demo-rerank-f16.gguf") as model:
        for choice in choices:
            scores = model.run(pairs(model, choice.query, list(choice.documents)))
            assert scores.index(max(scores)) == choice.right, choice
