"""Models that embed or rank, in this process: against the bare engine, and what the kit does not ask for."""

import math
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xllamacpp

from modelrack.batching import Prepared
from modelrack.catalog.engines import check_options
from modelrack.embedding import EmbeddingWork
from modelrack.errors import BadRequest, EngineError, LaunchFailed
from modelrack.pooling.texts import Pair
from modelrack.rerank import RerankWork
from modelrack.testing.gguf_bert import convert_bert, write_bert_model, write_decoder_model
from modelrack.testing.gguf_subjects import pooled_plan, reference_bert
from modelrack.testing.numpy_bert import NumpyBert
from modelrack.testing.st import write_embedder
from modelrack_demo.heldout import load
from modelrack_demo.plugin import MODELS
from modelrack_llm_xllamacpp.connection import Connection
from modelrack_llm_xllamacpp.plugin import register_engines
from modelrack_llm_xllamacpp.pooled import GgufEmbedding, GgufEmbeddingLoader, GgufRanking, GgufRerankLoader
from modelrack_llm_xllamacpp.specials import cut_at_specials

TEXTS = ["the blue whale is the largest animal", "honey never spoils", "a", "x " * 50]
QUERY = "what is the largest animal"
TOLERANCE = 1e-3
"""Of vectors of length 1 and probabilities; attention reads keys and values in 16 bits."""
RAW = 1e-2
"""Of vectors and scores as they come."""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Let sockets lie in a folder of the test, as they lie in that of a worker."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


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


def bare(path: Path, pooling: str) -> Any:
    """Return the engine without modelrack."""
    params = xllamacpp.CommonParams()
    params.model.path = str(path)
    params.embedding = True
    params.pooling_type = getattr(xllamacpp.llama_pooling_type, f"LLAMA_POOLING_TYPE_{pooling.upper()}")
    params.n_ctx = params.n_batch = params.n_ubatch = 512
    params.n_parallel = 1
    params.verbosity = 0
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 1
    return xllamacpp.Server(params)


def test_a_decoder_embeds_as_the_bare_engine_does(folder: Path) -> None:
    path = write_decoder_model(folder / "m.gguf")
    server = bare(path, "last")
    answers = [server.handle_embeddings({"input": text, "embd_normalize": -1}) for text in TEXTS]
    with embedding(path) as model:
        vectors, tokens = embed(model, TEXTS)
    assert vectors == pytest.approx(np.array([one["data"][0]["embedding"] for one in answers]), abs=RAW)
    assert tokens == [one["usage"]["prompt_tokens"] for one in answers]


@pytest.mark.parametrize("kind", ["decoder", "encoder", "untold", "unigram"])
def test_documents_are_ranked_as_by_the_bare_engine(folder: Path, kind: str) -> None:
    """Also those of files that do not say that they rank; and what is counted is what llama.cpp reads."""
    if kind == "decoder":
        path = write_decoder_model(folder / "m.gguf", pooling="rank")
    elif kind == "unigram":
        path = write_bert_model(folder / "m.gguf", pooling="rank", vocabulary="unigram")
    else:
        path = write_bert_model(folder / "m.gguf", pooling="rank" if kind == "encoder" else None, head=True)
    answer = bare(path, "rank").handle_rerank({"query": QUERY, "documents": TEXTS})
    expected = [one["relevance_score"] for one in sorted(answer["results"], key=lambda one: one["index"])]
    with ranking(path) as model:
        found = pairs(model, QUERY, TEXTS)
        assert sum(len(pair.tokens) for pair in found) == answer["usage"]["prompt_tokens"]
        scores = model.run(found)
        if kind == "decoder":
            assert [model.relevance(score) for score in scores] == pytest.approx(expected, abs=TOLERANCE)
        else:
            assert scores == pytest.approx(expected, abs=RAW)
        if kind in ("encoder", "untold"):
            by_hand = reference_bert(head=True)
            assert scores == pytest.approx([by_hand.score(QUERY, text) for text in TEXTS], abs=RAW)


def test_probabilities_become_logits(folder: Path) -> None:
    with ranking(write_decoder_model(folder / "m.gguf", pooling="rank")) as model:
        (score,) = model.run(pairs(model, QUERY, ["honey"]))
        (probability,) = model.score(pairs(model, QUERY, ["honey"]))
    assert score == pytest.approx(math.log(probability / (1 - probability)), abs=1e-6)


def test_queries_of_several_clients_are_told_apart(folder: Path) -> None:
    with ranking(write_bert_model(folder / "m.gguf", pooling="rank")) as model:
        queries = [f"{number} {QUERY}" for number in range(9)]
        mixed = [pair for query in queries for pair in pairs(model, query, TEXTS)][::-1]
        alone = [model.run([pair])[0] for pair in mixed]
        assert model.run(mixed) == pytest.approx(alone, abs=RAW)


def test_too_long_documents_are_cut_to_what_fits(folder: Path) -> None:
    with ranking(write_bert_model(folder / "m.gguf", pooling="rank")) as model:
        (pair,) = pairs(model, QUERY, ["blue whale " * 500])
        assert len(pair.tokens) == model.traits.max_tokens == 128
        assert math.isfinite(model.run([pair])[0])


@pytest.mark.parametrize("pooling", ["mean", "last"])
@pytest.mark.parametrize("options", [{"batch_items": 3, "batch_tokens": 32}, {"batch_items": 200, "max_tokens": 77}])
def test_batches_of_any_size(folder: Path, pooling: str, options: dict[str, int]) -> None:
    """llama.cpp aborted where 3 texts did not divide a batch, and gave up where more came than its cache holds."""
    path = folder / "m.gguf"
    path = write_bert_model(path) if pooling == "mean" else write_decoder_model(path)
    with embedding(path, **options) as model:
        ids = [[10 + (number * step) % 80 for step in range(1 + number * 7 % 77)] for number in range(60)]
        rows = model.run(ids)
        for number in (0, 30, 59):
            (alone,) = model.run([ids[number]])
            assert _unit(rows[number].dense) == pytest.approx(_unit(alone.dense), abs=TOLERANCE)


def _unit(row: Any) -> Any:
    return row / np.linalg.norm(row)


def test_what_nobody_waits_for_is_given_up(folder: Path) -> None:
    with embedding(write_decoder_model(folder / "m.gguf")) as model:
        expected, _ = embed(model, TEXTS)
        timer = threading.Timer(0.05, model.interrupt)
        timer.start()
        with pytest.raises(EngineError, match="stopped"):
            model.run([[5] * 255] * 20_000)
        timer.join()
        assert embed(model, TEXTS)[0] == pytest.approx(expected, abs=RAW)


def test_connections_are_made_anew(folder: Path) -> None:
    """The server closes a connection after a hundred questions, or when it has been idle."""
    with embedding(write_bert_model(folder / "m.gguf")) as model:
        expected = model.tokenizer.encode("honey", add_special=True)
        assert all(model.tokenizer.encode("honey", add_special=True) == expected for _ in range(250))


def test_a_server_that_is_gone_is_an_error(folder: Path) -> None:
    with pytest.raises(EngineError, match="without an answer"):
        Connection("nowhere.sock").ask("/tokenize", {})


def test_errors_of_the_server_are_passed_on(folder: Path) -> None:
    with embedding(write_bert_model(folder / "m.gguf")) as model, pytest.raises(BadRequest, match="invalid tokens"):
        model.run([[5, 10_000_000]])


def test_tokens_and_text(folder: Path) -> None:
    with embedding(write_decoder_model(folder / "m.gguf")) as model:
        ids = model.tokenizer.encode("honey", add_special=False)
        assert model.tokenizer.decode(ids) == "honey" and model.tokenizer.decode([]) == ""
        assert "".join(model.tokenizer.names(ids)) == "honey"
        assert model.tokenizer.encode("honey", add_special=True) == [*ids, 414]


def test_the_server_keeps_room_for_a_token(folder: Path) -> None:
    path = write_decoder_model(folder / "m.gguf")
    with embedding(path) as model:
        assert model.traits.max_tokens == 255
        assert len(model.run([[5] * 255])) == 1
    with (
        pytest.raises(LaunchFailed, match=r"max_tokens is 256, and llama\.cpp's server reads 255"),
        embedding(path, max_tokens=256),
    ):
        pass


def test_a_model_of_another_library_keeps_its_numbers(folder: Path) -> None:
    """The same weights, as sentence-transformers saves them and as a GGUF file."""
    source = write_embedder(folder / "source")
    path = convert_bert(source, folder / "m.gguf")
    by_hand = NumpyBert.read(source)
    with embedding(path) as model:
        vectors, _ = embed(model, TEXTS[:3])
    for text, vector in zip(TEXTS, vectors, strict=False):
        expected = by_hand.embed(text, "mean")
        assert float(_unit(vector) @ _unit(expected)) > 0.9999


def test_options_belong_to_types() -> None:
    (engine,) = register_engines()
    assert check_options(engine, "embedding", {"batch-tokens": "64"})["batch_tokens"] == 64
    assert check_options(engine, "LLM", {"n_ctx": "64"})["n_ctx"] == 64
    for model_type, option in (("embedding", "n_ctx"), ("rerank", "pooling"), ("LLM", "batch_tokens")):
        with pytest.raises(BadRequest, match=f"has no option '{option}'"):
            check_options(engine, model_type, {option: "64"})


def test_a_prompt_that_the_model_has_not(folder: Path) -> None:
    path = write_bert_model(folder / "m.gguf")
    with pytest.raises(LaunchFailed, match="no prompt 'query'"), embedding(path, default_prompt="query"):
        pass


@pytest.mark.parametrize(
    ("facts", "shorter"),
    [({}, ()), ({"is_matryoshka": True}, None), ({"matryoshka_dimensions": [32, 16]}, (16, 32))],
)
def test_dimensions_are_the_familys(folder: Path, facts: dict[str, Any], shorter: tuple[int, ...] | None) -> None:
    plan = pooled_plan(
        write_bert_model(folder / "m.gguf"),
        "embedding",
        {"prompts": {"query": "q: "}, "default_prompt": "query", "instruction_template": "{instruction}: ", **facts},
    )
    model = GgufEmbeddingLoader(plan).load_model(lambda progress, stage: None)
    traits = model.traits
    model.close()
    assert (traits.shorter_dimensions, traits.dimensions, traits.n_vocab) == (shorter, 64, 134)
    assert (traits.prompts, traits.default_prompt, traits.instruction_template) == (
        {"query": "q: "},
        "query",
        "{instruction}: ",
    )


def test_the_demo_model_puts_what_is_meant_first() -> None:
    """In texts that no training saw."""
    choices = [choice for choice in load().choices if choice.verified]
    assert len(choices) > 20
    with ranking(MODELS / "demo-rerank" / "demo-rerank-f16.gguf") as model:
        for choice in choices:
            scores = model.run(pairs(model, choice.query, list(choice.documents)))
            assert scores.index(max(scores)) == choice.right, choice


def test_special_tokens_in_a_long_text_take_no_longer(folder: Path) -> None:
    """llama.cpp took half a minute to find the special tokens in a megabyte of them; they are the same in any case."""
    path = write_decoder_model(folder / "m.gguf")
    unit_text = "<|im_start|>user the blue whale<|im_end|>\n é <|im_end|"
    with embedding(path) as model:
        encode = model.tokenizer.encode
        text = unit_text * 400
        assert len(text) > 16_384
        short = unit_text * 20
        (whole,), (part,) = (model.prepare([EmbeddingWork(0, one, truncate=True)]) for one in (text, short))
        assert isinstance(whole, Prepared) and isinstance(part, Prepared)
        assert whole.payload[:200] == encode(short, add_special=False)[:200]
        (found,) = model.prepare([EmbeddingWork(0, "<|im_end|>" * 100_000)])
        assert "has 100001 tokens" in str(found)
    assert cut_at_specials(str(path), text, parse_special=False) == [text]
