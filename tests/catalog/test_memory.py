"""How many bytes a replica needs, by files, by size, and by what was measured before."""

import json
import struct
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from catalog.gguf_files import write_gguf
from catalog.racks import LLAMA, machine
from modelrack.catalog.fit import expected, fit_into, reckon
from modelrack.catalog.memory import (
    CUDA_BYTES,
    TORCH_BYTES,
    corrected,
    dtype_bytes,
    estimate_encoder,
    estimate_plainly,
    estimate_reserving,
    estimate_torch,
    measure_key,
    total_bytes,
    weights_of,
)
from modelrack.catalog.weights import bits_of, check_quantization, folder_weights, weights_by_size
from modelrack.errors import BadRequest, LaunchFailed
from modelrack.hooks import Accelerator, Engine, Family, LoadPlan, Machine, MemoryEstimate, ModelFiles, Variant
from modelrack.lifecycle.store import Measured

GIB = 1 << 30
CONFIG = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 1000,
    "max_position_embeddings": 512,
}
PER_TOKEN = 2 * 2 * 2 * 16


def write_weights(path: Path, **tensors: tuple[str, list[int]]) -> None:
    """Write a safetensors file whose data are zeros."""
    sizes = {"F32": 4, "F16": 2, "BF16": 2, "I8": 1, "F8_E4M3": 1, "I32": 4}
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, (kind, shape) in tensors.items():
        count = sizes[kind]
        for size in shape:
            count *= size
        header[name] = {"dtype": kind, "shape": shape, "data_offsets": [end, end + count]}
        end += count
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + bytes(end))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    write_weights(tmp_path / "model.safetensors", a=("BF16", [1000, 64]), b=("F32", [10]), c=("I32", [8, 8]))
    return tmp_path


def plan(path: Path | None = None, *, size_b: float | None = None, devices: int = 0, **more: Any) -> LoadPlan:
    variant = Variant(format="pytorch", size_b=size_b)
    values: dict[str, Any] = {
        "model_uid": "m",
        "family": Family(name="m", model_type="LLM", context_length=4096),
        "variant": variant,
        "quantization": "none",
        "files": ModelFiles(path=str(path) if path else "", format="pytorch"),
        "accelerators": tuple(range(devices)),
    }
    return LoadPlan(**{**values, **more})


def cards(count: int, gib: float = 24, free: float | None = None) -> Machine:
    memory = int(gib * GIB)
    devices = tuple(
        Accelerator(
            index=index,
            kind="cuda",
            name="card",
            memory_total_bytes=memory,
            memory_free_bytes=memory if free is None else int(free * GIB),
        )
        for index in range(count)
    )
    return replace(machine(64), accelerators=devices)


# Weights


def test_weights_are_counted_in_files(folder: Path) -> None:
    assert folder_weights(folder) == 1000 * 64 * 2 + 10 * 4 + 64 * 4
    assert folder_weights(folder, 4.0) == 1000 * 64 * 4 + 10 * 4 + 64 * 4
    assert folder_weights(folder, 2.0) == 1000 * 64 * 2 + 10 * 2 + 64 * 4
    write_weights(folder / "consolidated.safetensors", a=("BF16", [1000, 64]))
    assert folder_weights(folder) == 1000 * 64 * 2 + 10 * 4 + 64 * 4


def test_weights_in_parts_are_those_of_the_index(folder: Path) -> None:
    for part in (1, 2):
        write_weights(folder / f"model-0000{part}-of-00002.safetensors", a=("F16", [part * 100]))
    names = {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": names}))
    assert folder_weights(folder) == 600
    for broken in ("[", "{}", '{"weight_map": [1]}', '{"weight_map": {"a": "../else.safetensors"}}'):
        (folder / "model.safetensors.index.json").write_text(broken)
        assert folder_weights(folder) == 600 + 1000 * 64 * 2 + 10 * 4 + 64 * 4


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xff" * 8,
        struct.pack("<Q", 4) + b"nope",
        struct.pack("<Q", 2) + b"[]",
        struct.pack("<Q", 14) + b'{"a":{"x":1}} ',
        struct.pack("<Q", 36) + b'{"a":{"dtype":"F32","shape":[-1]}}  ',
    ],
)
def test_files_that_are_no_safetensors_count_as_they_are(folder: Path, data: bytes) -> None:
    (folder / "model.safetensors").write_bytes(data)
    assert folder_weights(folder) == len(data)


def test_a_folder_without_weights(tmp_path: Path) -> None:
    assert folder_weights(tmp_path) is None
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    assert weights_of(plan(tmp_path)) is None
    assert weights_of(plan(tmp_path, size_b=1)) == 2_000_000_000


def test_bits_by_name() -> None:
    order = ["IQ1_S", "IQ2_M", "Q2_K", "Q3_K_M", "UD-Q4_K_XL", "Q5_K_M", "Q6_K", "Q8_0", "BF16", "F32"]
    assert [bits_of(name) for name in order] == sorted(bits_of(name) for name in order)
    assert (bits_of("none"), bits_of("Int4"), bits_of("8-bit"), bits_of("fp32")) == (16, 4.25, 8.25, 32)
    assert bits_of("q4_k_m") == bits_of("Q4_K_M") == bits_of("i1-Q4_K_M") == 4.89
    assert bits_of("AWQ") == bits_of("AWQ-FP16Mix") == bits_of("Int4-Int8Mix") == bits_of("w4a16") == 4.25


def test_names_that_say_nothing_are_not_taken_for_16_bits() -> None:
    for name in ("none", "Q4_K_M", "ud-q4_k_xl", "i1-IQ1_S", "MXFP4_MOE", "Int4-W4A16", "8bits", "4-bit", "bf16"):
        assert check_quantization(name) == name
    for name in ("", "Q9_K", "Q4KM", "int", "4", "Int99", "Q4_K_M\n", "none of them", "fp", "AWQ4 "):
        with pytest.raises(BadRequest, match=r"known are: none, F32.*Q8_0") as caught:
            check_quantization(name)
        assert caught.value.param == "quantization"


def test_weights_by_size() -> None:
    """Published files: Meta-Llama-3.1-8B-Instruct-Q4_K_M.gguf has 4.92 GB; its AWQ and GPTQ Int4 folders 5.7 GB."""
    from modelrack.catalog.shapes import typical_shape

    assert weights_by_size(8.03, "Q4_K_M", "gguf", None) == pytest.approx(4.92e9, rel=0.02)
    assert weights_by_size(8.03, "Int4", "gptq", typical_shape(8)) == pytest.approx(5.7e9, rel=0.05)
    assert weights_by_size(8.03, "none", "pytorch", None) == pytest.approx(16.06e9)
    assert weights_by_size(8.03, "none", "pytorch", None, 4.0) == pytest.approx(32.12e9)


def test_types_of_numbers() -> None:
    assert [dtype_bytes(name) for name in ("torch.bfloat16", "float32", "fp8_e4m3", "auto", None)] == [2, 4, 1, 2, 2]
    with pytest.raises(BadRequest, match="no known type"):
        dtype_bytes("float7")


# Estimates


def test_an_engine_on_torch(folder: Path) -> None:
    found = estimate_torch(plan(folder), machine(), context=100, sequences=3, batched_tokens=10)
    assert found is not None
    assert found.weights_bytes == folder_weights(folder)
    assert found.cache_bytes == 3 * 100 * PER_TOKEN * 2
    assert found.overhead_bytes > TORCH_BYTES and found.host_bytes == 0
    wide = estimate_torch(plan(folder), machine(), context=100, sequences=3, dtype="float32")
    assert wide is not None and wide.cache_bytes == 2 * found.cache_bytes
    shared = estimate_torch(plan(folder), machine(), cache_tokens=1000, sequences=8)
    assert shared is not None and shared.cache_bytes == 1000 * PER_TOKEN * 2
    card = estimate_torch(plan(folder, devices=1), cards(1), context=100)
    assert card is not None and card.host_bytes == TORCH_BYTES and card.overhead_bytes >= CUDA_BYTES
    all_of_it = estimate_torch(plan(folder, devices=1), cards(1), cache_share=0.5)
    assert all_of_it is not None
    rest = 24 * GIB - all_of_it.weights_bytes - all_of_it.overhead_bytes
    assert all_of_it.cache_bytes == rest // 2
    small = estimate_torch(plan(size_b=8), machine(), quantization="4-bit")
    full = estimate_torch(plan(size_b=8), machine())
    assert small is not None and full is not None and small.weights_bytes < 0.45 * full.weights_bytes
    assert estimate_torch(plan(), machine()) is None


def test_an_engine_that_reserves(folder: Path) -> None:
    found = estimate_reserving(plan(size_b=8, devices=2), cards(2), share=0.9)
    assert found is not None
    assert total_bytes(found) - found.host_bytes == int(0.9 * 48 * GIB)
    with pytest.raises(LaunchFailed, match=r"0\.50 GiB of cache") as caught:
        estimate_reserving(plan(size_b=8, devices=1), cards(1, 16), share=0.9)
    assert caught.value.remedy is not None
    fixed = estimate_reserving(plan(folder), machine(), share=0.9, cache_space_bytes=GIB, context=100)
    assert fixed is not None and fixed.cache_bytes == GIB
    with pytest.raises(LaunchFailed):
        estimate_reserving(plan(folder), machine(), share=0.9, cache_space_bytes=PER_TOKEN * 2 * 511)
    assert estimate_reserving(plan(), machine(), share=0.9) is None


def test_an_engine_that_says_nothing(folder: Path) -> None:
    found = estimate_plainly(plan(folder), machine())
    assert found is not None and found.cache_bytes == 512 * PER_TOKEN * 2
    assert estimate_plainly(plan(), machine()) is None


ENCODER = {**CONFIG, "architectures": ["BertModel"], "max_position_embeddings": 128}


@pytest.mark.parametrize("ability", ["embed", "rerank"])
def test_what_embeds_or_ranks_keeps_no_cache(folder: Path, ability: str) -> None:
    (folder / "config.json").write_text(json.dumps(ENCODER))
    one = plan(folder, family=Family(name="m", model_type="embedding", abilities=(ability,)))
    found = estimate_encoder(one, machine(), batched_tokens=1000)
    more = estimate_encoder(one, machine(), batched_tokens=3000, dtype="float32", extra_bytes=7)
    assert found is not None and more is not None
    assert found.weights_bytes == folder_weights(folder) and found.cache_bytes == found.host_bytes == 0
    assert more.weights_bytes == (folder_weights(folder, 4.0) or 0) + 7
    assert more.overhead_bytes - TORCH_BYTES == 3 * (found.overhead_bytes - TORCH_BYTES) > 0
    card = estimate_encoder(replace(one, accelerators=(0,)), cards(1), batched_tokens=1000, process_bytes=5)
    assert card is not None and card.host_bytes == 5 and card.overhead_bytes > CUDA_BYTES
    assert estimate_encoder(plan(), machine(), batched_tokens=1) is None
    plainly = estimate_plainly(one, machine())
    assert plainly is not None and plainly.cache_bytes == 0


def test_a_decoder_that_embeds_keeps_none_either(tmp_path: Path) -> None:
    """Its weights are those of its file, before and after the download by what is known."""
    keys = {"general.architecture": "qwen3", "qwen3.pooling_type": 3, "qwen3.block_count": 2}
    path = write_gguf(tmp_path / "m.gguf", {**keys, "qwen3.embedding_length": 64, "qwen3.context_length": 512})
    one = plan(path, files=ModelFiles(path=str(path), format="gguf"))
    found = estimate_encoder(one, machine(), batched_tokens=512)
    assert found is not None and (found.weights_bytes, found.cache_bytes) == (path.stat().st_size, 0)
    far = estimate_encoder(plan(size_b=0.6), machine(), batched_tokens=512)
    assert far is not None and far.weights_bytes == int(0.6e9 * 2) and far.cache_bytes == 0


def test_modules_beside_the_encoder_weigh_too(folder: Path) -> None:
    kinds = {"": "Transformer", "2_Dense": "Dense", "3_Normalize": "Normalize", "4_Gone": "Dense"}
    listed = [{"path": path, "type": f"a.{kind}"} for path, kind in kinds.items()]
    (folder / "modules.json").write_text(json.dumps(listed))
    before = folder_weights(folder)
    for name in ("2_Dense", "3_Normalize"):
        (folder / name).mkdir()
    write_weights(folder / "2_Dense" / "model.safetensors", weight=("F32", [64, 16]))
    assert before is not None and folder_weights(folder) == before + 64 * 16 * 4
    (folder / "modules.json").write_text("{")
    assert folder_weights(folder) == before


def test_an_estimate_that_fails_is_no_obstacle(folder: Path) -> None:
    def fails(plan: LoadPlan, machine: Machine) -> MemoryEstimate:
        raise ZeroDivisionError("oops")

    def refuses(plan: LoadPlan, machine: Machine) -> MemoryEstimate:
        raise LaunchFailed("Too little.", remedy="Take less.")

    engine = replace(LLAMA, estimate=fails)
    assert reckon(engine, plan(folder), machine()).memory == estimate_plainly(plan(folder), machine())
    assert expected(engine, plan(), machine()) is None
    found = reckon(replace(LLAMA, estimate=refuses), plan(folder), machine())
    assert (found.problem, found.remedy, found.basis) == ("Too little.", "Take less.", "files")
    fit = fit_into(found, machine(), ())
    assert (fit.fits, fit.reason) == (False, "too little")
    unknown = fit_into(reckon(LLAMA, plan(), machine()), machine(), ())
    assert (unknown.fits, unknown.reason) == (None, "what it needs is not known")
    (folder / "config.json").write_text("{")
    assert expected(LLAMA, plan(folder), machine()) is None


def fixed(weights: float, cache: float = 0, host: float = 0) -> Engine:
    memory = MemoryEstimate(weights_bytes=int(weights * GIB), cache_bytes=int(cache * GIB), host_bytes=int(host * GIB))
    return replace(LLAMA, estimate=lambda plan, machine: memory)


@pytest.mark.parametrize(
    ("weights", "cache", "host", "devices", "fits"),
    [
        (10, 2, 0, 0, True),
        (16, 0, 0, 0, False),
        (1, 18, 0, 0, False),
        (20, 3.9, 1, 1, True),
        (22, 1.9, 1, 1, False),
        (20, 5, 1, 1, False),
        (30, 5, 1, 2, True),
        (10, 0, 70, 1, False),
    ],
)
def test_what_fits(weights: float, cache: float, host: float, devices: int, fits: bool) -> None:
    """Weights known by size alone may be more than reckoned; a cache is as large as it is chosen."""
    here = cards(2) if devices else machine(16 * GIB / 1e9)
    found = fit_into(reckon(fixed(weights, cache, host), plan(devices=devices), here), here, range(devices))
    assert found.fits is fits
    assert bool(found.lacking_host_bytes or found.lacking_device_bytes) is not fits


def test_replicas_add_up() -> None:
    here = machine(16 * GIB / 1e9)
    found = reckon(fixed(6), plan(), here)
    assert [fit_into(found, here, (), replicas).fits for replicas in (1, 2, 3)] == [True, True, False]


# What was measured


def test_an_estimate_is_corrected_by_what_was_measured() -> None:
    before = MemoryEstimate(weights_bytes=1000, cache_bytes=500, overhead_bytes=100)
    same = corrected(before, 1800, 0, 1600, on_device=False)
    assert total_bytes(same) == 1800 and (same.weights_bytes, same.cache_bytes) == (1000, 500)
    assert total_bytes(corrected(before, 1800, 0, None, on_device=False)) == 1800
    larger_cache = replace(before, cache_bytes=900)
    assert total_bytes(corrected(larger_cache, 1800, 0, 1600, on_device=False)) == 2200
    untouched = corrected(before, 700, 0, 1600, on_device=False)
    assert total_bytes(untouched) == 1500, "weights and cache fill up later"
    card = replace(before, host_bytes=50)
    assert corrected(card, 80, 0, 1650, on_device=True) == replace(card, host_bytes=80)
    both = corrected(card, 80, 1700, 1650, on_device=True)
    assert (total_bytes(both), both.host_bytes) == (1780, 80)


def test_measured_figures_count(folder: Path) -> None:
    engine = replace(LLAMA, estimate=lambda plan, machine: estimate_torch(plan, machine, context=10))
    raw = expected(engine, plan(folder), machine())
    assert raw is not None
    measured = Measured(host_bytes=3 * GIB, device_bytes=0, estimated_bytes=total_bytes(raw))
    found = reckon(engine, plan(folder), machine(), measured)
    assert found.basis == "measured" and found.memory is not None
    assert total_bytes(found.memory) == 3 * GIB


def test_what_is_remembered_for_whom(folder: Path) -> None:
    def key(engine: str = "a", here: Machine | None = None, **more: Any) -> str:
        return measure_key(engine, plan(folder, **more), here or machine())

    first = key()
    assert key() == first and key(here=machine(64)) == first and key(model_uid="other") == first
    others = {
        key("b"),
        key(options={"n": 1}),
        key(devices=1, here=cards(1)),
        key(devices=2, here=cards(2)),
        key(lora=(("x", str(folder / "config.json")),)),
    }
    assert len(others) == 5 and first not in others
    one_of_two = key(devices=1, here=cards(2))
    assert one_of_two == key(devices=1, here=cards(1)), "which of two alike devices it is does not matter"
    write_weights(folder / "model.safetensors", a=("F32", [7]))
    assert key() != first
    assert measure_key("a", plan(Path("/nowhere/at/all")), machine()) != first
