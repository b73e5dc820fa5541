"""Batches of `generate`: what continuous batching cannot compute, and what is asked for all the same."""

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import BartConfig, BartForConditionalGeneration, T5Config, T5ForConditionalGeneration

from modelrack.errors import BadRequest, EngineError, LaunchFailed
from modelrack.llm.contract import Constraint, Generation, Sampling
from modelrack.testing.hf import write_random_model
from modelrack.testing.hf_extras import write_recurrent_model
from modelrack.testing.in_process import Heard, ask, begin, chat

sys.path.insert(0, str(Path(__file__).parent))

from in_process import make_plan, opened, run, start

from modelrack_llm_transformers.checks import can_pad
from modelrack_llm_transformers.compiling import compile_settings
from modelrack_llm_transformers.generate import BatchRunner
from modelrack_llm_transformers.model import TransformersModel

PROMPTS = [chat("one"), "a b c d e f g h", chat("tell me about the sea and the sky, and of all that lies between"), "x"]


def write_encoder(folder: Path, made: Any) -> Path:
    """Return a random model with an encoder, and the tokens of the other models."""
    write_random_model(folder)
    (folder / "model.safetensors").unlink()
    made.save_pretrained(folder)
    # What these may say is not only what can be printed: no token ends an answer before its time.
    config = json.loads((folder / "generation_config.json").read_text())
    (folder / "generation_config.json").write_text(json.dumps({**config, "eos_token_id": 414}))
    return folder


@pytest.fixture(scope="module")
def paths(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("models")
    torch.manual_seed(0)
    common: dict[str, Any] = {"vocab_size": 418, "d_model": 64, "pad_token_id": 412, "eos_token_id": 414}
    bart = BartConfig(
        **common,
        **{f"{part}_{name}": 2 for part in ("encoder", "decoder") for name in ("layers", "attention_heads")},
        encoder_ffn_dim=128,
        decoder_ffn_dim=128,
        max_position_embeddings=256,
        bos_token_id=412,
        decoder_start_token_id=412,
        forced_eos_token_id=None,
        init_std=0.3,
    )
    t5 = T5Config(
        **common, d_ff=128, d_kv=16, num_heads=4, num_layers=2, decoder_start_token_id=412, initializer_factor=4.0
    )
    return {
        "llama": write_random_model(folder / "llama"),
        "mamba": write_recurrent_model(folder / "mamba"),
        "t5": write_encoder(folder / "t5", T5ForConditionalGeneration(t5)),
        "bart": write_encoder(folder / "bart", BartForConditionalGeneration(bart)),
    }


def plan_of(path: Path, **options: Any) -> Any:
    return make_plan(path, **{"batching": "generate", "max_model_len": 2048, **options})


@pytest.mark.parametrize("kind", ["llama", "mamba", "t5", "bart"])
def test_many_at_once_answer_as_alone(paths: dict[str, Path], kind: str) -> None:
    """Also those that come later, find no place, or leave their turn before others."""

    async def late(model: TransformersModel, number: int) -> list[list[int]]:
        await asyncio.sleep(0.02 * number)
        prompt = PROMPTS[number % len(PROMPTS)]
        return (await ask(model, prompt, max_tokens=8 + 8 * (number % 3), ignore_eos=True)).tokens

    async def scenario(model: TransformersModel) -> None:
        alone = [(await ask(model, prompt, max_tokens=24, ignore_eos=True)).tokens[0] for prompt in PROMPTS]
        assert len({str(tokens) for tokens in alone}) > 2
        many = await asyncio.gather(*(late(model, number) for number in range(14)))
        for number, (tokens,) in enumerate(many):
            assert tokens == alone[number % len(PROMPTS)][: 8 + 8 * (number % 3)]

    run(plan_of(paths[kind], max_num_seqs=4, max_model_len=128), scenario)


def test_both_ways_to_compute_answer_alike(paths: dict[str, Path]) -> None:
    async def scenario(model: TransformersModel) -> list[list[list[int]]]:
        return [(await ask(model, prompt, max_tokens=40)).tokens for prompt in PROMPTS]

    assert run(plan_of(paths["llama"]), scenario) == run(plan_of(paths["llama"], batching="continuous"), scenario)


@pytest.mark.parametrize("kind", ["llama", "mamba", "t5"])
def test_each_request_has_its_own_rules(paths: dict[str, Path], kind: str) -> None:
    rules: list[dict[str, Any]] = [
        {},
        {"sampling": Sampling(temperature=1.0, seed=3)},
        {"sampling": Sampling(temperature=0, logit_bias={100: 100.0})},
        {"n": 3, "sampling": Sampling(temperature=1.0, seed=5)},
        {"constraint": Constraint(kind="regex", value="(ab|cd)+!", field="guided_regex"), "max_tokens": 9},
        {"constraint": Constraint(kind="choice", value=("yes", "no"), field="guided_choice")},
        {"logprobs": 3},
        {"stop_ids": frozenset(range(97, 110))},
        {"max_tokens": 1},
    ]

    async def scenario(model: TransformersModel) -> None:
        alone = [await ask(model, PROMPTS[0], **rule) for rule in rules]
        assert alone[2].tokens == [[100] * 32]
        assert bytes(b"".join(model.token_bytes(token) for token in alone[5].tokens[0])) in (b"yes", b"no")
        assert len({str(tokens) for tokens in alone[3].tokens}) == 3
        assert [len(one.top) for one in alone[6].logprobs[0]] == [3] * len(alone[6].tokens[0])
        mixed = await asyncio.gather(*(ask(model, PROMPTS[0], **rule) for rule in rules * 2))
        for mine, wanted in zip(mixed, alone * 2, strict=True):
            assert (mine.tokens, mine.ends) == (wanted.tokens, wanted.ends)

    run(plan_of(paths[kind], max_num_seqs=6), scenario)


def test_prompts_have_log_probabilities(paths: dict[str, Path]) -> None:
    async def scenario(model: TransformersModel) -> list[Any]:
        heard = await ask(model, PROMPTS[2], logprobs=1, prompt_logprobs=True, max_tokens=2)
        known = heard.prompt_logprobs
        assert known is not None and len(known) == heard.prompt_tokens and known[0] is None
        return [one.logprob for one in known[1:] if one is not None]

    here = run(plan_of(paths["llama"]), scenario)
    assert here == pytest.approx(run(plan_of(paths["llama"], batching="continuous"), scenario), abs=1e-4)

    async def refused(model: TransformersModel) -> None:
        with pytest.raises(BadRequest, match="read") as caught:
            await ask(model, PROMPTS[0], logprobs=1, prompt_logprobs=True)
        assert caught.value.param == "logprobs"

    run(plan_of(paths["t5"]), refused)


def test_who_comes_during_a_long_answer_does_not_wait_for_its_end(paths: dict[str, Path]) -> None:
    async def scenario(model: TransformersModel) -> None:
        long = await begin(model, PROMPTS[0], max_tokens=1900, ignore_eos=True)
        await long.begun.wait()
        for _ in range(3):
            assert len((await ask(model, PROMPTS[1], max_tokens=4)).tokens[0]) == 4
            assert not long.over.is_set()

    run(plan_of(paths["llama"]), scenario)


def test_what_is_cancelled_is_computed_no_more(paths: dict[str, Path]) -> None:
    async def scenario(model: TransformersModel) -> None:
        prompt = model.encode(PROMPTS[0], add_special=False, parse_special=True)
        tickets = []
        for _ in range(6):
            generation = Generation(prompt=prompt, max_tokens=1900, n=2, ignore_eos=True)
            heard = Heard(2)
            tickets.append((await model.submit(generation, heard), heard))
        await tickets[0][1].begun.wait()
        tickets[0][0].cancel(1)
        for ticket, _ in tickets[1:]:
            ticket.cancel()
        assert (await ask(model, PROMPTS[1], max_tokens=4)).ends[0] == ("length", 4)
        assert not tickets[0][1].over.is_set()
        assert model.loop.in_flight == 2, "one of two choices goes on"
        tickets[0][0].cancel()
        assert model.loop.in_flight == 0
        assert (await ask(model, PROMPTS[1], max_tokens=4)).ends[0] == ("length", 4)

    run(plan_of(paths["llama"], max_num_seqs=4), scenario)


def test_one_bad_request_does_not_spoil_the_others(paths: dict[str, Path]) -> None:
    """A token that the model has no embedding for, which the layers above would not let through."""

    async def scenario(model: TransformersModel) -> None:
        wanted = (await ask(model, PROMPTS[0])).tokens
        bad = Heard(1)
        others = [begin(model, PROMPTS[0]) for _ in range(3)]
        first = await others[0]
        await model.submit(Generation(prompt=[5, 10_000_000], max_tokens=4), bad)
        rest = [await other for other in others[1:]]
        await bad.over.wait()
        assert isinstance(bad.error, EngineError) and "could not compute this request" in bad.error.message
        for heard in (first, *rest):
            await heard.over.wait()
            assert heard.error is None and heard.tokens == wanted
        assert (await ask(model, PROMPTS[0])).tokens == wanted

    run(plan_of(paths["llama"]), scenario)


def test_memory_that_runs_out_makes_smaller_batches(paths: dict[str, Path]) -> None:
    """The model's memory is said to hold two rows; the third asks for more than there is."""

    async def scenario(model: TransformersModel) -> None:
        alone = [(await ask(model, prompt)).tokens for prompt in PROMPTS]
        runner = model.loop
        assert isinstance(runner, BatchRunner)

        def check(module: Any, arguments: Any, keywords: dict[str, Any]) -> None:
            if keywords["input_ids"].shape[0] > 2:
                raise torch.OutOfMemoryError("no more rows")

        hook = runner.model.register_forward_pre_hook(check, with_kwargs=True)
        together = await asyncio.gather(*(ask(model, prompt) for prompt in PROMPTS * 2))
        hook.remove()
        assert [heard.tokens for heard in together] == alone * 2

    run(plan_of(paths["llama"]), scenario)


def test_a_request_that_memory_does_not_hold_even_alone_fails(paths: dict[str, Path]) -> None:
    async def scenario(model: TransformersModel) -> None:
        runner = model.loop
        assert isinstance(runner, BatchRunner)

        def check(module: Any, arguments: Any, keywords: dict[str, Any]) -> None:
            if keywords["input_ids"].shape[1] > 60:
                raise torch.OutOfMemoryError("no more tokens")

        hook = runner.model.register_forward_pre_hook(check, with_kwargs=True)
        with pytest.raises(EngineError, match="memory ran out"):
            await ask(model, "a b c " * 30, max_tokens=4)
        assert (await ask(model, PROMPTS[0], max_tokens=4)).ends[0] == ("length", 4)
        hook.remove()

    run(plan_of(paths["llama"]), scenario)


def test_what_is_under_way_fails_when_the_model_is_closed(paths: dict[str, Path]) -> None:
    async def scenario(model: TransformersModel) -> None:
        heard = await begin(model, PROMPTS[0], max_tokens=1900, ignore_eos=True)
        waiting = [await begin(model, PROMPTS[1], max_tokens=1900, ignore_eos=True) for _ in range(3)]
        await heard.begun.wait()
        await asyncio.to_thread(model.close)
        for one in (heard, *waiting):
            await one.over.wait()
            assert one.error is not None and one.error.status == 503

    with opened(plan_of(paths["llama"], max_num_seqs=2)) as model:
        start(model, scenario)


def test_the_model_s_own_settings_decide_nothing(paths: dict[str, Path], tmp_path: Path) -> None:
    """What a model's generation_config.json says is recommended to requests, and not done behind their backs."""
    path = write_random_model(tmp_path / "opinionated")
    file = path / "generation_config.json"
    opinions = {"do_sample": True, "temperature": 0.1, "repetition_penalty": 3.0, "max_new_tokens": 3, "min_length": 9}
    file.write_text(json.dumps({**json.loads(file.read_text()), **opinions, "suppress_tokens": [101]}))

    async def scenario(model: TransformersModel) -> Any:
        heard = await ask(model, PROMPTS[0], max_tokens=20, sampling=Sampling(temperature=1.0, seed=1))
        return heard.tokens, heard.ends

    assert run(plan_of(path), scenario) == run(plan_of(paths["llama"]), scenario)


def test_where_padding_changes_what_follows_it_is_found_out(paths: dict[str, Path]) -> None:
    with opened(plan_of(paths["llama"])) as model:
        runner = model.loop
        assert isinstance(runner, BatchRunner)
        inner = runner.model
        assert can_pad(inner, 412)

        def blind(module: Any, arguments: Any, keywords: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
            return arguments, {**keywords, "attention_mask": None, "position_ids": None}

        hook = inner.register_forward_pre_hook(blind, with_kwargs=True)
        assert not can_pad(inner, 412)
        hook.remove()


def test_models_that_cannot_be_padded_answer_as_alone(paths: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("modelrack_llm_transformers.runners.can_pad", lambda model, pad_id: False)

    async def scenario(model: TransformersModel) -> None:
        alone = [(await ask(model, prompt)).tokens for prompt in PROMPTS]
        together = await asyncio.gather(*(ask(model, prompt) for prompt in PROMPTS * 3))
        assert [heard.tokens for heard in together] == alone * 3

    run(plan_of(paths["llama"]), scenario)


def test_a_cache_of_a_fixed_size_changes_no_answer(paths: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """What compiled steps are computed over; without compiling, which takes minutes."""

    async def scenario(model: TransformersModel) -> list[list[list[int]]]:
        alone = [(await ask(model, prompt)).tokens for prompt in PROMPTS]
        together = await asyncio.gather(*(ask(model, prompt) for prompt in PROMPTS * 2))
        assert [heard.tokens for heard in together] == alone * 2
        return alone

    wanted = run(plan_of(paths["llama"]), scenario)

    def settings(options: Any, model: Any, device: torch.device) -> Any:
        return compile_settings({"compile": True}, model, torch.device("cuda"))

    monkeypatch.setattr("modelrack_llm_transformers.runners.compile_settings", settings)
    sizes = settings(None, type("Model", (), {"_can_compile_fullgraph": True})(), torch.device("cpu"))
    assert [sizes(length)["max_cache_len"] for length in (1, 1024, 1025, 5000)] == [1024, 1024, 2048, 8192]
    assert run(plan_of(paths["llama"]), scenario) == wanted


def test_models_that_cannot_be_compiled_are_refused() -> None:
    with pytest.raises(LaunchFailed, match="cannot compile"):
        compile_settings({"compile": True}, object(), torch.device("cuda"))
