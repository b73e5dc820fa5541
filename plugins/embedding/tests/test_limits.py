"""What is too long, what is refused, what may be cut, and what a launch must say."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from bare_models import embed, make_plan, open_model, tokens, works
from pydantic import ValidationError

from modelrack.embedding import InputTooLong
from modelrack.errors import LaunchFailed
from modelrack.settings import get_settings
from modelrack.testing.encoders import EncoderShape, write_bert, write_qwen3
from modelrack.testing.hf_files import write_json
from modelrack.testing.st import (
    dense,
    normalize,
    pooling,
    write_embedder,
    write_modules,
    write_multi_vector,
    write_router,
    write_sparse,
    write_static,
)
from modelrack_embedding.loading import load

SHORT = EncoderShape(positions=32)


@pytest.mark.parametrize("kind", ["bert", "roberta", "qwen3"])
def test_what_is_too_long_is_named(kind: str, tmp_path: Path) -> None:
    model = open_model(write_embedder(tmp_path / "model", SHORT, kind=kind))
    limit = model.traits.max_tokens
    found = model.prepare(works(["hello", "whale " * 60, "hello"]))
    assert len(found) == 3
    error = found[1]
    assert isinstance(error, InputTooLong)
    assert (error.param, error.details["max_tokens"]) == ("input.1", limit)
    assert error.details["tokens"] > limit
    assert max(tokens(model, works(["whale " * 60], truncate=True))) == limit
    ids = model.prepare(works([[5] * 33]))[0]
    assert isinstance(ids, InputTooLong) and ids.details["tokens"] == 33


def test_what_only_the_library_reads_is_not_cut_in_silence(tmp_path: Path) -> None:
    model = open_model(write_multi_vector(tmp_path / "model", SHORT))
    for task, length in (("query", 16), ("document", 32), (None, 32)):
        (error,) = model.prepare(works(["whale " * 60], task=task))
        assert isinstance(error, InputTooLong), task
        assert error.details["max_tokens"] == length and error.details["tokens"] >= 60
        assert tokens(model, works(["whale " * 60], task=task, truncate=True)) == [length]


def test_ways_without_a_limit_take_anything(tmp_path: Path) -> None:
    model = open_model(write_router(tmp_path / "model", SHORT))
    assert tokens(model, works(["whale " * 60], task="query")) == [60]
    assert isinstance(model.prepare(works(["whale " * 60], task="document"))[0], InputTooLong)
    static = open_model(write_static(tmp_path / "static"))
    assert static.traits.max_tokens is None
    assert tokens(static, works(["whale " * 5000])) == [5000]


def test_a_launch_may_shorten_texts_but_not_stretch_positions(tmp_path: Path) -> None:
    folder = write_embedder(tmp_path / "model")
    model = open_model(folder, max_tokens=16)
    assert model.traits.max_tokens == 16
    assert tokens(model, works(["whale " * 60], truncate=True)) == [16]
    with pytest.raises(LaunchFailed, match="128 tokens"):
        open_model(folder, max_tokens=129)
    stretched = open_model(write_embedder(tmp_path / "qwen3", kind="qwen3"), max_tokens=200)
    assert tokens(stretched, works(["whale " * 400], truncate=True)) == [200]


# What may be cut off


@pytest.mark.parametrize(
    ("make", "facts", "options", "expected"),
    [
        (lambda folder: None, {}, {}, ()),
        (lambda folder: None, {}, {"matryoshka": True}, None),
        (lambda folder: None, {"matryoshka_dimensions": True}, {}, None),
        (lambda folder: None, {"matryoshka_dimensions": True}, {"matryoshka": False}, ()),
        (lambda folder: None, {"matryoshka_dimensions": [16, 8]}, {}, (8, 16)),
        (lambda folder: _configure(folder, matryoshka_dimensions=[4, 8]), {}, {}, (4, 8)),
        (lambda folder: _configure(folder, is_matryoshka=True), {}, {}, None),
        (lambda folder: _card(folder, "- loss:MatryoshkaLoss"), {}, {}, None),
        (lambda folder: _card(folder, "- loss:CosineSimilarityLoss"), {}, {}, ()),
    ],
)
def test_what_may_be_cut_is_told_by_files_family_or_launch(
    make: Callable[[Path], None], facts: Any, options: Any, expected: Any, tmp_path: Path
) -> None:
    folder = write_embedder(tmp_path / "model")
    make(folder)
    assert open_model(folder, facts, **options).traits.shorter_dimensions == expected


def _configure(folder: Path, **fields: Any) -> None:
    config = json.loads((folder / "config.json").read_text())
    write_json(folder / "config.json", {**config, **fields})


def _card(folder: Path, tag: str) -> None:
    (folder / "README.md").write_text(f"---\ntags:\n{tag}\n---\n\nloss:MatryoshkaLoss\n")


# Prompts


def test_prompts_come_from_the_files_then_from_the_family(tmp_path: Path) -> None:
    facts = {"prompts": {"query": "family: ", "passage": "passage: "}, "default_prompt": "passage"}
    bare = open_model(write_embedder(tmp_path / "bert"), facts).traits
    assert (bare.prompts["query"], bare.default_prompt) == ("family: ", "passage")
    own = open_model(write_embedder(tmp_path / "roberta", kind="roberta"), facts).traits
    assert (own.prompts["query"], own.prompts["passage"]) == ("query: ", "passage: ")
    chosen = open_model(tmp_path / "roberta", facts, default_prompt="query").traits
    assert chosen.default_prompt == "query"
    with pytest.raises(LaunchFailed, match="no prompt 'none'"):
        open_model(tmp_path / "roberta", default_prompt="none")


def test_instructions_have_a_place_where_a_prompt_has_one(tmp_path: Path) -> None:
    told = open_model(write_embedder(tmp_path / "qwen3", kind="qwen3")).traits
    assert told.instruction_template == "Instruct: {instruction}\nQuery:"
    assert open_model(write_embedder(tmp_path / "roberta", kind="roberta")).traits.instruction_template is None
    facts = {"instruction_template": "{instruction} => "}
    assert open_model(tmp_path / "roberta", facts).traits.instruction_template == "{instruction} => "


# Launches that fail


def test_pickles_are_refused(tmp_path: Path) -> None:
    folder = write_embedder(tmp_path / "model")
    (folder / "training_args.bin").write_bytes(b"no weights")
    open_model(folder)
    layered = write_modules(write_bert(tmp_path / "layered"), pooling(), dense(8))
    (layered / "2_Dense" / "model.safetensors").rename(layered / "2_Dense" / "pytorch_model.bin")
    with pytest.raises(LaunchFailed, match=r"2_Dense.*pytorch_model\.bin is in a pickle format"):
        open_model(layered)
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(LaunchFailed, match="pickle"):
        open_model(folder)
    ways = write_router(tmp_path / "ways") / "document_0_Transformer"
    (ways / "model.safetensors").rename(ways / "pytorch_model.bin")
    with pytest.raises(LaunchFailed, match="pickle"):
        open_model(ways.parent)


def test_what_cannot_be_loaded_says_why(tmp_path: Path) -> None:
    folder = write_embedder(tmp_path / "model")
    _configure(folder, model_type="no-such-type", architectures=["NoSuchModel"])
    with pytest.raises(LaunchFailed, match=r"sentence-transformers could not load .*no-such-type"):
        open_model(folder)
    cross = write_modules(write_bert(tmp_path / "cross", head="classification"), model_type="CrossEncoder")
    with pytest.raises(LaunchFailed, match="makes no embeddings") as caught:
        open_model(cross)
    assert "rerank" in (caught.value.remedy or "")
    broken = write_embedder(tmp_path / "broken")
    (broken / "model.safetensors").write_bytes(b"\xff" * 100)
    with pytest.raises(LaunchFailed, match="could not load"):
        open_model(broken)


def test_weights_that_are_missing_are_not_made_up(tmp_path: Path) -> None:
    """JinaBERT has no positions and other layers; loaded as a BERT it would give random embeddings."""
    folder = write_embedder(tmp_path / "model")
    _configure(folder, num_hidden_layers=3)
    with pytest.raises(
        LaunchFailed, match=r"lack weights of the model: encoder\.layer\.2\.\S+, .* and 13 more"
    ) as caught:
        open_model(folder)
    assert "trust_remote_code" in (caught.value.remedy or "")


def test_code_of_models_runs_only_if_the_operator_allows_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_bert(tmp_path / "model")
    mark = tmp_path / "ran"
    (folder / "own.py").write_text(
        f"import pathlib\npathlib.Path({str(mark)!r}).touch()\n"
        "from transformers import BertModel\nclass OwnModel(BertModel):\n    pass\n"
    )
    _configure(folder, model_type="own", auto_map={"AutoModel": "own.OwnModel", "AutoConfig": "own.OwnConfig"})
    with pytest.raises(LaunchFailed, match="Python code of its own") as caught:
        open_model(folder)
    assert "trust_remote_code" in (caught.value.remedy or "") and not mark.exists()
    with pytest.raises(ValidationError, match="MODELRACK_TRUST_REMOTE_CODE"):
        make_plan(folder, trust_remote_code=True)
    monkeypatch.setenv("MODELRACK_TRUST_REMOTE_CODE", "1")
    get_settings.cache_clear()
    try:
        assert make_plan(folder, trust_remote_code=True).options["trust_remote_code"] is True
    finally:
        monkeypatch.undo()
        get_settings.cache_clear()


# Kinds of numbers


def test_weights_in_16_bits_are_float32_outside(tmp_path: Path) -> None:
    folder = write_modules(write_bert(tmp_path / "model"), pooling(), normalize())
    exact = open_model(folder)
    half = open_model(folder, dtype="bfloat16")
    assert half.traits.is_normalized is False  # rounded vectors are scaled anew
    one, other = (embed(model, works(["the largest animal"]))[0].dense for model in (exact, half))
    assert one.dtype == other.dtype and 0 < abs(one - other).max() < 0.05


def test_decoders_in_16_bits_are_computed_as_the_processor_likes_it(tmp_path: Path) -> None:
    folder = write_modules(write_qwen3(tmp_path / "model", dtype="bfloat16"), pooling("lasttoken"))
    model = open_model(folder, dtype="float32")
    assert embed(model, works(["hello"]))[0].dense.dtype.name == "float32"


def test_batches_of_models_with_scores_for_all_tokens_are_smaller(tmp_path: Path) -> None:
    whole = open_model(write_embedder(tmp_path / "bert")).traits.limits
    sparse = open_model(write_sparse(tmp_path / "sparse")).traits.limits
    assert sparse.batch_tokens * 8 == whole.batch_tokens
    asked = open_model(tmp_path / "sparse", batch_tokens=2048, batch_items=3, queue_items=5, queue_tokens=7)
    limits = asked.traits.limits
    assert (limits.batch_tokens, limits.batch_items, limits.queue_items, limits.queue_tokens) == (2048, 3, 5, 7)


def test_without_a_warm_up_the_traits_are_the_same(tmp_path: Path) -> None:
    folder = write_modules(write_bert(tmp_path / "model"), pooling(["cls", "mean"]), dense(12, 64))
    assert open_model(folder, warmup=False).traits == open_model(folder).traits


def test_progress_is_told(tmp_path: Path) -> None:
    told: list[tuple[float, str]] = []
    load(make_plan(write_embedder(tmp_path / "model")), lambda progress, stage: told.append((progress, stage)))
    assert [progress for progress, _ in told] == sorted(progress for progress, _ in told)
    assert "loading the weights" in [stage for _, stage in told]
