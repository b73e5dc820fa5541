"""Adapters: each request has its own, whatever is computed beside it."""

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

import pytest

from modelrack.testing.gguf import TINY, Shape
from modelrack.testing.hf import write_adapter, write_random_model
from modelrack.testing.in_process import ask, begin, chat

sys.path.insert(0, str(Path(__file__).parent))

from in_process import assert_refused, make_plan, run

from modelrack_llm_transformers.model import TransformersModel

NAMES = (None, "a", "b.2")
PROMPT = chat("tell me about the sea and the sky")


@pytest.fixture(scope="module")
def model_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_random_model(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="module")
def lora(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[str, Path]]:
    folder = tmp_path_factory.mktemp("adapters")
    return [(name, write_adapter(folder / f"{seed}", seed=seed)) for seed, name in ((1, "a"), (2, "b.2"))]


def test_adapters_change_the_answer_of_the_request_that_names_them(
    model_path: Path, lora: list[tuple[str, Path]]
) -> None:
    async def alone(model: TransformersModel) -> dict[str | None, Any]:
        return {name: (await ask(model, PROMPT, lora=name)).tokens for name in NAMES}

    async def scenario(model: TransformersModel) -> tuple[Any, Any]:
        assert model.traits.lora == ("a", "b.2")
        return await alone(model), await alone(model)

    plain = run(make_plan(model_path), lambda model: ask(model, PROMPT))
    first, second = run(make_plan(model_path, lora=lora), scenario)
    assert first == second
    assert first[None] == plain.tokens
    assert len({str(tokens) for tokens in first.values()}) == 3


@pytest.mark.parametrize("fields", [{}, {"n": 2}, {"logprobs": 1, "prompt_logprobs": True}], ids=str)
def test_requests_of_all_adapters_at_once_answer_as_alone(
    model_path: Path, lora: list[tuple[str, Path]], fields: dict[str, Any]
) -> None:
    async def scenario(model: TransformersModel) -> None:
        alone = {name: await ask(model, PROMPT, lora=name, **fields) for name in NAMES}
        mixed = await asyncio.gather(*(ask(model, PROMPT, lora=name, **fields) for name in NAMES * 3))
        for name, heard in zip(NAMES * 3, mixed, strict=True):
            assert heard.tokens == alone[name].tokens
            if "logprobs" in fields:
                for mine, wanted in zip(heard.prompt_logprobs or (), alone[name].prompt_logprobs or (), strict=True):
                    assert mine == wanted or (mine and wanted and abs(mine.logprob - wanted.logprob) < 1e-4)

    run(make_plan(model_path, lora=lora, max_num_seqs=4), scenario)


def test_a_long_answer_with_one_adapter_does_not_keep_out_another(
    model_path: Path, lora: list[tuple[str, Path]]
) -> None:
    async def scenario(model: TransformersModel) -> None:
        long = await begin(model, PROMPT, lora="a", max_tokens=1500, ignore_eos=True)
        await long.begun.wait()
        await ask(model, PROMPT, lora="b.2", max_tokens=4)
        assert not long.over.is_set()

    run(make_plan(model_path, lora=lora), scenario)


def test_what_is_no_adapter_for_the_model_is_refused(model_path: Path, tmp_path: Path) -> None:
    def with_config(name: str, **changes: Any) -> Path:
        folder = write_adapter(tmp_path / name)
        config = json.loads((folder / "adapter_config.json").read_text())
        (folder / "adapter_config.json").write_text(json.dumps({**config, **changes}))
        return folder

    pickled = write_adapter(tmp_path / "pickled")
    (pickled / "adapter_model.safetensors").rename(pickled / "adapter_model.bin")
    broken = write_adapter(tmp_path / "broken")
    (broken / "adapter_model.safetensors").write_bytes(b"no tensors")
    nonsense = write_adapter(tmp_path / "nonsense")
    (nonsense / "adapter_config.json").write_text("{")
    for path, reason, remedy in (
        (write_adapter(tmp_path / "narrow", Shape(width=64)), "other sizes", ""),
        (write_adapter(tmp_path / "deep", Shape(layers=TINY.layers + 1)), "does not fit this model", ""),
        (write_adapter(tmp_path / "flat", Shape(layers=TINY.layers - 1)), "does not fit this model", ""),
        (with_config("elsewhere", target_modules=["nothing"]), "cannot be used with this model: .*nothing", ""),
        (with_config("prefix", peft_type="PREFIX_TUNING"), "of peft's type PREFIX_TUNING", ""),
        (with_config("list", r=[]), "cannot be used with this model", ""),
        (tmp_path / "none", "has no adapter_config.json", "save_pretrained"),
        (pickled, "has no adapter_model.safetensors", "pickle"),
        (broken, "cannot be used with this model", ""),
        (nonsense, "cannot be read", ""),
    ):
        assert_refused(make_plan(model_path, lora=[("bad", path)]), f"LoRA adapter 'bad'.*{reason}", remedy)
