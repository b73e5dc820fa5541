"""From threads to the event loop: order, ends, errors, backpressure, cancellation."""

import asyncio
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from modelrack.worker.bridge import Cancelled, ThreadStream, run_blocking, stream_blocking


async def until(condition: object, deadline_s: float = 10) -> None:
    assert callable(condition)
    async with asyncio.timeout(deadline_s):
        while not condition():
            await asyncio.sleep(0.001)


async def test_items_come_in_order_and_end() -> None:
    def work(stream: ThreadStream[int]) -> None:
        for number in range(10_000):
            assert stream.put(number)

    assert [item async for item in stream_blocking(None, work)] == list(range(10_000))


async def test_what_has_piled_up_is_taken_at_once() -> None:
    stream: ThreadStream[int] = ThreadStream()

    def work() -> None:
        for number in range(100):
            stream.put(number)
        stream.close()

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert await stream.take() == list(range(100))
    assert await stream.take() == []


async def test_several_threads() -> None:
    stream: ThreadStream[tuple[int, int]] = ThreadStream(limit=16)
    threads = [
        threading.Thread(target=lambda name=name: [stream.put((name, number)) for number in range(500)])
        for name in range(4)
    ]
    for thread in threads:
        thread.start()
    items = [await anext(stream) for _ in range(2000)]
    for name in range(4):
        assert [number for who, number in items if who == name] == list(range(500))
    for thread in threads:
        thread.join(10)


async def test_errors_come_after_the_items_before_them() -> None:
    def work(stream: ThreadStream[int]) -> None:
        stream.put(1)
        raise ValueError("from the thread")

    items = []
    with pytest.raises(ValueError, match="from the thread"):
        async for item in stream_blocking(None, work):
            items.append(item)
    assert items == [1]


async def test_a_producer_waits_for_room() -> None:
    made: list[int] = []

    def work(stream: ThreadStream[int]) -> None:
        for number in range(100):
            stream.put(number)
            made.append(number)

    iterator = stream_blocking(None, work, limit=10)
    assert await anext(iterator) == 0
    await until(lambda: len(made) >= 10)
    await asyncio.sleep(0.05)
    assert len(made) <= 12
    assert [item async for item in iterator] == list(range(1, 100))


async def test_put_nowait_refuses_when_full() -> None:
    stream: ThreadStream[int] = ThreadStream(limit=2)
    assert [stream.put_nowait(number) for number in range(3)] == [True, True, False]


@pytest.mark.parametrize("is_full", [False, True])
async def test_a_consumer_that_goes_away_stops_the_producer(is_full: bool) -> None:
    ended = threading.Event()

    def work(stream: ThreadStream[int]) -> None:
        while stream.put(0):
            if not is_full:
                time.sleep(0.001)
        ended.set()

    iterator = stream_blocking(None, work, limit=4)
    await anext(iterator)
    await iterator.aclose()  # type: ignore[attr-defined]
    await until(ended.is_set)


async def test_cancelling_the_consumer_sets_the_flag() -> None:
    flags: list[Cancelled] = []
    ended = threading.Event()

    def work(stream: ThreadStream[int]) -> None:
        flags.append(stream.cancelled)
        while not stream.cancelled:
            time.sleep(0.001)
        ended.set()

    async def consume() -> None:
        async for _ in stream_blocking(None, work):
            pass

    task = asyncio.create_task(consume())
    await until(lambda: flags)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await until(ended.is_set)


async def test_run_blocking() -> None:
    with ThreadPoolExecutor(1) as executor:
        assert await run_blocking(executor, lambda cancelled, x: x + 1, 1) == 2

        def fail(cancelled: Cancelled) -> None:
            raise ValueError("no")

        with pytest.raises(ValueError, match="no"):
            await run_blocking(executor, fail)

        began, ended = threading.Event(), threading.Event()

        def work(cancelled: Cancelled) -> None:
            began.set()
            while not cancelled:
                time.sleep(0.001)
            ended.set()
            raise RuntimeError("of no interest any more")

        task = asyncio.create_task(run_blocking(executor, work))
        await until(began.is_set)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await until(ended.is_set)
