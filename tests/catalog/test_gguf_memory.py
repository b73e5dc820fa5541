"""What engines for GGUF files share of their estimates."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from catalog.gguf_files import write_gguf
from catalog.racks import machine
from modelrack.catalog.gguf import GgufMetadata
from modelrack.catalog.gguf_memory import cache_bytes_per_token, estimate
from modelrack.errors import LaunchFailed
from modelrack.hooks import Accelerator, Family, LoadPlan, Machine, MemoryEstimate, ModelFiles, Variant

MIB = 1 << 20
KEYS = {
    "general.architecture": "llama",
    "llama.block_count": 3,
    "llama.embedding_length": 64,
    "llama.attention.head_count": 4,
    "llama.attention.head_count_kv": 2,
    "llama.context_length": 2048,
}
PER_TOKEN = 3 * 2 * 2 * 16 * 2


@dataclass(frozen=True)
class Chosen:
    cache_bytes: int
    buffer_bytes: int


def choose(
    options: Mapping[str, Any], metadata: GgufMetadata, free_bytes: int, *, on_accelerator: bool, extra_bytes: int = 0
) -> Chosen:
    """Take a cache for the whole context, if half of the free memory holds it."""
    cache = cache_bytes_per_token(metadata) * (metadata.context_length or 0)
    if cache > free_bytes // 2:
        raise LaunchFailed("The cache does not fit.")
    return Chosen(cache_bytes=cache, buffer_bytes=MIB)


def plan(path: Path | None = None, *, size_b: float | None = None, devices: int = 0, **options: Any) -> LoadPlan:
    return LoadPlan(
        model_uid="m",
        family=Family(name="m", model_type="LLM", context_length=8192),
        variant=Variant(format="gguf", size_b=size_b),
        quantization="Q4_K_M",
        files=ModelFiles(path=str(path) if path else "", format="gguf"),
        accelerators=tuple(range(devices)),
        options=options,
    )


def card(mib: int) -> Machine:
    device = Accelerator(index=0, kind="cuda", name="card", memory_total_bytes=mib * MIB, memory_free_bytes=mib * MIB)
    here = machine(16)
    return Machine(
        platform=here.platform,
        architecture=here.architecture,
        cores=here.cores,
        memory_total_bytes=here.memory_total_bytes,
        memory_free_bytes=here.memory_free_bytes,
        accelerators=(device,),
    )


def get(what: LoadPlan, here: Machine) -> MemoryEstimate:
    found = estimate(what, here, choose, 7 * MIB)
    assert found is not None
    return found


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return write_gguf(tmp_path / "m.gguf", KEYS)


def test_by_the_file(path: Path, tmp_path: Path) -> None:
    found = get(plan(path), machine())
    weights = path.stat().st_size
    assert found == MemoryEstimate(weights_bytes=weights, cache_bytes=2048 * PER_TOKEN, overhead_bytes=MIB)
    beside = tmp_path / "projector.gguf"
    beside.write_bytes(b"x" * 1000)
    assert get(plan(path, mmproj=str(beside)), machine()).weights_bytes == weights + 1000
    assert get(plan(path, draft_model="/not/there"), machine()).weights_bytes == weights


def test_before_a_download() -> None:
    """Llama 3.1 8B keeps 128 KiB for a token, and its Q4_K_M file has 4.92 GB."""
    found = get(plan(size_b=8.03), machine())
    assert found.weights_bytes == pytest.approx(4.92e9, rel=0.02)
    assert found.cache_bytes == 8192 * 128 << 10
    assert estimate(plan(), machine(), choose, 0) is None
    with pytest.raises(LaunchFailed):
        get(plan(size_b=8.03), machine(1))


def test_layers_that_the_card_has_no_room_for_stay_in_main_memory() -> None:
    all_there = get(plan(size_b=8.03, devices=1), card(24_000))
    assert all_there.host_bytes == 7 * MIB
    tight = get(plan(size_b=8.03, devices=1), card(4000))
    moved = all_there.weights_bytes + all_there.cache_bytes - tight.weights_bytes - tight.cache_bytes
    assert tight.host_bytes == pytest.approx(7 * MIB + moved, abs=4)
    assert 0.5 * 4000 * MIB < tight.weights_bytes + tight.cache_bytes + tight.overhead_bytes <= 4000 * MIB
    none = get(plan(size_b=8.03, devices=1, n_gpu_layers=0), card(24_000))
    assert (none.weights_bytes, none.cache_bytes) == (0, 0)
    half = get(plan(size_b=8.03, devices=1, n_gpu_layers=16), card(24_000))
    assert half.weights_bytes == pytest.approx(all_there.weights_bytes * 16 / 33, abs=4)
    assert get(plan(size_b=8.03, devices=1, n_gpu_layers=99), card(24_000)) == all_there
    kept = get(plan(size_b=8.03, devices=1, offload_kv=False), card(24_000))
    assert (kept.cache_bytes, kept.host_bytes) == (0, 7 * MIB + all_there.cache_bytes)
