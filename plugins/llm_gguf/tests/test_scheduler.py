"""Many sequences in one loop: each gets the answer it would have had alone, whatever happens to the others."""

import asyncio
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import orjson
import pytest

from modelrack.errors import EngineError, ModelrackError, NotReady, TooManyRequests
from modelrack.llm.contract import Generation, Sampling, TokenLogprob
from modelrack.testing.gguf import Shape, write_random_model
from modelrack.testing.gguf_extras import write_recurrent_model
from modelrack.testing.in_process import GREEDY, Heard, ask, begin, chat

sys.path.insert(0, str(Path(__file__).parent))

from in_process import assert_refused, make_plan, opened, run

from modelrack_llm_gguf.model import GgufModel

DEMO = Path(__file__).parents[2] / "demo/modelrack_demo/models/demo-chat/demo-chat-q8_0.gguf"
QUESTIONS = (
    "What is the largest animal?",
    "Who are you?",
    "How do you say hello in Japanese?",
    "What is the capital of France?",
    "Tell me a joke.",
    "What color is the sky?",
)
# What is computed beside a token, and where its sequence lies in the cache, changes the order of sums: in float32, by
# millionths, in f16 and q8_0 by hundredths, which decides many a choice of a random model.
EXACT = Shape(file_type="f32", layers=2)
EXACTLY: dict[str, Any] = {"cache_type_k": "f32", "cache_type_v": "f32", "flash_attn": "off"}
LENGTH = 40


@pytest.fixture(scope="module")
def exact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_random_model(tmp_path_factory.mktemp("models") / "exact.gguf", EXACT)


def prompts(count: int) -> list[str]:
    return [chat(f"number {index} is {'abcdefghijklmnop'[index % 16] * (3 + index)}") for index in range(count)]


async def texts(model: GgufModel, questions: Sequence[str], **fields: Any) -> list[str]:
    """Return the answers to questions asked at once."""
    heard = await asyncio.gather(*(ask(model, chat(text), **{"max_tokens": LENGTH, **fields}) for text in questions))
    return [b"".join(map(model.token_bytes, one.tokens[0])).decode("utf-8", "replace") for one in heard]


@pytest.fixture(scope="module")
def demo_alone() -> list[str]:
    """Return what the demo model answers when it does nothing else, and keeps nothing."""

    async def each(model: GgufModel) -> list[str]:
        return [(await texts(model, [question]))[0] for question in QUESTIONS]

    return run(make_plan(DEMO, n_ctx=512, prefix_cells=0), each)


def test_the_demo_model_answers_the_same_among_sixteen(demo_alone: list[str]) -> None:
    questions = [QUESTIONS[index % len(QUESTIONS)] for index in range(16)]

    async def together(model: GgufModel) -> list[str]:
        return await texts(model, questions)

    assert "blue whale" in demo_alone[0]
    found = run(make_plan(DEMO, n_ctx=512, n_parallel=16), together)
    assert found == [demo_alone[index % len(QUESTIONS)] for index in range(16)]


def test_the_demo_model_answers_the_same_with_reuse_and_after_eviction(demo_alone: list[str]) -> None:
    async def scenario(model: GgufModel) -> None:
        assert await texts(model, QUESTIONS) == demo_alone
        again = [await ask(model, chat(question), max_tokens=LENGTH) for question in QUESTIONS]
        assert all(one.cached_tokens == one.prompt_tokens - 1 for one in again)
        assert await texts(model, QUESTIONS) == demo_alone
        # Long prompts push everything out.
        for index in range(4):
            await ask(model, f"{index} " + "once upon a time " * 25, max_tokens=4)
        evicted = await ask(model, chat(QUESTIONS[0]), max_tokens=LENGTH)
        assert evicted.cached_tokens < evicted.prompt_tokens - 1
        assert await texts(model, QUESTIONS) == demo_alone

    run(make_plan(DEMO, n_ctx=256, kv_cells=512, prefix_cells=256), scenario)


def test_the_demo_model_answers_the_same_after_stepping_back(demo_alone: list[str]) -> None:
    async def scenario(model: GgufModel) -> None:
        heard = await asyncio.gather(*(ask(model, chat(text), n=10, max_tokens=LENGTH) for text in QUESTIONS))
        assert model.loop.counters.preempted > 0
        for one, expected in zip(heard, demo_alone, strict=True):
            assert {b"".join(map(model.token_bytes, tokens)).decode() for tokens in one.tokens} == {expected}

    run(make_plan(DEMO, n_ctx=256, kv_cells=256, n_parallel=30), scenario)


def test_sequences_that_step_back_go_on_as_they_would_have(exact: Path) -> None:
    """Those with penalties and seeds too: what their samplers remember is not lost."""
    sampling = Sampling(temperature=0.8, top_p=0.9, seed=5, frequency_penalty=0.5, repetition_penalty=1.2)
    counts: list[int] = []

    async def long(model: GgufModel) -> list[list[list[int]]]:
        heard = await asyncio.gather(
            *(ask(model, prompt, max_tokens=90, sampling=sampling, ignore_eos=True) for prompt in prompts(6))
        )
        counts.append(model.loop.counters.preempted)
        return [one.tokens for one in heard]

    roomy = run(make_plan(exact, **EXACTLY, n_ctx=256), long)
    narrow = run(make_plan(exact, **EXACTLY, n_ctx=256, kv_cells=256), long)
    assert narrow == roomy
    assert counts[0] == 0
    assert counts[1] > 0


_XLLAMACPP = """
import json, sys
import xllamacpp
params = xllamacpp.CommonParams()
params.model.path, params.n_ctx, params.verbosity, params.fit_params = sys.argv[1], 512, 0, False
params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 1
server = xllamacpp.Server(params)
for question in json.loads(sys.argv[2]):
    body = {"messages": [{"role": "user", "content": question}], "max_tokens": int(sys.argv[3]), "temperature": 0}
    print(json.dumps(server.handle_chat_completions(body)["choices"][0]["message"]["content"]))
"""


def test_the_demo_model_answers_as_on_the_other_engine(demo_alone: list[str]) -> None:
    pytest.importorskip("xllamacpp", reason="xllamacpp is not installed here")
    arguments = [str(DEMO), orjson.dumps(QUESTIONS).decode(), str(LENGTH)]
    done = subprocess.run(
        [sys.executable, "-c", _XLLAMACPP, *arguments], capture_output=True, text=True, timeout=60, check=True
    )
    assert [orjson.loads(line) for line in done.stdout.splitlines() if line.startswith('"')] == demo_alone


class Faulty(Heard):
    """A listener that fails on the third token."""

    def take(self, index: int, tokens: Sequence[int], logprobs: Sequence[TokenLogprob] | None) -> None:
        super().take(index, tokens, logprobs)
        if len(self.tokens[0]) >= 3:
            raise RuntimeError("this listener is broken")


def test_of_sixteen_the_others_answer_as_ever_whatever_befalls_one(exact: Path) -> None:
    """A cancelled one, one whose listener fails, one that the engine refuses: none of them shows in the others."""

    async def scenario(model: GgufModel) -> None:
        asked = prompts(16)
        alone = [(await ask(model, prompt, max_tokens=LENGTH)).tokens for prompt in asked]
        for trouble in (_cancel, _break, _refuse, _fill):
            running = [await begin(model, prompt, max_tokens=LENGTH) for prompt in asked]
            await trouble(model)
            for heard in running:
                await heard.over.wait()
            assert [heard.tokens for heard in running] == alone, trouble.__name__
        assert model.loop.in_flight == 0

    run(make_plan(exact, **EXACTLY, n_parallel=17), scenario)


async def _cancel(model: GgufModel) -> None:
    heard = Heard(1)
    ids = model.encode(chat("I leave"), add_special=False, parse_special=True)
    ticket = await model.submit(Generation(prompt=ids, sampling=GREEDY), heard)
    while not heard.tokens[0]:
        await asyncio.sleep(0)
    ticket.cancel()
    count = len(heard.tokens[0])
    await ask(model, chat("another"), max_tokens=8)
    assert len(heard.tokens[0]) == count
    assert not heard.ends


async def _break(model: GgufModel) -> None:
    heard = Faulty(1)
    ids = model.encode(chat("I break"), add_special=False, parse_special=True)
    await model.submit(Generation(prompt=ids, sampling=GREEDY), heard)
    await heard.over.wait()
    assert isinstance(heard.error, EngineError)


async def _refuse(model: GgufModel) -> None:
    heard = Heard(1)
    await model.submit(Generation(prompt=[5, 6, 1 << 30, 7], sampling=GREEDY), heard)
    await heard.over.wait()
    assert isinstance(heard.error, EngineError)


async def _fill(model: GgufModel) -> None:
    room = model.traits.n_ctx - 8
    heard = await ask(model, "ab" * room, max_tokens=None)
    assert heard.ends[0] == ("length", model.traits.n_ctx - heard.prompt_tokens)


def test_several_choices_share_the_prompt_and_each_has_its_own_seed(exact: Path) -> None:
    async def scenario(model: GgufModel) -> None:
        prompt = prompts(1)[0]
        together = await ask(model, prompt, n=5, sampling=Sampling(seed=11), max_tokens=LENGTH)
        computed = model.loop.counters.prompt_tokens
        assert computed <= together.prompt_tokens + 3
        singles = [
            (await ask(model, prompt, sampling=Sampling(seed=11 + index), max_tokens=LENGTH)).tokens[0]
            for index in range(5)
        ]
        assert together.tokens == singles
        assert len({tuple(one) for one in singles}) > 1
        assert together.ends.keys() == set(range(5))
        other = await ask(model, prompt, max_tokens=LENGTH, sampling=Sampling())
        again = await ask(model, prompt, max_tokens=LENGTH, sampling=Sampling())
        assert other.tokens != again.tokens

    run(make_plan(exact, **EXACTLY, n_parallel=3), scenario)


def test_one_choice_can_be_cancelled_without_the_others(exact: Path) -> None:
    async def scenario(model: GgufModel) -> None:
        prompt = prompts(1)[0]
        alone = (await ask(model, prompt, max_tokens=LENGTH)).tokens[0]
        for cancelled in (0, 2):
            heard = Heard(3)
            ids = model.encode(prompt, add_special=False, parse_special=True)
            ticket = await model.submit(Generation(prompt=ids, sampling=GREEDY, n=3, max_tokens=LENGTH), heard)
            ticket.cancel(cancelled)
            await ask(model, prompt, max_tokens=LENGTH)
            left = [index for index in range(3) if index != cancelled]
            while len(heard.ends) < 2:
                await asyncio.sleep(0.001)
            assert [heard.tokens[index] for index in left] == [alone, alone]
            assert heard.tokens[cancelled] == []
        assert model.loop.in_flight == 0

    run(make_plan(exact, **EXACTLY, n_parallel=2), scenario)


def test_limits_and_ends(exact: Path) -> None:
    async def scenario(model: GgufModel) -> None:
        prompt = prompts(1)[0]
        plain = await ask(model, prompt, max_tokens=LENGTH)
        assert plain.ends[0] == ("length", LENGTH)
        stop = plain.tokens[0][5]
        place = plain.tokens[0].index(stop)
        stopped = await ask(model, prompt, max_tokens=LENGTH, stop_ids=frozenset({stop}))
        assert stopped.tokens[0] == plain.tokens[0][:place]
        assert stopped.ends[0] == ("stop", place + 1)
        later = await ask(model, prompt, max_tokens=LENGTH, stop_ids=frozenset({stop}), min_tokens=place + 3)
        assert stop not in later.tokens[0][: place + 3]
        assert later.ends[0][1] > place + 3
        end = min(model.traits.end_ids)
        pushed = Sampling(temperature=0, logit_bias={end: 100.0})
        assert (await ask(model, prompt, sampling=pushed)).ends[0] == ("stop", 1)
        held = await ask(model, prompt, sampling=pushed, min_tokens=4)
        assert held.ends[0] == ("stop", 5)
        assert (await ask(model, prompt, sampling=pushed, ignore_eos=True, max_tokens=9)).ends[0] == ("length", 9)

    run(make_plan(exact, **EXACTLY), scenario)


def test_prompts_of_different_salts_share_nothing(exact: Path) -> None:
    async def scenario(model: GgufModel) -> None:
        prompt = prompts(1)[0]
        salts = (None, "a", "b", "a", None)
        cached = [(await ask(model, prompt, cache_salt=salt, max_tokens=2)).cached_tokens for salt in salts]
        assert cached[:3] == [0, 0, 0]
        assert min(cached[3:]) > 0

    run(make_plan(exact, **EXACTLY), scenario)


def test_a_full_queue_refuses_and_recovers(exact: Path) -> None:
    async def scenario(model: GgufModel) -> None:
        asked = prompts(3)
        running = [await begin(model, prompt, max_tokens=LENGTH) for prompt in asked[:2]]
        with pytest.raises(TooManyRequests) as caught:
            await begin(model, asked[2])
        assert caught.value.headers["Retry-After"] == "1"
        for heard in running:
            await heard.over.wait()
        assert len((await ask(model, asked[2], max_tokens=4)).tokens[0]) == 4

    run(make_plan(exact, **EXACTLY, n_parallel=1, max_queue=1), scenario)


def test_closing_tells_those_who_wait(exact: Path) -> None:
    async def scenario(model: GgufModel) -> list[ModelrackError | None]:
        running = [await begin(model, prompt, max_tokens=None) for prompt in prompts(4)]
        while not all(heard.tokens[0] for heard in running[:2]):
            await asyncio.sleep(0)
        await asyncio.to_thread(model.close)
        for heard in running:
            await heard.over.wait()
        with pytest.raises(EngineError):
            await begin(model, prompts(1)[0])
        return [heard.error for heard in running]

    assert all(isinstance(error, NotReady) for error in run(make_plan(exact, **EXACTLY, n_parallel=2), scenario))


def test_a_long_prompt_is_read_between_the_steps_of_others(exact: Path) -> None:
    async def scenario(model: GgufModel) -> None:
        runner = await begin(model, prompts(1)[0], max_tokens=None, ignore_eos=True)
        while len(runner.tokens[0]) < 20:
            await asyncio.sleep(0)
        before = model.loop.counters.steps, len(runner.tokens[0])
        long = await ask(model, "x" * 1200, max_tokens=1)
        assert long.prompt_tokens == 1200
        # It came in many parts, and the other went on with each of them.
        assert model.loop.counters.steps - before[0] >= 4
        assert len(runner.tokens[0]) - before[1] >= 3

    run(make_plan(exact, **EXACTLY, n_batch=256), scenario)


def test_the_seed_of_the_launch_holds_for_requests_without(exact: Path) -> None:
    def answers(**options: Any) -> list[list[int]]:
        async def scenario(model: GgufModel) -> list[list[int]]:
            return [(await ask(model, prompts(1)[0], sampling=Sampling())).tokens[0] for _ in range(2)]

        return run(make_plan(exact, **EXACTLY, **options), scenario)

    assert len({tuple(one) for one in (*answers(seed=7), *answers(seed=7))}) == 1


def test_nothing_is_left_in_the_cache_that_is_not_in_the_books(exact: Path) -> None:
    """After any amount of work, the engine has exactly the sequences that the books say it has."""

    async def scenario(model: GgufModel) -> None:
        for turn in range(3):
            tickets = []
            for index, prompt in enumerate(prompts(12)):
                heard = Heard(2)
                ids = model.encode(prompt * (1 + turn), add_special=False, parse_special=True)
                generation = Generation(prompt=ids, sampling=GREEDY, n=2, max_tokens=10 + index)
                tickets.append((heard, await model.submit(generation, heard)))
            for index, (_, ticket) in enumerate(tickets):
                if index % 3 == 0:
                    ticket.cancel()
            for index, (heard, _) in enumerate(tickets):
                if index % 3:
                    await heard.over.wait()
        await ask(model, "the end", max_tokens=1)

    with opened(make_plan(exact, **EXACTLY, n_parallel=4, kv_cells=1024, n_ctx=256)) as model:
        asyncio.run(scenario(model))
        assert model.loop.in_flight == 0
        model.loop.close(10)
        assert_books_are_right(model)


def assert_books_are_right(model: GgufModel) -> None:
    from modelrack_llm_gguf import bindings

    places = model.loop._places
    context = places.context
    idle = {one.slot: len(one.tokens) for one in places.prefixes._idle.values()}
    last: Callable[[int], int] = lambda number: bindings.memory_last(context.memory, number)  # noqa: E731
    count = len(idle) + len(places._numbers)
    assert {number: last(number) + 1 for number in range(count) if last(number) >= 0} == idle
    assert places.cells.used == places.cells.idle <= sum(idle.values())


def test_recurrent_models_use_again_only_what_is_whole(tmp_path: Path) -> None:
    """Their state has no parts: a sequence can be gone on with from its end, and copied, but not from its middle."""
    path = write_recurrent_model(tmp_path / "recurrent.gguf")

    async def scenario(model: GgufModel) -> None:
        asked = [f"{prompt} and so on" for prompt in prompts(4)]
        alone = [(await ask(model, prompt, max_tokens=12, cache_salt=prompt)).tokens[0] for prompt in asked]
        together = await asyncio.gather(*(ask(model, prompt, max_tokens=12) for prompt in asked))
        assert [one.tokens[0] for one in together] == alone
        again = await ask(model, asked[0], max_tokens=12)
        assert (again.cached_tokens, again.tokens[0]) == (0, alone[0])
        several = await ask(model, asked[1], max_tokens=12, n=3)
        assert several.tokens == [alone[1]] * 3
        ids = model.encode(asked[0], add_special=False, parse_special=True)
        heard = Heard(1)
        longer = [*ids, *alone[0], 70, 71]
        await model.submit(Generation(prompt=longer, sampling=GREEDY, max_tokens=4), heard)
        await heard.over.wait()
        assert heard.cached_tokens >= len(ids) + len(alone[0]) - 1

    run(make_plan(path, n_parallel=4), scenario)


def test_layers_on_an_accelerator_need_one(exact: Path) -> None:
    assert_refused(make_plan(exact, n_gpu_layers=5), "no accelerator")


def test_a_file_that_llama_cpp_does_not_know_is_refused_with_its_own_words(tmp_path: Path) -> None:
    path = tmp_path / "odd.gguf"
    data = write_random_model(tmp_path / "sound.gguf", EXACT).read_bytes()
    path.write_bytes(data.replace(b"\x05\0\0\0\0\0\0\0llama", b"\x05\0\0\0\0\0\0\0lmaxa", 1))
    assert_refused(make_plan(path), "unknown model architecture: 'lmaxa'")


@pytest.mark.parametrize("credit", [1, 1 << 40])
def test_beginnings_that_nobody_uses_leave_early(exact: Path, monkeypatch: pytest.MonkeyPatch, credit: int) -> None:
    monkeypatch.setattr("modelrack_llm_gguf.places._CREDIT", credit)

    async def scenario(model: GgufModel) -> tuple[int, int, int]:
        cells = model.loop._places.cells
        for letter in "abcdefgh":
            await ask(model, letter * 100, max_tokens=LENGTH)
        kept = cells.idle
        for letter in "abab":  # those that are missed are kept from then on
            await ask(model, letter * 100, max_tokens=LENGTH)
        return kept, cells.idle, (await ask(model, "a" * 100, max_tokens=LENGTH)).cached_tokens

    kept, later, cached = run(make_plan(exact, n_ctx=1024, **EXACTLY), scenario)
    assert kept > 8 * 100 if credit > 1 else kept < 4 * 100
    assert later >= 2 * 100
    assert cached >= 40
