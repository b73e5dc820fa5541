"""Launches at the edges of what the options allow."""

import asyncio
import sys
from pathlib import Path

import pytest

from modelrack.llm.contract import Sampling
from modelrack.testing.gguf import Shape, write_random_model
from modelrack.testing.in_process import ask

sys.path.insert(0, str(Path(__file__).parent))

from in_process import assert_refused, make_plan, run

from modelrack_llm_gguf.model import GgufModel


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_random_model(tmp_path_factory.mktemp("models") / "tiny.gguf", Shape(file_type="f32", layers=1))


@pytest.mark.parametrize(("n_parallel", "n_batch"), [(49, 512), (128, 512), (32, 32), (128, 128)])
def test_as_many_sequences_run_as_the_options_allow(tiny: Path, n_parallel: int, n_batch: int) -> None:
    """llama.cpp aborts where it has fewer rows of logits than sequences to tell apart."""

    async def scenario(model: GgufModel) -> None:
        answers = await asyncio.gather(*(ask(model, "a b c", max_tokens=4) for _ in range(n_parallel + 1)))
        assert {tuple(answer.tokens[0]) for answer in answers} == {tuple(answers[0].tokens[0])}

    run(make_plan(tiny, n_parallel=n_parallel, n_batch=n_batch, n_ctx=64, kv_cells=4096), scenario)


def test_a_step_that_is_too_small_for_its_sequences_is_refused(tiny: Path) -> None:
    assert_refused(make_plan(tiny, n_parallel=33, n_batch=32), "n_batch is 32 and n_parallel 33")


def test_a_temperature_of_next_to_nothing_chooses_greedily(tiny: Path) -> None:
    """Divided by it, logits would be no numbers any more."""

    async def scenario(model: GgufModel) -> None:
        greedy = await ask(model, "a b c", max_tokens=8)
        for temperature in (1e-45, 1e-39, 1e-30, 1e-6):
            cold = await ask(model, "a b c", max_tokens=8, sampling=Sampling(temperature=temperature))
            assert cold.tokens == greedy.tokens

    run(make_plan(tiny, n_ctx=64), scenario)
