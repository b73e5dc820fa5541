"""Choices follow the request, and log probabilities are the model's own."""

import asyncio
import math
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from modelrack.llm.contract import Sampling
from modelrack.testing.gguf import Shape, write_random_model
from modelrack.testing.in_process import ask, chat

sys.path.insert(0, str(Path(__file__).parent))

from in_process import make_plan, run

from modelrack_llm_gguf.model import GgufModel

EXACT = Shape(file_type="f32", layers=2)
EXACTLY: dict[str, Any] = {"cache_type_k": "f32", "cache_type_v": "f32", "flash_attn": "off"}
PROMPT = chat("tell me of the sea")


@pytest.fixture(scope="module")
def exact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_random_model(tmp_path_factory.mktemp("models") / "exact.gguf", EXACT)


def bare_logits(path: Path, tokens: list[int]) -> NDArray[np.float64]:
    """Return the logits after each token, from llama.cpp used without this plugin; shape (len(tokens), n_vocab)."""
    import llama_cpp

    model = llama_cpp.Llama(
        str(path), n_ctx=512, n_threads=1, logits_all=True, verbose=False, type_k=0, type_v=0, flash_attn=False
    )
    try:
        model.eval(tokens)
        return np.array(model.scores[: len(tokens)], dtype=np.float64)
    finally:
        model.close()


def log_softmax(row: NDArray[np.float64]) -> NDArray[np.float64]:
    shifted = row - row.max()
    return np.asarray(shifted - math.log(np.exp(shifted).sum()))


def test_log_probabilities_are_those_of_the_raw_logits(exact: Path) -> None:
    """Neither temperature nor bias nor penalties show in them."""
    sampling = Sampling(temperature=1.7, top_k=5, seed=3, presence_penalty=1.0, logit_bias={40: 3.0})

    async def scenario(model: GgufModel) -> None:
        prompt = model.encode(PROMPT, add_special=False, parse_special=True)
        heard = await ask(model, PROMPT, sampling=sampling, logprobs=4, max_tokens=12)
        rows = await asyncio.to_thread(bare_logits, exact, prompt + heard.tokens[0])
        assert len(heard.logprobs[0]) == 12
        for index, (token, given) in enumerate(zip(heard.tokens[0], heard.logprobs[0], strict=True)):
            expected = log_softmax(rows[len(prompt) + index - 1])
            assert given.logprob == pytest.approx(expected[token], abs=1e-4)
            best = np.argsort(-expected)[:4]
            assert [one for one, _ in given.top] == best.tolist()
            assert [value for _, value in given.top] == pytest.approx(expected[best], abs=1e-4)

    run(make_plan(exact, **EXACTLY), scenario)


@pytest.mark.parametrize("length", [5, 300])
def test_log_probabilities_of_the_prompt(exact: Path, length: int) -> None:
    async def scenario(model: GgufModel) -> None:
        text = "".join(chr(97 + (7 * index * index) % 26) for index in range(length))
        prompt = model.encode(text, add_special=False, parse_special=True)
        # What is in the cache has no logits any more, so nothing is taken from there.
        await ask(model, text, max_tokens=2)
        heard = await ask(model, text, prompt_logprobs=True, logprobs=1, max_tokens=2, n=2)
        given = heard.prompt_logprobs
        assert heard.cached_tokens == 0
        assert given is not None
        assert (len(given), given[0]) == (len(prompt), None)
        rows = await asyncio.to_thread(bare_logits, exact, prompt)
        for index, one in enumerate(given[1:], start=1):
            assert one is not None
            expected = log_softmax(rows[index - 1])
            assert one.logprob == pytest.approx(expected[prompt[index]], abs=1e-4)
            assert one.top[0][0] == int(expected.argmax())

    run(make_plan(exact, **EXACTLY), scenario)


def test_sampling_draws_from_the_model_s_distribution(exact: Path) -> None:
    """Over many seeds the first token comes as often as its probability says (chi-squared, over the likeliest)."""

    async def scenario(model: GgufModel) -> None:
        heard = await asyncio.gather(
            *(ask(model, PROMPT, n=100, sampling=Sampling(seed=1000 * part), max_tokens=1) for part in range(1, 6))
        )
        drawn = [tokens[0] for one in heard for tokens in one.tokens]
        row = bare_logits(exact, model.encode(PROMPT, add_special=False, parse_special=True))[-1]
        expected = np.exp(log_softmax(row))
        best = np.argsort(-expected)[:8]
        counts = np.array([drawn.count(int(token)) for token in best])
        wanted = expected[best] * len(drawn)
        # 99.99 % of right samplers stay below this with 8 degrees of freedom.
        assert ((counts - wanted) ** 2 / wanted).sum() < 31.8

    run(make_plan(exact, **EXACTLY, max_queue=1000), scenario)


def test_the_vocabulary_is_narrowed(exact: Path) -> None:
    async def scenario(model: GgufModel) -> None:
        row = bare_logits(exact, model.encode(PROMPT, add_special=False, parse_special=True))[-1]
        order = np.argsort(-row)
        mass = np.cumsum(np.exp(log_softmax(row))[order])
        allowed = {
            "top_k": set(order[:3].tolist()),
            "top_p": set(order[: int((mass < 0.3).sum()) + 1].tolist()),
            "min_p": set(np.flatnonzero(row >= row.max() + math.log(0.5)).tolist()),
        }
        for field, value in (("top_k", 3), ("top_p", 0.3), ("min_p", 0.5)):
            sampling = Sampling(temperature=1.5, seed=9, **{field: value})  # type: ignore[arg-type]
            heard = await ask(model, PROMPT, n=60, sampling=sampling, max_tokens=1)
            assert {tokens[0] for tokens in heard.tokens} <= allowed[field], field
        banned = {int(token): -100.0 for token in order[:10]}
        heard = await ask(model, PROMPT, sampling=Sampling(temperature=0, logit_bias=banned), max_tokens=1)
        assert heard.tokens[0][0] == int(order[10])

    run(make_plan(exact, **EXACTLY), scenario)


def test_penalties_and_dry_work_against_repetition(exact: Path) -> None:
    async def scenario(model: GgufModel) -> None:
        def distinct(tokens: list[int]) -> int:
            return len(set(tokens))

        plain = await ask(model, PROMPT, max_tokens=80)
        for fields in (
            {"repetition_penalty": 2.0},
            {"frequency_penalty": 2.0},
            {"presence_penalty": 2.0},
            {"dry_multiplier": 5.0, "dry_allowed_length": 1, "dry_sequence_breakers": ()},
        ):
            sampling = Sampling(temperature=0, **fields)
            heard = await ask(model, PROMPT, max_tokens=80, sampling=sampling)
            assert heard.tokens != plain.tokens, fields
            assert distinct(heard.tokens[0]) > distinct(plain.tokens[0]), fields

    run(make_plan(exact, **EXACTLY), scenario)


def test_frequency_and_presence_count_the_answer_and_repetition_the_prompt_too(exact: Path) -> None:
    async def scenario(model: GgufModel) -> None:
        first = (await ask(model, PROMPT, max_tokens=1)).tokens[0][0]
        ids = model.encode(PROMPT, add_special=False, parse_special=True)
        # The same prompt with the token that would come next at its beginning: only the repetition penalty sees it.
        row = bare_logits(exact, [first, *ids])[-1]
        best = int(row.argmax())
        assert best not in ids
        text = model.token_bytes(best).decode() + PROMPT
        row = bare_logits(exact, model.encode(text, add_special=False, parse_special=True))[-1]
        best = int(row.argmax())
        unseen = Sampling(temperature=0, frequency_penalty=2.0, presence_penalty=2.0)
        assert (await ask(model, text, max_tokens=1, sampling=unseen)).tokens[0][0] == best

    run(make_plan(exact, **EXACTLY), scenario)
