"""What is loaded how: types of numbers, sizes, and launches that cannot be."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LlamaConfig, MambaConfig

from modelrack.errors import LaunchFailed
from modelrack.pytorch import choose_device
from modelrack.testing.hf import write_random_model
from modelrack.testing.in_process import ask

sys.path.insert(0, str(Path(__file__).parent))

from in_process import assert_refused, make_plan, opened, start

from modelrack_llm_transformers.devices import choose_dtype, free_bytes
from modelrack_llm_transformers.loading import load
from modelrack_llm_transformers.options import TransformersOptions
from modelrack_llm_transformers.sizes import cache_bytes_per_token, choose_sizes

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_random_model(tmp_path_factory.mktemp("models") / "tiny")


def sizes_of(config: Any, **options: Any) -> Any:
    config._attn_implementation = options.pop("attention", "sdpa")
    return choose_sizes(TransformersOptions(**options).model_dump(), config, CPU, torch.float32)


def test_the_cache_takes_keys_and_values_of_all_layers() -> None:
    config = LlamaConfig(hidden_size=64, num_attention_heads=4, num_key_value_heads=2, num_hidden_layers=3, head_dim=16)
    assert cache_bytes_per_token(config, torch.bfloat16) == 2 * 3 * 2 * 16 * 2
    # Without attention there is nothing to keep for each token; what is reckoned with is harmless.
    assert cache_bytes_per_token(MambaConfig(hidden_size=64), torch.float32) >= 0


def test_sizes_follow_the_model_and_the_launch() -> None:
    config = LlamaConfig(hidden_size=64, num_attention_heads=4, num_hidden_layers=2, max_position_embeddings=1024)
    plain = sizes_of(config)
    assert (plain.most, plain.context, plain.tokens, plain.page) == (8, 1024, 8192, 16)
    assert sizes_of(config, attention="flash_attention_2").page == 256
    small = sizes_of(config, max_num_seqs=300, max_model_len=100, kv_tokens=64, page_size=64)
    assert (small.most, small.context, small.tokens) == (300, 100, 128)
    assert small.step >= 300, "a step takes a token of every sequence"


def test_sixteen_bits_are_computed_in_thirty_two_where_that_is_faster() -> None:
    config = LlamaConfig(dtype="bfloat16")
    assert choose_dtype("bfloat16", config, CPU, 1) == torch.bfloat16
    assert choose_dtype("auto", LlamaConfig(dtype="float32"), CPU, 1) == torch.float32
    half = LlamaConfig(dtype="float16")
    assert choose_dtype("auto", half, CPU, 1) == torch.float32
    assert choose_dtype("auto", half, CPU, free_bytes(CPU)) == torch.bfloat16, "twice as much would not fit"


def test_accelerators_that_are_not_there_are_missed() -> None:
    if torch.cuda.is_available() or torch.xpu.is_available() or torch.backends.mps.is_available():
        pytest.skip("there is an accelerator here")
    import dataclasses

    plan = dataclasses.replace(make_plan(Path("nowhere")), accelerators=(0,))
    with pytest.raises(LaunchFailed, match="sees none of the accelerators") as caught:
        choose_device(torch, plan)
    assert "--env isolated" in str(caught.value.remedy)


def test_a_folder_without_a_model_is_refused(tmp_path: Path) -> None:
    assert_refused(make_plan(tmp_path), "could not read the configuration")


def test_a_model_that_writes_no_text_is_refused(tiny: Path, tmp_path: Path) -> None:
    config = {"model_type": "vit", "architectures": ["ViTModel"], "hidden_size": 32}
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert_refused(make_plan(tmp_path), "is no model that writes text")


def test_broken_weights_are_refused(tiny: Path, tmp_path: Path) -> None:
    for file in tiny.iterdir():
        data = file.read_bytes()
        (tmp_path / file.name).write_bytes(data[: len(data) // 2] if file.suffix == ".safetensors" else data)
    assert_refused(make_plan(tmp_path), "Transformers could not load")


def test_code_that_comes_with_a_model_is_not_run(tiny: Path, tmp_path: Path) -> None:
    for file in tiny.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    config = json.loads((tiny / "config.json").read_text())
    config |= {"model_type": "mine", "auto_map": {"AutoConfig": "mine.Config", "AutoModelForCausalLM": "mine.Model"}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "mine.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    assert_refused(make_plan(tmp_path), "it comes with Python code of its own", "trust_remote_code")
    assert not (tmp_path / "ran").exists()


def test_progress_is_told_while_loading(tiny: Path) -> None:
    told: list[tuple[float, str]] = []
    loaded = load(make_plan(tiny), lambda progress, stage: told.append((progress, stage)))
    assert [progress for progress, _ in told] == sorted(progress for progress, _ in told)
    assert "loading the weights" in {stage for _, stage in told}
    assert loaded.device == CPU and loaded.model.dtype == torch.float32


def test_what_a_models_file_recommends_is_passed_on(tiny: Path, tmp_path: Path) -> None:
    for file in tiny.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    told = json.loads((tiny / "generation_config.json").read_text())
    told |= {"do_sample": True, "temperature": 0.6, "top_k": 20, "max_new_tokens": 3}
    (tmp_path / "generation_config.json").write_text(json.dumps(told))
    with opened(make_plan(tmp_path)) as model:
        assert model.traits.defaults == {"temperature": 0.6, "top_k": 20}

        async def scenario(one: Any) -> None:
            # The number of tokens is the request's alone.
            assert len((await ask(one, "a b c", max_tokens=9, ignore_eos=True)).tokens[0]) == 9

        start(model, scenario)
