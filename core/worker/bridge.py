"""From an engine's threads to the event loop: for engines whose API blocks, or calls back from threads of its own."""

import asyncio
import threading
from collections import deque
from collections.abc import AsyncIterator, Callable
from concurrent.futures import Executor
from contextlib import suppress
from typing import Concatenate, Generic, ParamSpec, TypeVar

__all__ = ["Cancelled", "ThreadStream", "run_blocking", "stream_blocking"]

T = TypeVar("T")
P = ParamSpec("P")


class Cancelled:
    """A flag that tells a thread that nobody waits for its work any more. Cheap to read; never taken back."""

    __slots__ = ("is_set",)

    def __init__(self) -> None:
        self.is_set = False

    def __bool__(self) -> bool:
        return self.is_set


class ThreadStream(Generic[T]):
    """A bounded stream of items from threads to one consumer on the event loop.

    Make it on the event loop. Any thread may `put` and `close`; the consumer iterates, or takes all that has piled up
    with `take`. The loop is woken once for all items that come while it is busy. A consumer that goes away, by
    cancellation or `aclose`, sets `cancelled`.

    Args:
        limit: items that may pile up; then `put` waits and `put_nowait` refuses.
    """

    def __init__(self, limit: int = 1024) -> None:
        self._loop = asyncio.get_running_loop()
        self._limit = limit
        self._items: deque[T] = deque()
        self._waiter: asyncio.Future[None] | None = None
        self._room = threading.Condition()
        self._is_closed = False
        self._error: BaseException | None = None
        self.cancelled = Cancelled()

    # For threads.

    def put(self, item: T) -> bool:
        """Add an item, waiting for room; False once the consumer is gone: stop working then."""
        if len(self._items) >= self._limit:
            with self._room:
                self._room.wait_for(lambda: len(self._items) < self._limit or self.cancelled.is_set)
        return self._add(item)

    def put_nowait(self, item: T) -> bool:
        """Add an item; False if there is no room or the consumer is gone."""
        return len(self._items) < self._limit and self._add(item)

    def close(self, error: BaseException | None = None) -> None:
        """End the stream after the items put so far: the consumer then sees the end, or the error."""
        if not self._is_closed:
            self._error = error
            self._is_closed = True
            self._wake()

    def _add(self, item: T) -> bool:
        if self.cancelled.is_set:
            return False
        self._items.append(item)
        self._wake()
        return True

    def _wake(self) -> None:
        # The item is there before the waiter is looked at, and the consumer looks again after it has put the waiter
        # there: whichever comes last sees the other.
        waiter = self._waiter
        if waiter is not None:
            self._waiter = None
            with suppress(RuntimeError):
                self._loop.call_soon_threadsafe(_settle, waiter)

    # For the consumer.

    async def take(self) -> list[T]:
        """Wait for items and return all there are, in order; an empty list is the end.

        Raises: what the stream was closed with.
        """
        items = self._items
        if not items and not await self._wait():
            return []
        taken = []
        with suppress(IndexError):
            while True:
                taken.append(items.popleft())
        self._tell_room()
        return taken

    def __aiter__(self) -> "ThreadStream[T]":
        return self

    async def __anext__(self) -> T:
        if not self._items and not await self._wait():
            raise StopAsyncIteration
        item = self._items.popleft()
        if len(self._items) == self._limit - 1:
            self._tell_room()
        return item

    async def aclose(self) -> None:
        """Go away: set `cancelled`, drop what is there and release waiting threads."""
        self.cancelled.is_set = True
        self._items.clear()
        self._tell_room()

    async def _wait(self) -> bool:
        """Wait until there is an item (True) or the end (False)."""
        while not self._items:
            if self._is_closed:
                # An item put before the close is there by now.
                if self._items:
                    return True
                if self._error is not None:
                    raise self._error
                return False
            waiter = self._loop.create_future()
            self._waiter = waiter
            if self._items or self._is_closed:
                self._waiter = None
                continue
            try:
                await waiter
            except asyncio.CancelledError:
                await self.aclose()
                raise
        return True

    def _tell_room(self) -> None:
        with self._room:
            self._room.notify_all()


def _settle(waiter: "asyncio.Future[None]") -> None:
    if not waiter.done():
        waiter.set_result(None)


async def run_blocking(
    executor: Executor | None, work: Callable[Concatenate[Cancelled, P], T], *args: P.args, **kwargs: P.kwargs
) -> T:
    """Run `work(cancelled, …)` in a thread and return its result.

    When the caller is cancelled, the flag is set and the caller goes on at once; the thread ends when it sees the flag.

    Args:
        executor: None is the event loop's own.
    """
    cancelled = Cancelled()
    future = asyncio.get_running_loop().run_in_executor(executor, lambda: work(cancelled, *args, **kwargs))
    try:
        return await asyncio.shield(future)
    except asyncio.CancelledError:
        cancelled.is_set = True
        # Its error, if it has one, is of no interest any more.
        future.add_done_callback(lambda done: done.cancelled() or done.exception())
        raise


async def stream_blocking(
    executor: Executor | None, work: Callable[[ThreadStream[T]], None], limit: int = 1024
) -> AsyncIterator[T]:
    """Run `work(stream)` in a thread and yield what it puts; it should end when `put` returns False.

    Raises: what `work` raises, after the items before it.
    """
    stream: ThreadStream[T] = ThreadStream(limit)

    def run() -> None:
        try:
            work(stream)
        except BaseException as error:
            stream.close(error)
        else:
            stream.close()

    asyncio.get_running_loop().run_in_executor(executor, run)
    try:
        async for item in stream:
            yield item
    finally:
        await stream.aclose()
