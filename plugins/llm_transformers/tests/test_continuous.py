"""Continuous batching: what is computed together, shared, interrupted, cancelled and failed."""

import asyncio
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from modelrack.errors import BadRequest, EngineError, ModelrackError, NotReady, TooManyRequests
from modelrack.llm.contract import Constraint, Generation, Sampling
from modelrack.testing.hf import write_random_model
from modelrack.testing.hf_extras import write_recurrent_model
from modelrack.testing.in_process import GREEDY, Heard, ask, begin

sys.path.insert(0, str(Path(__file__).parent))

from in_process import assert_refused, make_plan, opened, run

from modelrack_llm_transformers.continuous import ContinuousRunner
from modelrack_llm_transformers.model import TransformersModel, load_model

PROMPTS = ["a b c", "one two three four", "x" * 90, "hello", "hello there", "The quick brown fox jumps", "0 1 2 3"]
LONG = " ".join(str(number) for number in range(60))


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_random_model(tmp_path_factory.mktemp("models") / "tiny")


def runner_of(model: TransformersModel) -> ContinuousRunner:
    assert isinstance(model.loop, ContinuousRunner)
    return model.loop


def is_idle(model: TransformersModel) -> Callable[[], bool]:
    """Return a claim: nothing is under way, in no book."""
    runner = runner_of(model)
    return lambda: runner.in_flight == 0 and not runner._owners and not runner._paged.has_work()


async def until(claim: Callable[[], bool], limit_s: float = 30.0) -> None:
    async with asyncio.timeout(limit_s):
        while not claim():
            await asyncio.sleep(0.005)


def test_a_batch_answers_as_one_by_one_and_as_generate_does(tiny: Path) -> None:
    async def answers(model: TransformersModel) -> list[list[int]]:
        alone = [(await ask(model, prompt)).tokens[0] for prompt in PROMPTS]
        together = await asyncio.gather(*(ask(model, prompt) for prompt in PROMPTS * 3))
        assert [heard.tokens[0] for heard in together] == alone * 3
        return alone

    found = []
    for batching in ("continuous", "generate"):
        with opened(make_plan(tiny, batching=batching)) as model:
            assert model.facts["batching"] == batching
            found.append(asyncio.run(answers(model)))
    assert found[0] == found[1]


def test_more_choices_than_places_all_answer(tiny: Path) -> None:
    async def scenario(model: TransformersModel) -> None:
        one = await ask(model, LONG, max_tokens=20)
        many = await ask(model, LONG, max_tokens=20, n=11)
        assert many.tokens == one.tokens * 11
        assert set(many.ends.values()) == {("length", 20)}
        hot = await ask(model, LONG, max_tokens=12, n=6, sampling=Sampling(seed=5))
        again = [await ask(model, LONG, max_tokens=12, sampling=Sampling(seed=5 + index)) for index in range(6)]
        assert hot.tokens == [heard.tokens[0] for heard in again], "choice i takes the seed plus i"

    run(make_plan(tiny, max_num_seqs=4), scenario)


def test_what_has_been_read_is_not_read_again(tiny: Path) -> None:
    async def scenario(model: TransformersModel) -> None:
        first, second = await ask(model, LONG), await ask(model, LONG)
        assert first.cached_tokens == 0
        assert second.cached_tokens % 16 == 0
        assert first.prompt_tokens - 16 <= second.cached_tokens < first.prompt_tokens
        assert second.tokens == first.tokens
        salted = [await ask(model, LONG, cache_salt=salt) for salt in ("one", "two", "one", "")]
        assert [heard.cached_tokens > 0 for heard in salted] == [False, False, True, False]
        assert {tuple(heard.tokens[0]) for heard in salted} == {tuple(first.tokens[0])}

    run(make_plan(tiny), scenario)


def test_nothing_is_kept_where_nothing_shall_be(tiny: Path) -> None:
    async def scenario(model: TransformersModel) -> None:
        first, second = await ask(model, LONG), await ask(model, LONG)
        assert second.cached_tokens == 0 and second.tokens == first.tokens

    run(make_plan(tiny, prefix_cache=False), scenario)


def test_sequences_are_interrupted_when_the_cache_is_full(tiny: Path) -> None:
    """They are read again later, and go on as if nothing had been."""

    async def scenario(model: TransformersModel) -> None:
        assert model.facts["kv_tokens"] == 256
        alone = [(await ask(model, prompt, max_tokens=100)).tokens for prompt in PROMPTS]
        together = await asyncio.gather(*(ask(model, prompt, max_tokens=100) for prompt in PROMPTS))
        assert [heard.tokens for heard in together] == alone
        await until(is_idle(model))

    run(make_plan(tiny, kv_tokens=256, max_num_seqs=6), scenario)


def test_a_sequence_is_never_longer_than_the_cache(tiny: Path) -> None:
    async def scenario(model: TransformersModel) -> None:
        n_ctx = model.traits.n_ctx
        assert n_ctx <= 128
        heard = await ask(model, "a b c", max_tokens=None, ignore_eos=True)
        assert heard.ends[0] == ("length", n_ctx - heard.prompt_tokens)
        with pytest.raises(BadRequest):
            await begin(model, "a " * n_ctx)

    run(make_plan(tiny, kv_tokens=128), scenario)


def test_prompts_are_read_in_parts(tiny: Path) -> None:
    """A step is never larger than it may be, and what a prompt's tokens are worth does not depend on the parts."""

    async def scenario(model: TransformersModel) -> None:
        whole = await ask(model, LONG, prompt_logprobs=True, logprobs=2, max_tokens=5)
        assert whole.prompt_tokens > 3 * 32
        assert whole.prompt_logprobs is not None
        prompt = model.encode(LONG, add_special=False, parse_special=True)
        bare = AutoModelForCausalLM.from_pretrained(tiny, dtype=torch.float32)
        with torch.inference_mode():
            ids = torch.tensor([prompt + whole.tokens[0]])
            wanted = torch.log_softmax(bare(ids).logits[0], -1)
        assert whole.prompt_logprobs[0] is None
        told = [*whole.prompt_logprobs[1:], *whole.logprobs[0]]
        assert len(told) == ids.shape[1] - 1
        for place, one in enumerate(told):
            assert one is not None
            assert one.logprob == pytest.approx(float(wanted[place, ids[0, place + 1]]), abs=1e-3)
            best = wanted[place].topk(2)
            assert [value for _, value in one.top] == pytest.approx(best.values.tolist(), abs=1e-3)
        again = await ask(model, LONG, prompt_logprobs=True, logprobs=2, max_tokens=5)
        assert again.cached_tokens == 0 and again.prompt_logprobs == whole.prompt_logprobs

    run(make_plan(tiny, max_batch_tokens=32), scenario)


def test_a_cancelled_choice_stops_and_leaves_nothing_behind(tiny: Path) -> None:
    async def scenario(model: TransformersModel) -> None:
        for n, index in ((1, None), (3, None), (3, 0), (3, 2)):
            generation = Generation(
                prompt=model.encode(LONG, add_special=False, parse_special=True),
                n=n,
                sampling=GREEDY,
                max_tokens=40,
                ignore_eos=True,
            )
            for is_early in (True, False):
                heard = await begin(model, LONG, n=n, max_tokens=40, ignore_eos=True)
                ticket = await model.submit(generation, heard_too := Heard(n))
                if not is_early:
                    await heard_too.begun.wait()
                ticket.cancel(index)
                left = set() if index is None else set(range(n)) - {index}
                await heard.over.wait()
                await until(is_idle(model))
                assert set(heard_too.ends) == left and heard_too.error is None
                assert [heard_too.tokens[one] for one in left] == [heard.tokens[0]] * len(left)

    run(make_plan(tiny, max_num_seqs=8), scenario)


def test_a_full_queue_is_told(tiny: Path) -> None:
    async def scenario(model: TransformersModel) -> None:
        assert model.traits.max_sequences == 3
        running = [await begin(model, prompt, max_tokens=50) for prompt in PROMPTS[:3]]
        with pytest.raises(TooManyRequests):
            await begin(model, "one more")
        for heard in running:
            await heard.over.wait()
        await ask(model, "there is room again")

    run(make_plan(tiny, max_num_seqs=2, max_queue=1), scenario)


def test_constraints_hold_each_choice_by_itself(tiny: Path) -> None:
    async def scenario(model: TransformersModel) -> None:
        def pattern(value: str) -> Constraint:
            return Constraint(kind="regex", value=value, field="guided_regex")

        wanted = ("[a-f]{8}", "[0-9]{12}", "(yes|no)")
        together = await asyncio.gather(
            *(ask(model, "hi", n=3, constraint=pattern(value), sampling=Sampling(seed=1)) for value in wanted),
            ask(model, "hi"),
        )
        for value, heard in zip(wanted, together, strict=False):
            for tokens in heard.tokens:
                text = b"".join(map(model.token_bytes, tokens)).decode()
                assert re.fullmatch(value, text), text
            assert {reason for reason, _ in heard.ends.values()} == {"stop"}

    run(make_plan(tiny), scenario)


class Failing:
    """Makes the next forward passes of a model fail."""

    def __init__(self, model: TransformersModel, times: int) -> None:
        self.left = times
        inner: Any = runner_of(model)._paged._model
        self._handle = inner.register_forward_pre_hook(self._fail)

    def _fail(self, *_: Any) -> None:
        if self.left:
            self.left -= 1
            raise RuntimeError("out of everything")


def test_a_failed_step_fails_those_that_were_in_it(tiny: Path) -> None:
    async def scenario(model: TransformersModel) -> None:
        before = await ask(model, "a b c")
        Failing(model, 1)
        with pytest.raises(EngineError):
            await ask(model, "a b c", n=2)
        await until(is_idle(model))
        assert (await ask(model, "a b c")).tokens == before.tokens
        assert not model.loop.is_broken

    run(make_plan(tiny), scenario)


def test_an_engine_that_fails_again_and_again_is_given_up(tiny: Path) -> None:
    broken: list[bool] = []
    model = load_model(make_plan(tiny), lambda progress, stage: None, on_broken=lambda: broken.append(True))

    async def scenario() -> None:
        Failing(model, 100)
        for _ in range(3):
            with pytest.raises(ModelrackError):
                await ask(model, "a b c")
        await until(lambda: bool(broken))
        with pytest.raises(EngineError):
            await begin(model, "a b c")

    asyncio.run(scenario())
    model.close()


def test_what_is_under_way_fails_when_the_model_is_closed(tiny: Path) -> None:
    async def scenario(model: TransformersModel) -> None:
        heard = await begin(model, "a b c", max_tokens=1500, ignore_eos=True)
        waiting = [await begin(model, prompt) for prompt in PROMPTS]
        await heard.begun.wait()
        await asyncio.to_thread(model.close)
        for one in (heard, *waiting):
            await one.over.wait()
        assert isinstance(heard.error, NotReady)
        with pytest.raises(EngineError):
            await begin(model, "too late")

    run(make_plan(tiny, max_num_seqs=2), scenario)


def test_a_model_without_attention_is_computed_otherwise(tmp_path: Path) -> None:
    model = write_recurrent_model(tmp_path / "mamba")
    assert_refused(make_plan(model, batching="continuous"), "Continuous batching is not possible")
    with opened(make_plan(model)) as opened_model:
        assert opened_model.facts["batching"] == "generate" and opened_model.facts["batching_reason"]
