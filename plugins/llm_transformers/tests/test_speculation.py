"""Drafts: fewer steps, the same answers."""

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

import pytest

from modelrack.llm.contract import Sampling
from modelrack.testing.gguf import Shape
from modelrack.testing.hf import write_random_model
from modelrack.testing.hf_extras import write_recurrent_model
from modelrack.testing.in_process import Heard, ask, begin, chat

sys.path.insert(0, str(Path(__file__).parent))

from in_process import assert_refused, make_plan, run

from modelrack_llm_transformers.generate import BatchRunner
from modelrack_llm_transformers.model import TransformersModel

PROMPTS = [chat("one two three"), "a b c a b c a b c a b", chat("tell me about the sea")]


@pytest.fixture(scope="module")
def model_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_random_model(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="module")
def small_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a model that knows nothing of the other, but has its vocabulary."""
    return write_random_model(tmp_path_factory.mktemp("models") / "small", Shape(width=64, heads=2, layers=1), seed=5)


def drafts(model_path: Path, small_path: Path) -> list[dict[str, Any]]:
    return [{"prompt_lookup": True}, {"draft_model": str(model_path)}, {"draft_model": str(small_path), "draft_max": 3}]


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"n": 2},
        {"logprobs": 2},
        {"sampling": Sampling(temperature=1.0, seed=7, top_p=0.9)},
        {"sampling": Sampling(temperature=0, repetition_penalty=1.3)},
        {"stop_ids": frozenset(range(97, 105))},
    ],
    ids=["plain", "n", "logprobs", "sampled", "penalty", "stop"],
)
def test_drafts_change_no_answer(model_path: Path, small_path: Path, fields: dict[str, Any]) -> None:
    async def scenario(model: TransformersModel) -> list[Heard]:
        return [await ask(model, prompt, max_tokens=48, **fields) for prompt in PROMPTS]

    plain = run(make_plan(model_path, batching="generate"), scenario)
    for options in drafts(model_path, small_path):
        drafted = run(make_plan(model_path, **options), scenario)
        for mine, wanted in zip(drafted, plain, strict=True):
            assert (mine.tokens, mine.ends) == (wanted.tokens, wanted.ends), options
            for a, b in zip(mine.logprobs, wanted.logprobs, strict=True):
                assert [one.logprob for one in a] == pytest.approx([one.logprob for one in b], abs=1e-4)


def test_drafts_save_steps(model_path: Path) -> None:
    async def scenario(model: TransformersModel) -> int:
        runner = model.loop
        assert isinstance(runner, BatchRunner)
        steps = 0

        def count(*_: Any) -> None:
            nonlocal steps
            steps += 1

        # Of the model itself: what drafts is another one.
        hook = runner.model.register_forward_hook(count)
        await ask(model, PROMPTS[0], max_tokens=64)
        hook.remove()
        return steps

    assert run(make_plan(model_path, batching="generate"), scenario) >= 64
    assert run(make_plan(model_path, draft_model=str(model_path), draft_max=7), scenario) <= 12


def test_several_at_once_answer_as_alone(model_path: Path, small_path: Path) -> None:
    async def scenario(model: TransformersModel) -> None:
        alone = [(await ask(model, prompt)).tokens for prompt in PROMPTS]
        mixed = await asyncio.gather(*(ask(model, prompt) for prompt in PROMPTS * 3))
        assert [heard.tokens for heard in mixed] == alone * 3

    for options in drafts(model_path, small_path):
        run(make_plan(model_path, **options), scenario)


def test_a_drafted_answer_can_be_cancelled(model_path: Path) -> None:
    async def scenario(model: TransformersModel) -> None:
        runner = model.loop
        heard = await begin(model, PROMPTS[0], max_tokens=1500, ignore_eos=True)
        await heard.begun.wait()
        ticket = await model.submit(*_generation(model, 1500))
        ticket.cancel()
        assert (await ask(model, PROMPTS[1], max_tokens=4)).ends[0] == ("length", 4)
        assert runner.in_flight == 1

    run(make_plan(model_path, draft_model=str(model_path)), scenario)


def _generation(model: TransformersModel, most: int) -> tuple[Any, Heard]:
    from modelrack.llm.contract import Generation

    prompt = model.encode(PROMPTS[0], add_special=False, parse_special=True)
    return Generation(prompt=prompt, max_tokens=most, ignore_eos=True), Heard(1)


def test_models_that_cannot_draft_or_be_drafted_for_are_refused(model_path: Path, tmp_path: Path) -> None:
    recurrent = write_recurrent_model(tmp_path / "recurrent")
    foreign = write_random_model(tmp_path / "foreign")
    words = json.loads((foreign / "tokenizer.json").read_text())
    vocabulary = words["model"]["vocab"]
    vocabulary["!"], vocabulary['"'] = vocabulary['"'], vocabulary["!"]
    (foreign / "tokenizer.json").write_text(json.dumps(words))
    broken = write_random_model(tmp_path / "broken")
    (broken / "model.safetensors").write_bytes(b"no tensors")
    for path, options, reason in (
        (model_path, {"draft_model": str(tmp_path / "none")}, "there is no model in"),
        (model_path, {"draft_model": str(foreign)}, "another vocabulary"),
        (model_path, {"draft_model": str(broken)}, "could not load"),
        (model_path, {"draft_model": str(recurrent)}, "cannot take back tokens"),
        (model_path, {"draft_model": str(model_path), "prompt_lookup": True}, "choose one"),
        (recurrent, {"prompt_lookup": True}, "cannot take back tokens"),
    ):
        assert_refused(make_plan(path, **options), reason)
