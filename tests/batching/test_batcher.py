"""Requests of many clients, merged into batches by real threads: everyone has their own results, in order."""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from batching_rig import Model, expected
from modelrack.batching import Batcher, BatchLimits, Done
from modelrack.errors import BadRequest, EngineError, NotReady, TooManyRequests
from modelrack.testing.serving import wait_until

LETTERS = st.text("abcdefgh", min_size=1, max_size=40)


@asynccontextmanager
async def batcher(model: Model, **limits: int) -> AsyncIterator[Batcher[str, float]]:
    """Make a batcher, and close it."""
    made: Batcher[str, float] = Batcher(model, BatchLimits(**limits), len)
    try:
        yield made
    finally:
        model.release()
        await asyncio.to_thread(made.close)


def check(texts: Sequence[str], done: Sequence[Done[float]]) -> None:
    """Check a request's results."""
    assert [one.tokens for one in done] == list(map(len, texts))
    assert [one.result for one in done] == pytest.approx(list(map(expected, texts)), abs=1e-9)


async def until(claim: Callable[[], bool]) -> None:
    """Wait for a claim to be true, beside the event loop."""
    await asyncio.to_thread(wait_until, claim)


async def hold(made: Batcher[str, float], model: Model, text: str = "z") -> "asyncio.Task[list[Done[float]]]":
    """Have the model busy with a request, so that others wait."""
    task = asyncio.create_task(made.run([text]))
    await until(model.begun.is_set)
    return task


async def prepared(made: Batcher[str, float], model: Model, count: int) -> None:
    """Wait until so many texts are in the queue, or were."""
    await until(lambda: sum(map(len, model.prepared)) == count and not made._is_preparing)


async def test_one_text() -> None:
    """A text by itself."""
    async with batcher(Model()) as made:
        check(["abc"], await made.run(["abc"]))


async def test_no_text() -> None:
    """Nothing is done at once."""
    async with batcher(Model()) as made:
        assert await made.run([]) == []


async def test_requests_are_merged() -> None:
    """What comes while a batch runs is prepared meanwhile, and shares the next one."""
    model = Model(is_held=True)
    async with batcher(model) as made:
        first = await hold(made, model)
        texts = ["abc", "abd", "abe"]
        others = [asyncio.create_task(made.run([text])) for text in texts]
        await prepared(made, model, 4)
        model.release()
        for text, one in zip(texts, others, strict=True):
            check([text], await one)
        await first
        assert model.batches == [["z"], texts]


async def test_the_model_is_run_in_one_thread() -> None:
    """Libraries that keep state by thread see one."""
    model = Model()
    async with batcher(model, batch_items=4) as made:
        await asyncio.gather(*(made.run(["a" * number]) for number in range(1, 60)))
        assert model.run_threads == {"batch-run"}


async def test_batches_keep_to_their_limits() -> None:
    """A large request is run in pieces."""
    model = Model()
    async with batcher(model, batch_tokens=64, batch_items=5) as made:
        texts = ["a" * (1 + number % 30) for number in range(200)]
        check(texts, await made.run(texts))
    assert all(len(batch) <= 5 and len(batch) * len(batch[-1]) <= 64 for batch in model.batches)


async def test_a_small_request_passes_a_large_one() -> None:
    """One text does not wait for 2,000 that came before it."""
    model = Model(is_held=True)
    async with batcher(model, batch_items=8) as made:
        large = asyncio.create_task(made.run(["abc"] * 2000))
        await until(model.begun.is_set)
        small = asyncio.create_task(made.run(["abd"]))
        await prepared(made, model, 2001)
        model.release()
        check(["abd"], await small)
        assert next(number for number, batch in enumerate(model.batches) if "abd" in batch) <= 2
        check(["abc"] * 2000, await large)


async def test_one_bad_item_fails_only_its_request() -> None:
    """Items that cannot be prepared, or whose batch fails, leave the others alone."""
    model = Model(is_held=True)
    async with batcher(model, padding_tokens=1000) as made:
        first = await hold(made, model)
        requests = [["abc"], ["a#"], ["ab", "a?b"], ["abd", "ab"], ["a!"], ["c"]]
        tasks = [asyncio.create_task(made.run(texts)) for texts in requests]
        await until(lambda: any("c" in works for works in model.prepared))
        model.release()
        found = await asyncio.gather(first, *tasks, return_exceptions=True)
    kinds = [type(one) for one in found]
    assert kinds == [list, list, BadRequest, EngineError, list, EngineError, list]
    for texts, one in zip(requests, found[1:], strict=True):
        if isinstance(one, list):
            check(texts, one)


async def test_a_failing_batch_is_run_a_bounded_number_of_times() -> None:
    """Where every request is at fault, there are at most twice as many runs as requests."""
    model = Model(is_held=True)
    async with batcher(model) as made:
        first = await hold(made, model)
        tasks = [asyncio.create_task(made.run(["a?"])) for _ in range(32)]
        await prepared(made, model, 33)
        model.release()
        await first
        found = await asyncio.gather(*tasks, return_exceptions=True)
        assert {type(one) for one in found} == {EngineError}
        assert len(model.batches) - 1 == 2 * 32 - 1


async def test_a_lack_of_memory_makes_batches_smaller() -> None:
    """A batch that does not fit is run in halves, and those after it are smaller from the start."""
    model = Model(most_tokens=40)
    async with batcher(model) as made:
        texts = ["abcd"] * 64
        check(texts, await made.run(texts))
        failed = sum(len(batch) * 4 > 40 for batch in model.batches)
        for _ in range(20):
            check(["abcd"] * 16, await made.run(["abcd"] * 16))
        assert sum(len(batch) * 4 > 40 for batch in model.batches) <= failed + 8


async def test_an_item_too_large_for_memory_fails_alone() -> None:
    """One that does not fit by itself is an error of its request, with a reason."""
    model = Model(most_tokens=20)
    async with batcher(model) as made:
        short, long = await asyncio.gather(made.run(["ab"]), made.run(["a" * 30]), return_exceptions=True)
        assert isinstance(short, list)
        assert isinstance(long, EngineError)
        assert "memory" in long.message


async def test_a_client_that_leaves_takes_its_items_along() -> None:
    """What nobody waits for is not run."""
    model = Model(is_held=True)
    async with batcher(model, batch_items=4) as made:
        first = await hold(made, model)
        leaving = asyncio.create_task(made.run(["leave"] * 500))
        staying = asyncio.create_task(made.run(["stays"]))
        await until(lambda: any("stays" in works for works in model.prepared))
        leaving.cancel()
        with pytest.raises(asyncio.CancelledError):
            await leaving
        model.release()
        check(["stays"], await staying)
        await first
        assert await made.run(["a"])
        assert not any("leave" in batch for batch in model.batches)


class Interruptible(Model):
    """A model whose batches can be ended."""

    def __init__(self) -> None:
        super().__init__(is_held=True)
        self.interruptions = 0
        self.is_interrupted = False

    def interrupt(self) -> None:
        """End the batch."""
        self.interruptions += 1
        self.is_interrupted = True
        self.release()

    def run(self, batch: Sequence[str]) -> list[float]:
        """Run unless interrupted."""
        self.is_interrupted = False
        found = super().run(batch)
        if self.is_interrupted:
            raise RuntimeError("interrupted")
        return found


async def test_a_batch_that_nobody_waits_for_is_interrupted(caplog: pytest.LogCaptureFixture) -> None:
    """The model is told when the last request of its batch has left, and what it raises is no failure."""
    model = Interruptible()
    async with batcher(model) as made:
        first = await hold(made, model)
        first.cancel()
        await until(lambda: model.interruptions == 1)
        check(["abc"], await made.run(["abc"]))
        assert model.interruptions == 1
    assert not caplog.records


async def test_a_full_queue_refuses() -> None:
    """Beyond the limit a request is refused with the time after which there should be room."""
    model = Model(is_held=True)
    async with batcher(model, queue_items=10) as made:
        first = await hold(made, model)
        second = asyncio.create_task(made.run(["a"] * 9))
        await asyncio.sleep(0)
        with pytest.raises(TooManyRequests) as refused:
            await made.run(["a"])
        assert 1 <= int(refused.value.headers["Retry-After"]) <= 60
        model.release()
        await asyncio.gather(first, second)
        check(["a"] * 50, await made.run(["a"] * 50))


async def test_a_queue_full_of_tokens_refuses() -> None:
    """Few long texts fill a queue as well."""
    model = Model(is_held=True)
    async with batcher(model, queue_tokens=100) as made:
        first = await hold(made, model)
        second = asyncio.create_task(made.run(["a" * 95]))
        await asyncio.sleep(0)
        with pytest.raises(TooManyRequests):
            await made.run(["a" * 10])
        second.cancel()
        with pytest.raises(asyncio.CancelledError):
            await second
        third = asyncio.create_task(made.run(["a" * 10]))
        model.release()
        await asyncio.gather(first, third)


async def test_close_answers_those_who_wait() -> None:
    """Whoever waits gets an error, at once; later ones too."""
    model = Model(is_held=True)
    made: Batcher[str, float] = Batcher(model)
    tasks = [asyncio.create_task(made.run([text])) for text in ("a", "bb", "ccc")]
    await until(model.begun.is_set)
    closing = asyncio.create_task(asyncio.to_thread(made.close))
    found = await asyncio.gather(*tasks, return_exceptions=True)
    assert [type(one) for one in found] == [NotReady] * 3
    with pytest.raises(NotReady):
        await made.run(["a"])
    model.release()
    await closing
    made.close()
    assert not any(thread.name.startswith("batch-") for thread in threading.enumerate())


class Fatal(Model):
    """A model that ends the thread it is in."""

    def run(self, batch: Sequence[str]) -> list[float]:
        """End the thread."""
        raise SystemExit


async def test_a_thread_that_ends_leaves_nobody_waiting() -> None:
    """Even what is no Exception answers those who wait."""
    async with batcher(Fatal()) as made:
        with pytest.raises(EngineError):
            await made.run(["a"])
        with pytest.raises(EngineError):
            await made.run(["a"])


class Short(Model):
    """A model that loses a result, or an item."""

    def prepare(self, works: Sequence[str]) -> list:  # type: ignore[type-arg]
        """Lose an item."""
        return super().prepare(works)[:-1] if "lost" in works else super().prepare(works)

    def run(self, batch: Sequence[str]) -> list[float]:
        """Lose a result."""
        return super().run(batch)[1:] if "short" in batch else super().run(batch)


@pytest.mark.parametrize("text", ["lost", "short"])
async def test_a_wrong_number_of_results_is_an_error(text: str) -> None:
    """Results are never given to the wrong item."""
    async with batcher(Short()) as made:
        with pytest.raises(EngineError):
            await made.run([text, "b"])
        check(["abc"], await made.run(["abc"]))


def test_a_closed_event_loop_hurts_nobody() -> None:
    """A loop that ended while its request ran leaves the batcher as it was."""
    model = Model(is_held=True)
    made: Batcher[str, float] = Batcher(model)

    async def leave() -> None:
        asyncio.get_running_loop().call_soon(asyncio.get_running_loop().stop)
        await made.run(["a"])

    loop = asyncio.new_event_loop()
    task = loop.create_task(leave())
    loop.run_forever()
    wait_until(model.begun.is_set)
    task._log_destroy_pending = False  # type: ignore[attr-defined]
    loop.close()
    model.release()
    check(["abc"], asyncio.run(made.run(["abc"])))
    made.close()
    task.get_coro().close()


REQUESTS = st.lists(
    st.tuples(
        st.lists(st.one_of(LETTERS, LETTERS, LETTERS, st.sampled_from(["a#b", "c?d", "e!f", "ABC"])), max_size=12),
        st.sampled_from(["stays", "stays", "leaves at once", "leaves"]),
    ),
    max_size=25,
)


@settings(deadline=None, max_examples=60)
@given(REQUESTS, st.integers(1, 200), st.integers(1, 16), st.sampled_from([None, 60]))
def test_whatever_comes(
    requests: list[tuple[list[str], str]], most_tokens: int, most_items: int, memory: int | None
) -> None:
    """Each request has its own results in order, or its own error, whatever others ask, whether they fail or leave."""

    async def ask(made: Batcher[str, float], texts: list[str], fate: str) -> None:
        task = asyncio.create_task(made.run(texts))
        if fate != "stays":
            for _ in range(0 if fate == "leaves at once" else 3):
                await asyncio.sleep(0)
            task.cancel()
        try:
            check(texts, await task)
        except asyncio.CancelledError:
            assert fate != "stays"
        except BadRequest:
            assert any("#" in text for text in texts)
        except EngineError as error:
            assert "memory" not in error.message
            assert any(mark in text for text in texts for mark in "?!")
        else:
            assert not any(mark in text for text in texts for mark in "#?!")

    async def main() -> None:
        async with batcher(Model(most_tokens=memory), batch_tokens=most_tokens, batch_items=most_items) as made:
            async with asyncio.timeout(30), asyncio.TaskGroup() as group:
                for texts, fate in requests:
                    group.create_task(ask(made, texts, fate))
            assert not made._waiting
            assert not made._unprepared
            assert made._waiting_items == made._waiting_tokens == len(made._queue) == 0

    asyncio.run(main())
