"""How much context and how many sequences are chosen; pure."""

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from modelrack.catalog.gguf_memory import read_model
from modelrack.errors import LaunchFailed
from modelrack.hooks import Candidate, Family, Machine, Variant
from modelrack_llm_xllamacpp import plugin
from modelrack_llm_xllamacpp.memory import Sizes, choose_sizes
from modelrack_llm_xllamacpp.options import LlamaCppOptions
from modelrack_llm_xllamacpp.params import count_threads

MIB = 1 << 20
PER_TOKEN = 4 * 2 * 32 * 2 * 2
"""Of the tiny model: layers, heads of the cache, width of a head, keys and values, bytes."""


def choose(model: Path, free: int, **options: Any) -> Sizes:
    dumped = LlamaCppOptions.model_validate(options).model_dump()
    return choose_sizes(dumped, read_model(str(model)), free, on_accelerator=False)


def test_there_is_room_for_everything(tiny_model: Path) -> None:
    sizes = choose(tiny_model, 8192 * MIB)
    assert (sizes.n_ctx, sizes.n_parallel, sizes.n_batch) == (2048, 8, 512)
    assert sizes.cache_bytes == 8 * 2048 * PER_TOKEN


def test_less_memory_means_fewer_sequences(tiny_model: Path) -> None:
    base = choose(tiny_model, 8192 * MIB).buffer_bytes + tiny_model.stat().st_size
    assert choose(tiny_model, base + 2 * 5 * 2048 * PER_TOKEN).n_parallel == 5


def test_what_is_asked_for_is_done_or_refused(tiny_model: Path) -> None:
    sizes = choose(tiny_model, 8192 * MIB, n_ctx=512, n_parallel=3, n_batch=64, n_ubatch=512)
    assert (sizes.n_ctx, sizes.n_parallel, sizes.n_batch, sizes.n_ubatch) == (512, 3, 64, 64)
    assert choose(tiny_model, 8192 * MIB, n_ctx=0).n_ctx == 2048
    with pytest.raises(LaunchFailed, match="MiB"):
        choose(tiny_model, 200 * MIB, n_ctx=1_000_000, n_parallel=8)


def test_quantized_caches_are_smaller(tiny_model: Path) -> None:
    full = choose(tiny_model, 8192 * MIB).cache_bytes
    half = choose(tiny_model, 8192 * MIB, cache_type_k="q8_0", cache_type_v="q8_0").cache_bytes
    assert half == full * 34 // 64
    assert choose(tiny_model, 8192 * MIB, kv_unified=True).cache_bytes == full // 8


def test_one_thread_less_than_cores() -> None:
    assert [count_threads(None, cores) for cores in (1, 2, 8)] == [1, 1, 7]
    assert count_threads(4, 2) == 4


def test_the_engine_takes_gguf_alone() -> None:
    (engine,) = plugin.register_engines()
    machine = Machine(platform="linux", architecture="x86_64", cores=2, memory_total_bytes=1, memory_free_bytes=1)
    family = Family(name="any", model_type="LLM")
    for form, taken in (("gguf", True), ("pytorch", False)):
        reason = engine.accepts(Candidate(family=family, variant=Variant(format=form), quantization="none"), machine)
        assert (reason is None) is taken


def test_options_are_checked() -> None:
    assert LlamaCppOptions.model_validate({"n_ctx": "4096", "flash_attn": "on"}).n_ctx == 4096
    for wrong in ({"n_ctx": -1}, {"n_context": 5}, {"cache_type_k": "q9"}, {"n_gpu_layers": "many"}):
        with pytest.raises(ValidationError):
            LlamaCppOptions.model_validate(wrong)
