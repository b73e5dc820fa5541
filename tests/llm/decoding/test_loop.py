"""The frame of decode loops: who comes in, who leaves, and what they hear."""

import asyncio
import time
from collections.abc import Sequence

import pytest

from llm.decoding.counting import END, CountingModel, make_model, run, until
from modelrack.errors import EngineError, NotReady
from modelrack.llm.contract import Generation, Ticket, TokenLogprob
from modelrack.llm.decoding import Job
from modelrack.testing.in_process import Heard, ask, begin


async def submit(model: CountingModel, heard: Heard, prompt: Sequence[int], *, max_tokens: int | None = 8) -> Ticket:
    return await model.submit(Generation(prompt=prompt, n=len(heard.tokens), max_tokens=max_tokens), heard)


def test_an_answer_ends_at_its_limit_or_with_an_end_token() -> None:
    async def scenario(model: CountingModel) -> None:
        limited = await ask(model, "ab", max_tokens=3)
        assert (limited.tokens, limited.ends, limited.prompt_tokens) == ([[99, 100, 101]], {0: ("length", 3)}, 2)
        ended = Heard(1)
        await submit(model, ended, [END - 3])
        await ended.over.wait()
        assert (ended.tokens, ended.ends) == ([[END - 2, END - 1]], {0: ("stop", 3)})
        stopped = await ask(model, "a", stop_ids=frozenset({100}))
        assert (stopped.tokens, stopped.ends) == ([[98, 99]], {0: ("stop", 3)})
        whole = await ask(model, "a", max_tokens=None)
        assert whole.ends == {0: ("length", 63)}

    run(make_model(), scenario)


def test_what_a_step_brought_is_heard_in_one_go() -> None:
    async def scenario(model: CountingModel) -> None:
        heard = await begin(model, "a", n=3, max_tokens=20, logprobs=0)
        # The event loop stands still until the other thread has computed it all.
        while model.loop.steps < 21 or model.loop.has_work():
            time.sleep(0.0005)
        await heard.over.wait()
        assert heard.turns <= 6, "tokens that came together are told together"
        assert heard.tokens == [list(range(98, 118))] * 3
        assert heard.logprobs[0] == [TokenLogprob(-1.0)] * 20
        assert model.loop.in_flight == 0

    run(make_model(), scenario)


def test_all_wait_for_their_turn_in_the_order_they_came() -> None:
    async def scenario(model: CountingModel) -> None:
        model.loop.is_held = True
        ends: list[int] = []

        class Noting(Heard):
            def __init__(self, number: int) -> None:
                super().__init__(1)
                self.number = number

            def end(self, index: int, reason: object, tokens: int) -> None:
                ends.append(self.number)
                self.over.set()

        listeners = [Noting(number) for number in range(5)]
        for heard in listeners:
            await submit(model, heard, [1, 2], max_tokens=3)
        assert model.loop.in_flight == 5
        model.loop.let_go()
        for heard in listeners:
            await heard.over.wait()
        assert ends == list(range(5))

    run(make_model(most=1), scenario)


@pytest.mark.parametrize("index", [0, 1, 2, None])
@pytest.mark.parametrize("when", ["at once", "waiting", "reading", "running"])
def test_a_cancelled_choice_leaves_and_the_others_go_on(when: str, index: int | None) -> None:
    """With one place, which another has, the leader waits; it reads ten steps long, and then all run."""

    async def scenario(model: CountingModel) -> None:
        loop = model.loop
        heard, other = Heard(3), Heard(1)
        loop.is_held = True
        await submit(model, other, [7], max_tokens=40)
        ticket = await submit(model, heard, [1] * 10, max_tokens=30)
        assert isinstance(ticket, Job)
        if when != "at once":
            await loop.advance({"waiting": 1, "reading": 5, "running": 14}[when])
            assert ticket.slots[0].state == ("waiting" if when == "waiting" else "running")
            assert ticket.is_read == (when == "running")
        ticket.cancel(index)
        told = [list(tokens) for tokens in heard.tokens]
        loop.let_go()
        await other.over.wait()
        left = set() if index is None else {0, 1, 2} - {index}
        await until(lambda: heard.ends.keys() == left and not loop.has_work())
        assert heard.tokens == [list(range(2, 32)) if one in left else told[one] for one in range(3)]
        assert (heard.error, loop.in_flight) == (None, 0)
        assert loop.inherited == (index in (0, None) and when in ("waiting", "reading") and bool(left))

    run(make_model(most=1 if when == "waiting" else 4), scenario)


def test_what_was_read_goes_to_the_next_choice() -> None:
    async def scenario(model: CountingModel) -> None:
        loop = model.loop
        loop.is_held = True
        heard = Heard(2)
        ticket = await submit(model, heard, [1] * 30, max_tokens=5)
        await loop.advance(20)
        ticket.cancel(0)
        loop.let_go()
        await until(lambda: 1 in heard.ends)
        assert heard.tokens == [[], [2, 3, 4, 5, 6]]
        assert loop.steps == 30 + 4, "the prompt was read once"

    run(make_model(), scenario)


def test_cancelling_twice_or_too_late_changes_nothing() -> None:
    async def scenario(model: CountingModel) -> None:
        heard = Heard(2)
        ticket = await submit(model, heard, [1])
        ticket.cancel(0)
        ticket.cancel(0)
        await until(lambda: 1 in heard.ends)
        ticket.cancel()
        ticket.cancel(1)
        await ask(model, "a")
        assert (set(heard.ends), heard.error, model.loop.in_flight) == ({1}, None, 0)

    run(make_model(), scenario)


def test_a_listener_that_fails_harms_nobody_else() -> None:
    class Faulty(Heard):
        def take(self, index: int, tokens: Sequence[int], logprobs: Sequence[TokenLogprob] | None) -> None:
            raise RuntimeError("this listener is broken")

    class Deaf(Faulty):
        def fail(self, error: Exception) -> None:
            self.over.set()
            raise RuntimeError("nor does it hear of errors")

    async def scenario(model: CountingModel) -> None:
        faulty, deaf, sound = Faulty(2), Deaf(1), Heard(1)
        for heard in (faulty, deaf, sound):
            await submit(model, heard, [1], max_tokens=40)
        for heard in (faulty, deaf, sound):
            await heard.over.wait()
        assert isinstance(faulty.error, EngineError)
        assert sound.tokens == [list(range(2, 42))]
        await until(lambda: not model.loop.has_work())
        assert model.loop.in_flight == 0

    run(make_model(), scenario)


def test_what_is_under_way_fails_with_a_step_that_does() -> None:
    async def scenario(model: CountingModel) -> None:
        model.loop.is_held = True
        running, queued = Heard(2), Heard(1)
        await submit(model, running, [1])
        await until(lambda: model.loop.is_at_gate)
        await submit(model, queued, [2])
        model.loop.faults.append(ValueError("a number too many"))
        model.loop.let_go()
        for heard in (running, queued):
            await heard.over.wait()
            assert heard.error is not None and "ValueError: a number too many" in str(heard.error)
        assert model.loop.in_flight == 0
        assert (await ask(model, "a", max_tokens=1)).tokens == [[98]]
        assert not model.loop.is_broken

    run(make_model(), scenario)


def test_one_job_can_fail_alone() -> None:
    async def scenario(model: CountingModel) -> None:
        loop = model.loop
        loop.is_held = True
        heard, other = Heard(2), Heard(1)
        ticket = await submit(model, heard, [1])
        await submit(model, other, [1])

        assert isinstance(ticket, Job)
        loop.doomed = ticket
        loop.let_go()
        await other.over.wait()
        await heard.over.wait()
        assert other.error is None and str(heard.error) == "it is too odd"
        assert {index for index, keep in loop.left if not keep} == {0, 1}
        assert loop.in_flight == 0

    run(make_model(), scenario)


def test_an_engine_that_fails_again_and_again_is_given_up() -> None:
    broken: list[bool] = []

    async def scenario(model: CountingModel) -> None:
        model.loop.faults += [OSError()] * 2
        for _ in range(2):
            with pytest.raises(EngineError):
                await ask(model, "a")
        await ask(model, "a step that goes well is a new beginning")
        model.loop.faults += [OSError()] * 4
        for _ in range(3):
            assert not model.loop.is_broken
            with pytest.raises(EngineError):
                await ask(model, "a")
        await until(lambda: bool(broken))
        with pytest.raises(EngineError, match="closed"):
            await begin(model, "a")

    run(make_model(lambda: broken.append(True)), scenario)
    assert broken == [True]


def test_closing_fails_what_is_under_way_and_frees_the_model_after_that() -> None:
    freed: list[bool] = []

    async def scenario(model: CountingModel) -> None:
        model.loop.is_held = True
        running = [await begin(model, "a", max_tokens=None) for _ in range(3)]
        await model.loop.advance(3)
        closing = asyncio.create_task(asyncio.to_thread(model.close))
        await until(lambda: model.loop.is_closing)
        assert not freed
        model.loop.let_go()
        await closing
        for heard in running:
            await heard.over.wait()
            assert isinstance(heard.error, NotReady)
        assert len(running[0].tokens[0]) == 4, "what was computed before is told"
        with pytest.raises(EngineError, match="closed"):
            await begin(model, "a")
        model.close()
        assert freed == [True]

    run(make_model(most=1, free=lambda: freed.append(True)), scenario)


def test_an_event_loop_that_is_gone_stops_nobody() -> None:
    """As after a test, or when the worker ends amid a step."""
    model = make_model()
    asyncio.run(_leave_one(model))
    try:
        while model.loop.steps < 63:
            time.sleep(0.0005)
    finally:
        model.close()


async def _leave_one(model: CountingModel) -> None:
    await begin(model, "a", max_tokens=None)
