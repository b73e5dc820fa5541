"""Adapters: each request has its own, whatever runs beside it."""

import asyncio
import sys
from collections import Counter
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from modelrack.llm.contract import Generation
from modelrack.testing.gguf import LARGE, Shape, write_random_model
from modelrack.testing.gguf_extras import write_adapter, write_projector
from modelrack.testing.in_process import Heard, ask, begin, chat

sys.path.insert(0, str(Path(__file__).parent))

from in_process import assert_refused, make_plan, run

from modelrack_llm_gguf.lora import Turns
from modelrack_llm_gguf.model import GgufModel

EXACT = Shape(file_type="f32", layers=2)
EXACTLY: dict[str, Any] = {"cache_type_k": "f32", "cache_type_v": "f32", "flash_attn": "off"}
NAMES = (None, "a", "b")
PROMPT = chat("tell me about the sea and the sky")


@pytest.fixture(scope="module")
def model_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_random_model(tmp_path_factory.mktemp("models") / "exact.gguf", EXACT)


@pytest.fixture(scope="module")
def lora(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[str, Path]]:
    folder = tmp_path_factory.mktemp("adapters")
    return [(name, write_adapter(folder / f"{name}.gguf", EXACT, seed=seed)) for seed, name in enumerate("ab")]


async def one_by_one(model: GgufModel, **fields: Any) -> dict[str | None, list[list[int]]]:
    return {name: (await ask(model, PROMPT, lora=name, **fields)).tokens for name in NAMES}


def test_adapters_change_the_answer_of_the_request_that_names_them(
    model_path: Path, lora: list[tuple[str, Path]]
) -> None:
    plain = run(make_plan(model_path, **EXACTLY), lambda model: ask(model, PROMPT))
    plan = make_plan(model_path, lora=lora, **EXACTLY)

    async def scenario(model: GgufModel) -> tuple[Any, Any]:
        assert model.traits.lora == ("a", "b")
        return await one_by_one(model), await one_by_one(model)

    first, second = run(plan, scenario)
    assert first == second
    assert first[None] == plain.tokens
    assert first["a"] != first[None] != first["b"] != first["a"]


@pytest.mark.parametrize("fields", [{}, {"n": 2}, {"logprobs": 1}], ids=["plain", "n", "logprobs"])
def test_requests_of_all_adapters_at_once_answer_as_alone(
    model_path: Path, lora: list[tuple[str, Path]], fields: dict[str, Any]
) -> None:
    async def scenario(model: GgufModel) -> None:
        alone = await one_by_one(model, **fields)
        mixed = await asyncio.gather(*(ask(model, PROMPT, lora=name, **fields) for name in NAMES * 4))
        for name, heard in zip(NAMES * 4, mixed, strict=True):
            assert heard.tokens == alone[name]

    run(make_plan(model_path, lora=lora, n_parallel=6, **EXACTLY), scenario)


def test_what_one_adapter_computed_of_a_prompt_is_not_used_by_another(
    model_path: Path, lora: list[tuple[str, Path]]
) -> None:
    async def scenario(model: GgufModel) -> list[int]:
        order = (None, "a", "b", None, "a", "b")
        return [(await ask(model, PROMPT, lora=name)).cached_tokens for name in order]

    cached = run(make_plan(model_path, lora=lora, **EXACTLY), scenario)
    assert cached[:3] == [0, 0, 0]
    assert min(cached[3:]) > 0


def test_adapters_go_with_drafts(model_path: Path, lora: list[tuple[str, Path]]) -> None:
    plan = make_plan(model_path, lora=lora, **EXACTLY)
    drafting = make_plan(model_path, lora=lora, prompt_lookup=True, lookup_min=2, **EXACTLY)
    assert run(drafting, one_by_one) == run(plan, one_by_one)


def test_nobody_waits_for_a_long_answer_with_another_adapter(model_path: Path, lora: list[tuple[str, Path]]) -> None:
    async def scenario(model: GgufModel) -> None:
        long = await begin(model, PROMPT, lora="a", max_tokens=1500, ignore_eos=True)
        short = await ask(model, PROMPT, lora="b", max_tokens=16, ignore_eos=True)
        assert len(short.tokens[0]) == 16
        assert not long.over.is_set()
        assert len(long.tokens[0]) >= 8

    run(make_plan(model_path, lora=lora, n_ctx=2048, **EXACTLY), scenario)


def test_adapters_share_a_cache_that_is_too_small(model_path: Path, lora: list[tuple[str, Path]]) -> None:
    async def scenario(model: GgufModel) -> None:
        alone = await one_by_one(model, max_tokens=100, ignore_eos=True)
        fields: dict[str, Any] = {"max_tokens": 100, "ignore_eos": True}
        mixed = await asyncio.gather(*(ask(model, PROMPT, lora=name, **fields) for name in NAMES * 2))
        assert [heard.tokens for heard in mixed] == [alone[name] for name in NAMES * 2]

    run(make_plan(model_path, lora=lora, n_parallel=6, n_ctx=256, kv_cells=256, **EXACTLY), scenario)


def test_a_cancelled_request_gives_its_turn_away(model_path: Path, lora: list[tuple[str, Path]]) -> None:
    async def scenario(model: GgufModel) -> None:
        wanted = await ask(model, PROMPT, lora="b", max_tokens=24)
        prompt = model.encode(PROMPT, add_special=False, parse_special=True)
        tickets = []
        for _ in range(3):
            generation = Generation(prompt=prompt, lora="a", ignore_eos=True)
            tickets.append(await model.submit(generation, Heard(1)))
        waiting = await begin(model, PROMPT, lora="b", max_tokens=24)
        for ticket in tickets:
            ticket.cancel()
        await waiting.over.wait()
        assert waiting.tokens == wanted.tokens

    run(make_plan(model_path, lora=lora, n_parallel=3, **EXACTLY), scenario)


def test_files_that_are_no_adapter_for_the_model_are_refused(model_path: Path, tmp_path: Path) -> None:
    write_adapter(tmp_path / "qwen.gguf", EXACT, architecture="qwen2")
    write_adapter(tmp_path / "large.gguf", LARGE)
    write_projector(tmp_path / "projector.gguf")
    (tmp_path / "text.gguf").write_text("no GGUF at all")
    whole = write_adapter(tmp_path / "whole.gguf", EXACT).read_bytes()
    (tmp_path / "cut.gguf").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "folder").mkdir()
    for name, reason in {
        "qwen.gguf": "for models of the architecture 'qwen2'; this one is a 'llama'",
        "large.gguf": "could not load the adapter 'x' .*(incorrect shape|does not exist in base model)",
        "projector.gguf": "is no adapter: its header says it is a",
        "text.gguf": "cannot be read",
        "cut.gguf": "adapter 'x'",
        "folder": "is a folder",
        "none.gguf": "cannot be read",
    }.items():
        plan = make_plan(model_path, lora=[("x", tmp_path / name)], verbosity=0)
        assert_refused(plan, reason)
    assert_refused(make_plan(model_path, lora=[("x", model_path)], verbosity=0), "is no adapter")


def test_turns_are_shared_alike() -> None:
    turns = Turns(steps=4)
    work: dict[str | None, int] = {None: 3, "a": 1, "b": 9}
    taken = [turns.choose(work) for _ in range(120)]
    assert Counter(taken) == {None: 40, "a": 40, "b": 40}
    assert sum(one != other for one, other in pairwise(taken)) <= 120 // 4


def test_a_new_group_has_its_turn_soon_and_one_without_work_loses_it() -> None:
    turns = Turns(steps=4)
    assert [turns.choose({"a": 1}) for _ in range(50)] == ["a"] * 50
    assert turns.choose({"a": 1, "b": 1}) == "b"
    assert turns.choose({"a": 1}) == "a"
    later = [turns.choose({"a": 1, "b": 1, "c": 1}) for _ in range(16)]
    assert {"a", "b", "c"} <= set(later)
