"""Models over a decode loop: what a request must bring, and how many may wait."""

import asyncio
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from llm.decoding.counting import CountingModel, make_model, run
from modelrack.errors import TooManyRequests
from modelrack.llm.contract import Generation, MediaPrompt, Sampling
from modelrack.llm.decoding import COLD, SEEDS, Job, is_greedy, seed_of
from modelrack.llm.errors import ContextLengthExceeded
from modelrack.testing.in_process import Heard, ask, begin


def test_a_full_queue_refuses_and_recovers() -> None:
    async def scenario(model: CountingModel) -> None:
        model.loop.is_held = True
        running = [await begin(model, "a", n=2), await begin(model, "b")]
        with pytest.raises(TooManyRequests) as caught:
            await begin(model, "c")
        assert caught.value.headers["Retry-After"] == "1"
        model.loop.let_go()
        for heard in running:
            await heard.over.wait()
        await ask(model, "c")

    run(make_model(most=1, max_queue=2), scenario)


@dataclass
class Picture:
    tokens: list[int]


def test_a_prompt_with_images_is_read_before_it_is_queued() -> None:
    async def read(prompt: MediaPrompt) -> Picture:
        await asyncio.sleep(0)
        return Picture([9] * len(prompt.images) + list(prompt.text.encode()))

    async def scenario(model: CountingModel) -> None:
        heard = await ask(model, MediaPrompt(text="a", images=(b"1", b"2")), max_tokens=2)
        assert (heard.prompt_tokens, heard.tokens) == (3, [[98, 99]])
        with pytest.raises(ContextLengthExceeded):
            await begin(model, MediaPrompt(text="a" * 64, images=(b"1",)))

    run(make_model(read_media=read), scenario)


def test_what_is_prepared_meanwhile_finds_the_queue_as_it_is_then() -> None:
    """Two prompts with images are read at once, and there is room for one."""

    async def scenario(model: CountingModel) -> None:
        model.loop.is_held = True
        prompt = MediaPrompt(text="a", images=(b"1",))
        tickets = await asyncio.gather(*(begin(model, prompt) for _ in range(2)), return_exceptions=True)
        assert [type(one) for one in tickets] == [Heard, TooManyRequests]

    async def read(prompt: MediaPrompt) -> Picture:
        await asyncio.sleep(0)
        return Picture([1])

    run(make_model(most=1, max_queue=0, read_media=read), scenario)


def test_prompts_share_work_by_adapter_and_salt() -> None:
    async def scenario(model: CountingModel) -> None:
        keys = []
        for lora, salt in ((None, None), ("one", None), (None, "one"), (None, None)):
            heard = Heard(1)
            ticket = await model.submit(Generation(prompt=[1], max_tokens=1, lora=lora, cache_salt=salt), heard)
            keys.append(ticket.key)  # type: ignore[attr-defined]
            await heard.over.wait()
        assert len(set(keys)) == 3 and keys[0] == keys[3]

    run(make_model(), scenario)


def test_seeds_follow_the_choice() -> None:
    sampling = Sampling(seed=-3)
    assert [seed_of(sampling, index, None) for index in (0, 3, 4)] == [SEEDS - 3, 0, 1]
    assert seed_of(Sampling(), 2, 5) == 7
    assert len({seed_of(Sampling(), 0, None) for _ in range(4)}) > 1
    assert is_greedy(Sampling(temperature=0)) and not is_greedy(Sampling(temperature=COLD))


@pytest.mark.parametrize(
    ("fields", "generated", "barred"),
    [
        ({}, 0, set()),
        ({"ignore_eos": True, "stop_ids": frozenset({3})}, 9, {1, 2}),
        ({"min_tokens": 2, "stop_ids": frozenset({3})}, 1, {1, 2, 3}),
        ({"min_tokens": 2, "stop_ids": frozenset({3})}, 2, set()),
    ],
)
def test_end_tokens_are_barred_while_they_may_not_come(
    fields: dict[str, Any], generated: int, barred: set[int]
) -> None:
    async def scenario(model: CountingModel) -> None:
        heard = Heard(1)
        ticket = await model.submit(Generation(prompt=[1], max_tokens=1, **fields), heard)
        await heard.over.wait()
        assert isinstance(ticket, Job)
        slot = ticket.slots[0]
        slot.generated = generated
        logits = np.zeros(5, dtype=np.float32)
        slot.bar_ends(logits, np.array([1, 2]))
        assert set(np.flatnonzero(np.isneginf(logits)).tolist()) == barred

    run(make_model(), scenario)
