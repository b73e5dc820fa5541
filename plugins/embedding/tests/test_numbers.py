"""Embeddings are those of the library alone, for models of all kinds, whatever else is in a batch."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bare_models import TEXTS, apart, embed, library, open_model, tokens, works

from modelrack.encoders import Interrupted
from modelrack.testing.encoders import EncoderShape, write_bert, write_qwen3, write_roberta
from modelrack.testing.hf_files import write_safetensors
from modelrack.testing.st import (
    dense,
    mask,
    normalize,
    pooling,
    write_embedder,
    write_modules,
    write_multi_vector,
    write_router,
    write_sparse,
    write_static,
)

NEAR = 1e-5


def _modules(*parts: Any, write: Callable[[Path], Path] = write_bert, **more: Any) -> Callable[[Path], Path]:
    return lambda folder: write_modules(write(folder), *parts, **more)


MODELS: dict[str, Callable[[Path], Path]] = {
    "mean": lambda folder: write_embedder(folder, kind="bert"),
    "first token, positions behind the padding": lambda folder: write_embedder(folder, kind="roberta"),
    "last token, padded left": lambda folder: write_embedder(folder, kind="qwen3"),
    "weighted mean": _modules(pooling("weightedmean")),
    "weighted mean, padded left": _modules(pooling("weightedmean"), write=write_qwen3),
    "largest": _modules(pooling("max")),
    "mean by the root of the length": _modules(pooling("mean_sqrt_len_tokens"), write=write_roberta),
    "two poolings": _modules(pooling(["cls", "mean"])),
    "a layer behind": _modules(pooling(), dense(12), normalize()),
    "cut by its settings": _modules(pooling(), normalize(), settings={"truncate_dim": 8}),
    "a default prompt": _modules(pooling(), prompts={"query": "what is "}, settings={"default_prompt_name": "query"}),
    "no modules": write_bert,
    "no modules, a decoder": lambda folder: write_qwen3(folder, head="causal"),
    "vectors of tokens alone": write_static,
    "routes": write_router,
}


@pytest.mark.parametrize("kind", MODELS)
def test_dense_embeddings_are_those_of_encode(kind: str, tmp_path: Path) -> None:
    folder = MODELS[kind](tmp_path / "model")
    model, reference = open_model(folder), library(folder)
    prompt = model.traits.prompts.get(model.traits.default_prompt or "", "")
    arguments = {"task": "document"} if kind == "routes" else {}
    expected = reference.encode(list(TEXTS), **arguments)
    assert model.traits.dimensions == len(expected[0])
    assert apart(embed(model, works(TEXTS, prompt=prompt)), expected) <= NEAR
    alone = [embed(model, works([text], prompt=prompt))[0] for text in TEXTS]
    assert apart(alone, expected) <= NEAR
    lengths = [np.linalg.norm(row) for row in expected]
    assert model.traits.is_normalized == (max(abs(length - 1) for length in lengths) < 1e-4)


@pytest.mark.parametrize("kind", ["bert", "roberta", "qwen3"])
def test_prompts_are_read_as_encode_reads_them(kind: str, tmp_path: Path) -> None:
    folder = write_embedder(tmp_path / "model", kind=kind)
    model, reference = open_model(folder), library(folder)
    for prompt in ("query: ", "Instruct: Find the whale\nQuery:", "where is", " "):
        expected = reference.encode(list(TEXTS), prompt=prompt)
        assert apart(embed(model, works(TEXTS, prompt=prompt)), expected) <= NEAR


@pytest.mark.parametrize("write", [write_bert, write_roberta, write_qwen3])
@pytest.mark.parametrize("mode", ["mean", "weightedmean", "cls"])
def test_prompts_may_be_left_out_of_the_pooling(write: Callable[[Path], Path], mode: str, tmp_path: Path) -> None:
    """Models such as INSTRUCTOR read a prompt but average the rest; texts with different prompts share no batch."""
    folder = write_modules(write(tmp_path / "model"), pooling(mode, include_prompt=False))
    model, reference = open_model(folder), library(folder)
    found, expected = [], []
    given = []
    for prompt in ("", "where is the ", "what: "):
        given += works(TEXTS, prompt=prompt)
        expected += list(reference.encode(list(TEXTS), prompt=prompt or None))
    found = embed(model, given)
    assert apart(found, expected) <= NEAR
    assert np.abs(found[0].dense - found[len(TEXTS)].dense).max() > 0.001


@pytest.mark.parametrize("kind", ["bert", "roberta", "qwen3"])
def test_long_texts_are_cut_as_encode_cuts_them(kind: str, tmp_path: Path) -> None:
    folder = write_embedder(tmp_path / "model", EncoderShape(positions=32), kind=kind)
    model, reference = open_model(folder), library(folder)
    if kind == "roberta":  # its tokenizer says 30, and the library believes what it says
        assert reference.max_seq_length == 30
    texts = [text * 9 for text in TEXTS]
    given = works(texts, prompt="a ", truncate=True)
    assert max(tokens(model, given)) == model.traits.max_tokens == reference.max_seq_length
    assert apart(embed(model, given), reference.encode(texts, prompt="a ")) <= NEAR


def test_positions_that_belong_to_the_padding_are_not_used(tmp_path: Path) -> None:
    """A tokenizer without a limit: the library then takes the table's rows for the limit, and fails on long texts."""
    folder = write_embedder(tmp_path / "model", EncoderShape(positions=32), kind="roberta")
    config = folder / "tokenizer_config.json"
    config.write_text(config.read_text().replace('"model_max_length": 30', '"model_max_length": 1000000'))
    model = open_model(folder)
    assert model.traits.max_tokens == 30
    (cut,) = embed(model, works(["whale " * 99], truncate=True))
    (whole,) = embed(model, works(["whale " * 40], truncate=True))
    assert np.abs(cut.dense - whole.dense).max() <= NEAR


def test_token_ids_are_what_texts_are_read_as(tmp_path: Path) -> None:
    folder = write_embedder(tmp_path / "model")
    model = open_model(folder)
    assert model.tokenizer is not None
    ids = [model.tokenizer.encode(text, add_special=True) for text in TEXTS]
    assert apart(embed(model, works(ids)), [one.dense for one in embed(model, works(TEXTS))]) == 0
    assert tokens(model, works(ids)) == tokens(model, works(TEXTS)) == [len(row) for row in ids]
    mixed = embed(model, [*works(TEXTS[:2]), *works(ids[2:])])
    assert apart(mixed, [one.dense for one in embed(model, works(TEXTS))]) <= NEAR


def test_weights_of_tokens_are_those_of_the_library(tmp_path: Path) -> None:
    folder = write_sparse(tmp_path / "model")
    model, reference = open_model(folder), library(folder, "SparseEncoder")
    expected = reference.encode(list(TEXTS)).to_dense().numpy()
    found = embed(model, works(TEXTS, outputs=frozenset({"sparse"})))
    for one, row in zip(found, expected, strict=True):
        assert one.dense is None and one.sparse is not None
        assert set(one.sparse) == set(np.flatnonzero(row))
        assert max(abs(row[token] - weight) for token, weight in one.sparse.items()) <= NEAR


def test_the_most_weights_of_a_model_are_kept_to(tmp_path: Path) -> None:
    folder = write_sparse(tmp_path / "model", settings={"max_active_dims": 5})
    model, reference = open_model(folder), library(folder, "SparseEncoder")
    expected = reference.encode(list(TEXTS)).to_dense().numpy()
    for one, row in zip(embed(model, works(TEXTS, outputs=frozenset({"sparse"}))), expected, strict=True):
        assert one.sparse is not None and set(one.sparse) == set(np.flatnonzero(row)) and len(one.sparse) == 5


@pytest.mark.parametrize("task", [None, "query", "document"])
def test_vectors_of_tokens_are_those_of_the_library(task: str | None, tmp_path: Path) -> None:
    folder = write_multi_vector(tmp_path / "model")
    model, reference = open_model(folder), library(folder, "MultiVectorEncoder")
    texts = list(TEXTS[:2])  # queries of this model have 16 tokens
    expected = reference.encode(texts, task=task)
    found = embed(model, works(texts, task=task, outputs=frozenset({"multi_vector"})))
    for one, rows in zip(found, expected, strict=True):
        assert one.multi_vector.shape == tuple(rows.shape)
        assert np.abs(one.multi_vector - rows.numpy()).max() <= NEAR
    assert model.traits.tasks == ("query", "document") and not model.traits.takes_token_ids


def test_tasks_take_their_own_ways(tmp_path: Path) -> None:
    folder = write_router(tmp_path / "model")
    model, reference = open_model(folder), library(folder)
    assert set(model.traits.tasks) == {"query", "document"}
    given = [*works(TEXTS, task="query"), *works(TEXTS, task="document"), *works(TEXTS)]
    expected = [
        *reference.encode_query(list(TEXTS)),
        *reference.encode_document(list(TEXTS)),
        *reference.encode_document(list(TEXTS)),
    ]
    found = embed(model, given)
    assert apart(found, expected) <= NEAR
    assert np.abs(found[0].dense - found[len(TEXTS)].dense).max() > 0.01


def test_further_heads_give_weights_and_vectors_of_tokens(tmp_path: Path) -> None:
    """As BGE-M3 has them; the reference is written out token by token."""
    folder = write_embedder(tmp_path / "model", kind="roberta")
    generator = np.random.default_rng(5)
    sparse = generator.standard_normal((1, 32)).astype(np.float32), np.array([0.1], np.float32)
    colbert = generator.standard_normal((32, 32)).astype(np.float32), np.full(32, 0.2, np.float32)
    for name, (weight, bias) in (("sparse", sparse), ("colbert", colbert)):
        write_safetensors(folder / f"{name}_linear.safetensors", [("weight", weight), ("bias", bias)])
    model, reference = open_model(folder), library(folder)
    assert model.traits.outputs == {"dense", "sparse", "multi_vector"}
    found = embed(model, works(TEXTS, outputs=model.traits.outputs))
    assert apart(found, reference.encode(list(TEXTS))) <= NEAR
    for text, one in zip(TEXTS, found, strict=True):
        states = reference.encode(text, output_value="token_embeddings").numpy()
        ids = reference.tokenizer(text)["input_ids"]
        assert one.sparse is not None
        expected: dict[int, float] = {}
        for token, state in zip(ids, states, strict=True):
            score = max(0.0, float((state @ sparse[0][0] + sparse[1][0]).item()))
            if score > expected.get(token, 0) and token not in (0, 1, 2, 3):
                expected[token] = score
        assert one.sparse == pytest.approx(expected, abs=1e-4)
        vectors = states[1:] @ colbert[0].T + colbert[1]
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        assert np.abs(one.multi_vector - vectors).max() <= 1e-4
    (plain,) = embed(model, works(["hello"]))
    assert plain.sparse is None and plain.multi_vector is None


def test_a_batch_that_nobody_waits_for_ends(tmp_path: Path) -> None:
    """An interrupt ends the batch that is computed, and no later one."""
    model = open_model(write_bert(tmp_path))
    before = embed(model, works(TEXTS[:2]))
    layers = max((part for part in model._model.modules() if type(part).__name__ == "ModuleList"), key=len)
    handle = layers[0].register_forward_hook(lambda *_: model.interrupt())
    with pytest.raises(Interrupted):
        embed(model, works(TEXTS[:2]))
    handle.remove()
    after = embed(model, works(TEXTS[:2]))
    assert [one.dense.tolist() for one in after] == [one.dense.tolist() for one in before]


@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler on the CPU")
@pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")  # torch's compiler warns of torch's own code
def test_a_compiled_model_gives_the_same(tmp_path: Path) -> None:
    folder = write_embedder(tmp_path / "model", EncoderShape(layers=1))
    model, reference = open_model(folder, compile=True), library(folder)
    assert apart(embed(model, works(TEXTS)), reference.encode(list(TEXTS))) <= NEAR


def test_masked_tokens_have_no_vector(tmp_path: Path) -> None:
    folder = write_modules(
        write_bert(tmp_path / "model"),
        dense(8, on="token_embeddings", tanh=False),
        mask("."),
        normalize("token_embeddings"),
        model_type="MultiVectorEncoder",
    )
    model = open_model(folder)
    with_mark, without = embed(model, works(["hello.", "hello"], outputs=frozenset({"multi_vector"})))
    assert len(with_mark.multi_vector) == len(without.multi_vector)
