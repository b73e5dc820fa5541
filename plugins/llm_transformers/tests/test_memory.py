"""What the server expects a replica to take, before it runs."""

from pathlib import Path
from typing import Any

from modelrack.catalog.memory import TORCH_BYTES
from modelrack.hooks import Family, LoadPlan, Machine, MemoryEstimate, ModelFiles, Variant
from modelrack.testing.gguf import TINY
from modelrack.testing.hf import write_random_model
from modelrack.testing.machines import GIB, make_machine
from modelrack_llm_transformers.memory import estimate
from modelrack_llm_transformers.options import TransformersOptions

PER_TOKEN = 2 * TINY.layers * TINY.kv_heads * (TINY.width // TINY.heads)


def expect(folder: Path | None, here: Machine, size_b: float | None = None, **options: Any) -> MemoryEstimate | None:
    plan = LoadPlan(
        model_uid="m",
        family=Family(name="m", model_type="LLM", context_length=8192),
        variant=Variant(format="pytorch", size_b=size_b),
        quantization="none",
        files=ModelFiles(path=str(folder) if folder else "", format="pytorch"),
        accelerators=tuple(device.index for device in here.accelerators),
        options=TransformersOptions.model_validate(options).model_dump(mode="json"),
    )
    return estimate(plan, here)


def test_by_the_files(tmp_path: Path) -> None:
    folder = write_random_model(tmp_path / "tiny", TINY)
    found = expect(folder, make_machine(), dtype="float32", max_model_len=256, max_num_seqs=2, kv_tokens=1024)
    assert found is not None
    assert found.cache_bytes == 1024 * PER_TOKEN * 4
    assert found.overhead_bytes > TORCH_BYTES
    half = expect(folder, make_machine(), dtype="bfloat16", kv_tokens=1024)
    assert half is not None
    assert (half.cache_bytes, half.weights_bytes) == (found.cache_bytes // 2, found.weights_bytes // 2)
    chosen = expect(folder, make_machine(), dtype="float32", max_num_seqs=4, max_model_len=512)
    assert chosen is not None and chosen.cache_bytes == 2048 * PER_TOKEN * 4


def test_before_a_download() -> None:
    assert expect(None, make_machine()) is None
    full = expect(None, make_machine("cuda", gib=80), 8.0)
    assert full is not None
    assert full.weights_bytes == 16_000_000_000
    left = 80 * GIB - full.weights_bytes - full.overhead_bytes
    assert full.cache_bytes == int(0.85 * left)
    quantized = expect(None, make_machine("cuda", gib=80), 8.0, quantization="bnb-4bit")
    assert quantized is not None and quantized.weights_bytes < 0.45 * full.weights_bytes
