"""Drafting ahead changes how long an answer takes, and nothing else."""

import asyncio
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modelrack.catalog.gguf_memory import read_model
from modelrack.llm.contract import Constraint, Sampling
from modelrack.testing.gguf import Shape, write_random_model
from modelrack.testing.gguf_extras import write_recurrent_model
from modelrack.testing.in_process import Heard, ask, chat

sys.path.insert(0, str(Path(__file__).parent))

from in_process import assert_refused, make_plan, run

from modelrack_llm_gguf.lookup import Lookup
from modelrack_llm_gguf.memory import choose_sizes
from modelrack_llm_gguf.model import GgufModel
from modelrack_llm_gguf.speculation import Speculator
from modelrack_llm_gguf.worth import Costs, Worth

# Exact weights, cache and attention: with less of any, a token that is computed beside others differs from itself
# computed alone in the third digit of its logits.
EXACT = Shape(file_type="f32", layers=2)
EXACTLY: dict[str, Any] = {"cache_type_k": "f32", "cache_type_v": "f32", "flash_attn": "off"}
LONG = 96
PROMPTS = [chat(text) for text in ("hello", "one two one two one", "aaaaaaaa", "tell me")]


@pytest.fixture(scope="module")
def model_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_random_model(tmp_path_factory.mktemp("models") / "exact.gguf", EXACT)


@pytest.fixture(scope="module")
def near_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a model that is nearly the same, for drafts that are right more often than not."""
    shape = Shape(file_type="q8_0", layers=2)
    return write_random_model(tmp_path_factory.mktemp("models") / "near.gguf", shape)


@pytest.fixture(params=["prompt_lookup", "draft_model", "both"])
def drafting(request: pytest.FixtureRequest, near_path: Path) -> dict[str, Any]:
    """Return the options of each way to draft."""
    # What pays depends on how fast the machine is just now.
    always: dict[str, Any] = {"draft_adaptive": False, "draft_max": 8}
    lookup: dict[str, Any] = {"prompt_lookup": True, "lookup_min": 2, **always}
    draft: dict[str, Any] = {"draft_model": str(near_path), "draft_p_min": 0.0, **always}
    return {"prompt_lookup": lookup, "draft_model": draft, "both": {**lookup, **draft}}[request.param]


def answers(plan: Any, fields: list[dict[str, Any]]) -> tuple[list[Heard], int]:
    """Return the answers to every prompt with every set of fields, all at once, and the steps they took."""

    async def scenario(model: GgufModel) -> tuple[list[Heard], int]:
        heard = await asyncio.gather(
            *(ask(model, prompt, **{"max_tokens": LONG, **some}) for prompt in PROMPTS for some in fields)
        )
        return list(heard), model.loop.counters.steps

    return run(plan, scenario)


def alone(plan: Any, fields: dict[str, Any]) -> tuple[list[Heard], int]:
    """Return the answers to every prompt, one after the other, and the steps they took."""

    async def scenario(model: GgufModel) -> tuple[list[Heard], int]:
        heard = [await ask(model, prompt, **{"max_tokens": LONG, **fields}) for prompt in PROMPTS]
        return heard, model.loop.counters.steps

    return run(plan, scenario)


def test_greedy_answers_are_the_same_in_fewer_steps(model_path: Path, drafting: dict[str, Any]) -> None:
    plain, steps = alone(make_plan(model_path, **EXACTLY), {})
    drafted, fewer = alone(make_plan(model_path, **EXACTLY, **drafting), {})
    assert [heard.tokens for heard in drafted] == [heard.tokens for heard in plain]
    assert [heard.ends for heard in drafted] == [heard.ends for heard in plain]
    assert fewer < 0.8 * steps


@pytest.mark.parametrize(
    "fields",
    [
        {"sampling": Sampling(temperature=0.7, seed=5)},
        {"sampling": Sampling(temperature=1.0, top_p=0.9, top_k=40, seed=3), "n": 3},
        {"sampling": Sampling(temperature=0, repetition_penalty=1.3, frequency_penalty=0.2)},
        {"sampling": Sampling(temperature=0, dry_multiplier=0.8)},
        {"stop_ids": frozenset(range(97, 103))},
        {"max_tokens": 7, "ignore_eos": True},
        {"min_tokens": 20, "logprobs": 2},
        {"constraint": Constraint(kind="regex", value="(ab|cd){4,40}", field="guided_regex")},
    ],
    ids=["temperature", "n", "penalties", "dry", "stop_ids", "max_tokens", "logprobs", "constraint"],
)
def test_every_way_of_choosing_is_kept(model_path: Path, drafting: dict[str, Any], fields: dict[str, Any]) -> None:
    """Tokens are chosen by the sequence's own sampler, with the same random numbers in the same order."""
    plain, _ = alone(make_plan(model_path, **EXACTLY), fields)
    drafted, _ = alone(make_plan(model_path, **EXACTLY, **drafting), fields)
    assert [heard.tokens for heard in drafted] == [heard.tokens for heard in plain]
    assert [heard.ends for heard in drafted] == [heard.ends for heard in plain]
    for one, other in zip(drafted, plain, strict=True):
        for given_logprobs, wanted in zip(one.logprobs, other.logprobs, strict=True):
            assert len(given_logprobs) == len(wanted)
            for value, right in zip(given_logprobs, wanted, strict=True):
                assert value.logprob == pytest.approx(right.logprob, abs=1e-3)


def test_sequences_that_run_together_are_drafted_together(model_path: Path, drafting: dict[str, Any]) -> None:
    fields: list[dict[str, Any]] = [{}, {"sampling": Sampling(temperature=0.7, seed=1)}, {"n": 2}]
    plain, _ = answers(make_plan(model_path, **EXACTLY), fields)
    drafted, _ = answers(make_plan(model_path, **EXACTLY, **drafting), fields)
    assert [heard.tokens for heard in drafted] == [heard.tokens for heard in plain]


def test_a_long_prompt_is_read_by_the_draft_model_in_parts(model_path: Path, near_path: Path) -> None:
    prompt = chat("word " * 150)
    options = {**EXACTLY, "n_batch": 64, "n_ubatch": 64}

    async def scenario(model: GgufModel) -> tuple[list[list[int]], list[list[int]], int]:
        first = await ask(model, prompt, max_tokens=64)
        before = model.loop.counters.steps
        again = await ask(model, prompt + "and", max_tokens=64)
        return first.tokens, again.tokens, model.loop.counters.steps - before

    first, again, _ = run(make_plan(model_path, **options), scenario)
    plan = make_plan(model_path, **options, draft_model=str(near_path), draft_p_min=0.0, draft_adaptive=False)
    drafted, drafted_again, steps = run(plan, scenario)
    assert (drafted, drafted_again) == (first, again)
    assert steps < 64


def test_drafts_stop_at_the_end_of_the_context(model_path: Path, drafting: dict[str, Any]) -> None:
    async def scenario(model: GgufModel) -> Heard:
        return await ask(model, "abcabcabcabcabc", max_tokens=None, ignore_eos=True)

    heard = run(make_plan(model_path, n_ctx=256, kv_cells=256, **drafting), scenario)
    assert heard.prompt_tokens + len(heard.tokens[0]) == 256
    assert heard.ends[0][0] == "length"


def test_sequences_that_step_back_for_others_are_drafted_for_again(model_path: Path, drafting: dict[str, Any]) -> None:
    options = {**EXACTLY, "n_parallel": 4, "n_ctx": 256, "kv_cells": 256}
    fields: dict[str, Any] = {"max_tokens": 120, "ignore_eos": True}

    async def scenario(model: GgufModel) -> list[list[list[int]]]:
        heard = await asyncio.gather(*(ask(model, prompt, **fields) for prompt in PROMPTS))
        assert model.loop.counters.preempted > 0
        return [one.tokens for one in heard]

    plain, _ = alone(make_plan(model_path, **EXACTLY), fields)
    assert run(make_plan(model_path, **options, **drafting), scenario) == [heard.tokens for heard in plain]


def test_a_draft_model_of_another_vocabulary_is_refused(model_path: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.gguf"
    other.write_bytes(model_path.read_bytes().replace(b"<|fim_prefix|>", b"<|fim_prefab|>"))
    reason = r"other\.gguf has another vocabulary than the model: token 415 is '<\|fim_prefab\|>'"
    assert_refused(make_plan(model_path, draft_model=str(other)), reason)


def test_files_that_are_no_draft_model_are_refused(model_path: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(b"GGUF" + bytes(60))
    for path, words in ((tmp_path / "none.gguf", "does not exist"), (broken, "could not load the draft model")):
        assert_refused(make_plan(model_path, draft_model=str(path), verbosity=0), words)


def test_recurrent_models_cannot_be_drafted_for(tmp_path: Path) -> None:
    recurrent = write_recurrent_model(tmp_path / "mamba.gguf")
    assert_refused(
        make_plan(recurrent, prompt_lookup=True), "prompt_lookup is not possible with this model: it is recurrent"
    )
    plain = write_random_model(tmp_path / "plain.gguf", Shape(layers=1))
    assert_refused(make_plan(plain, draft_model=str(recurrent)), r"mamba\.gguf is recurrent")


def test_bounds_that_contradict_each_other_are_refused(model_path: Path) -> None:
    assert_refused(make_plan(model_path, prompt_lookup=True, draft_min=9, draft_max=8), "draft_min")


def naive(tokens: list[int], shortest: int, longest: int, limit: int) -> list[int]:
    """Return the same draft by looking at every place."""
    best, most = 0, shortest - 1
    places = [p for p in range(shortest, len(tokens)) if tokens[p - shortest : p] == tokens[len(tokens) - shortest :]]
    for place in reversed(places[-16:]):
        same = 0
        while same < min(longest, place) and tokens[place - 1 - same] == tokens[len(tokens) - 1 - same]:
            same += 1
        if same > most:
            best, most = place, same
    drafted = list(tokens)
    for source in range(best, best + limit if best else best):
        if drafted[source] < 0:
            break
        drafted.append(drafted[source])
    return drafted[len(tokens) :]


@settings(max_examples=60, deadline=None)
@given(
    tokens=st.lists(st.integers(-1, 3), min_size=1, max_size=60),
    shortest=st.integers(1, 4),
    longest=st.integers(1, 8),
    part=st.integers(1, 7),
)
def test_lookups_find_the_longest_run(tokens: list[int], shortest: int, longest: int, part: int) -> None:
    grown: list[int] = []
    lookup = Lookup(grown, shortest, longest)
    for token in tokens:
        grown.append(token)
        while not lookup.advance(part):
            pass
        assert lookup.draft(6) == naive(grown, shortest, max(shortest, longest), 6)


def test_a_text_that_repeats_itself_is_drafted_round_and_round() -> None:
    lookup = Lookup([1, 2, 3, 1, 2, 3, 1, 2], 2, 4)
    assert lookup.advance(100)
    assert lookup.draft(7) == [3, 1, 2, 3, 1, 2, 3]


def costs_of(*seconds: float) -> Costs:
    """Return what was learned of steps with 1, 2, 3, … rows."""
    costs = Costs()
    for _ in range(3):
        for rows, value in enumerate(seconds, 1):
            costs.learn(rows, value)
    return costs


def test_drafts_are_long_where_rows_are_cheap_and_right() -> None:
    """A step of an accelerator takes hardly longer with 17 rows than with one."""
    cheap = costs_of(*(1.0 + 0.01 * rows for rows in range(17)))
    assert cheap.best(1, 0.98, 16, by_model=False) == 16
    assert 2 <= cheap.best(1, 0.5, 16, by_model=False) <= 8
    assert cheap.best(1, 0.0, 16, by_model=False) <= 1


def test_drafts_are_left_out_where_every_row_costs_as_much_as_a_step() -> None:
    dear = costs_of(*(float(rows) for rows in range(1, 18)))
    assert [dear.best(1, chance, 16, by_model=False) for chance in (0.3, 0.7, 0.9)] == [0, 0, 0]
    # Beyond a dear second row, further ones may pay again: what counts is the whole step.
    stepped = costs_of(1.0, *(2.5 + 0.05 * rows for rows in range(16)))
    assert stepped.best(1, 0.4, 16, by_model=False) == 0
    assert stepped.best(1, 0.98, 16, by_model=False) > 4


def test_what_the_draft_model_takes_counts_too() -> None:
    costs = costs_of(*(1.0 + 0.01 * rows for rows in range(17)))
    costs.learn_draft(4, 4 * 0.9)
    assert costs.best(1, 0.8, 16, by_model=False) > costs.best(1, 0.8, 16, by_model=True)


def test_costs_are_guessed_from_their_neighbours() -> None:
    costs = Costs()
    assert costs.step(3) == 0
    costs.learn(2, 1.0)
    assert costs.step(1) == 1.0
    assert 1.0 < costs.step(4) < 1.2
    costs.learn(6, 3.0)
    assert costs.step(4) == pytest.approx(2.0)
    assert costs.step(8) == pytest.approx(4.0)


def test_a_model_whose_drafts_fail_drafts_less_and_less() -> None:
    costs = costs_of(*(1.0 + 0.05 * rows for rows in range(17)))
    worth = Worth(16)
    tried = 0
    for _ in range(300):
        size = worth.next(costs, 1)
        if size:
            tried += 1
            worth.judge(size, 0)
    assert 4 <= tried <= 30
    # One that succeeds again is soon back.
    for _ in range(600):
        size = worth.next(costs, 1)
        worth.judge(size, size)
    assert worth.next(costs, 1) == 16


def test_lookups_that_are_not_worth_it_are_only_watched() -> None:
    """What a lookup would have drafted is compared with what came: it pays again as soon as the text repeats itself."""
    speculator = Speculator(shortest=2, longest=4)
    for rows in range(1, 18):
        speculator.learn(rows, 1.0 + 0.3 * (rows > 1) + 0.02 * rows)
    tokens = [1, 2, 9]
    speculation = speculator.open(tokens)
    drafted = 0
    for step in range(60):
        tokens += [1, 2, 100 + step]
        for draft in speculator.propose([(speculation, 16)]):
            drafted += len(draft)
            if draft:
                speculation.judge(len(draft), 0)
        tokens.append(9)
    assert drafted < 30
    for _ in range(40):
        tokens += [1, 2, 3, 4, 5]
        draft = speculator.propose([(speculation, 16)])[0]
        if draft:
            speculation.judge(len(draft), len(draft))
    assert speculator.propose([(speculation, 16)])[0][:5] == [1, 2, 3, 4, 5]


def test_adaptive_drafts_change_no_answer(model_path: Path, near_path: Path) -> None:
    plain, _ = alone(make_plan(model_path, **EXACTLY), {})
    options = {**EXACTLY, "prompt_lookup": True, "lookup_min": 2, "draft_model": str(near_path)}
    drafted, _ = alone(make_plan(model_path, **options), {})
    assert [heard.tokens for heard in drafted] == [heard.tokens for heard in plain]


def test_a_dearer_step_is_forgotten_in_time() -> None:
    costs = costs_of(1.0, 9.0)
    assert costs.step(2) == pytest.approx(9.0)
    for _ in range(5000):
        costs.learn(1, 1.0)
    assert costs.step(2) < 2.0


def test_the_draft_models_cache_is_counted(model_path: Path, near_path: Path) -> None:
    plain, drafting = make_plan(model_path), make_plan(model_path, draft_model=str(near_path))
    metadata = read_model(str(model_path))
    sizes = [choose_sizes(plan.options, metadata, 1 << 34, on_accelerator=False) for plan in (plain, drafting)]
    assert sizes[0].cells == sizes[1].cells
    # Both have as many heads and layers.
    assert sizes[1].cache_bytes == 2 * sizes[0].cache_bytes
