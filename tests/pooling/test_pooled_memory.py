"""How long texts can be, and what they take; pure."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from catalog.racks import machine
from modelrack.catalog.gguf_memory import read_model
from modelrack.errors import LaunchFailed
from modelrack.hooks import Family, LoadPlan, ModelFiles, Variant
from modelrack.pooling.facts import PooledFacts
from modelrack.pooling.memory import PooledSizes, choose_sizes, estimate
from modelrack.pooling.options import EmbeddingOptions
from modelrack.testing.gguf_bert import write_bert_model, write_decoder_model

GIB = 1 << 30
ENCODER = PooledFacts(pooling="mean", is_causal=False, is_whole=True, dimensions=64, trained_tokens=8192)
DECODER = PooledFacts(pooling="last", is_causal=True, is_whole=False, dimensions=64, trained_tokens=32_768)


def choose(path: Path, facts: PooledFacts, free: int, *, gpu: bool = False, **options: Any) -> PooledSizes:
    dumped = EmbeddingOptions.model_validate(options).model_dump()
    return choose_sizes(dumped, read_model(str(path)), free, on_accelerator=gpu, facts=facts)


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_bert_model(tmp_path_factory.mktemp("m") / "bert.gguf")


@pytest.fixture(scope="module")
def decoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_decoder_model(tmp_path_factory.mktemp("m") / "decoder.gguf")


def test_an_encoder_has_room_for_its_longest_text_and_no_cache(bert: Path) -> None:
    sizes = choose(bert, ENCODER, 64 * GIB)
    assert (sizes.max_tokens, sizes.batch_tokens, sizes.n_batch, sizes.cache_bytes) == (8192, 512, 8192, 0)
    assert choose(bert, ENCODER, 64 * GIB, gpu=True).batch_tokens == 2048


def test_a_decoder_computes_long_texts_in_parts(decoder: Path) -> None:
    sizes = choose(decoder, DECODER, 64 * GIB)
    assert (sizes.max_tokens, sizes.n_batch) == (32_768, 512)
    assert sizes.cells > 32_768 and sizes.cache_bytes > 0


def test_less_memory_means_shorter_texts(bert: Path, decoder: Path) -> None:
    for path, facts in ((bert, ENCODER), (decoder, DECODER)):
        assert 512 <= choose(path, facts, GIB // 7).max_tokens < facts.trained_tokens


def test_what_is_asked_for_is_done_or_refused(bert: Path, decoder: Path) -> None:
    assert choose(bert, ENCODER, 64 * GIB, max_tokens=100, batch_tokens=64).n_batch == 128
    with pytest.raises(LaunchFailed, match="reads 8192 tokens at most"):
        choose(bert, ENCODER, 64 * GIB, max_tokens=8193)
    with pytest.raises(LaunchFailed, match=r"Texts of 8192 tokens take \d+ MiB") as caught:
        choose(bert, ENCODER, GIB // 7, max_tokens=8192)
    assert "max_tokens" in str(caught.value.remedy)
    with pytest.raises(LaunchFailed, match="are free"):
        choose(decoder, DECODER, 1000)


@pytest.mark.parametrize("items", [1, 3, 64, 256])
@pytest.mark.parametrize("tokens", [32, 100, 513])
def test_sequences_divide_the_batch(bert: Path, items: int, tokens: int) -> None:
    """llama.cpp aborted the process when a batch of 128 tokens was to be told apart into 3 texts."""
    sizes = choose(bert, replace(ENCODER, trained_tokens=77), 64 * GIB, batch_items=items, batch_tokens=tokens)
    assert sizes.n_batch % sizes.sequences == 0 and 1 <= sizes.sequences <= items


def test_what_a_replica_takes_is_told_before_it_is_loaded(bert: Path) -> None:
    plan = LoadPlan(
        model_uid="u",
        family=Family(name="f", model_type="embedding"),
        variant=Variant(format="gguf"),
        quantization="none",
        files=ModelFiles(path=str(bert), format="gguf"),
        options=EmbeddingOptions().model_dump(),
    )
    found = estimate(plan, machine())
    assert found is not None and found.cache_bytes == 0 and found.weights_bytes == bert.stat().st_size
    unknown = LoadPlan(
        model_uid="u",
        family=plan.family,
        variant=plan.variant,
        quantization="none",
        files=ModelFiles(path="", format="gguf"),
        options=plan.options,
    )
    assert estimate(unknown, machine()) is None
