"""The batcher: a thread that prepares, a thread that runs, and the requests that wait for both."""

import asyncio
import contextlib
import logging
import threading
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from ..errors import EngineError, ModelrackError, NotReady, TooManyRequests
from .contract import BatchLimits, BatchModel, Done, Prepared

__all__ = ["Batcher"]

log = logging.getLogger(__name__)

Work = TypeVar("Work")
Result = TypeVar("Result")


@dataclass(slots=True, eq=False)
class _Request:
    """The items of one request. `done` holds what is there; it is complete when `left` is 0."""

    works: Sequence[Any]
    future: asyncio.Future[list[Done[Any]]]
    loop: asyncio.AbstractEventLoop
    done: list[Done[Any] | None] = field(default_factory=list)
    left: int = 0
    is_over: bool = False


@dataclass(slots=True, eq=False)
class _Item:
    request: _Request
    index: int
    prepared: Prepared[Any]


class Batcher(Generic[Work, Result]):
    """Runs the items of all requests in batches.

    `run` is for the event loop; `close` ends the threads.
    """

    def __init__(self, model: BatchModel[Work, Any, Result], limits: BatchLimits | None = None) -> None:
        self._model = model
        self._limits = limits or BatchLimits()
        self._ready = threading.Condition()
        self._unprepared: deque[_Request] = deque()
        self._items: list[_Item] = []
        self._waiting = 0
        self._closed = False
        self._threads = [
            threading.Thread(target=self._prepare_all, name="prepare", daemon=True),
            threading.Thread(target=self._run_all, name="run", daemon=True),
        ]
        for thread in self._threads:
            thread.start()

    async def run(self, works: Sequence[Work]) -> list[Done[Result]]:
        """Return the results of a request's items, in order. A cancelled task takes its items out of the queue.

        Raises: TooManyRequests: too much is waiting. What `prepare` gave for one of the items, or `run` raised.
        """
        loop = asyncio.get_running_loop()
        request = _Request(works, loop.create_future(), loop, [None] * len(works), len(works))
        with self._ready:
            if self._closed:
                raise NotReady("The model is being unloaded.")
            if self._waiting and self._waiting + len(works) > self._limits.queue_items:
                raise TooManyRequests(
                    f"{self._waiting} items are waiting, and {self._limits.queue_items} may wait.",
                    headers={"Retry-After": "1"},
                )
            self._waiting += len(works)
            self._unprepared.append(request)
            self._ready.notify_all()
        try:
            return await request.future
        finally:
            with self._ready:
                request.is_over = True
                self._waiting -= len(works)

    def close(self) -> None:
        """End the threads; requests that wait fail."""
        with self._ready:
            self._closed = True
            self._ready.notify_all()
        for thread in self._threads:
            thread.join()

    # In the thread that prepares

    def _prepare_all(self) -> None:
        while True:
            with self._ready:
                while not (self._unprepared or self._closed):
                    self._ready.wait()
                if self._closed:
                    self._fail_rest()
                    return
                requests = [request for request in self._unprepared if not request.is_over]
                self._unprepared.clear()
            for request in requests:
                self._prepare(request)

    def _prepare(self, request: _Request) -> None:
        try:
            prepared = self._model.prepare(request.works)
            for one in prepared:
                if isinstance(one, ModelrackError):
                    raise one
        except Exception as error:
            self._fail(request, error)
            return
        items = [_Item(request, index, one) for index, one in enumerate(prepared) if isinstance(one, Prepared)]
        with self._ready:
            self._items += items
            self._ready.notify_all()

    def _fail_rest(self) -> None:
        for request in {*self._unprepared, *(item.request for item in self._items)}:
            self._fail(request, NotReady("The model is being unloaded."))

    # In the thread that runs

    def _run_all(self) -> None:
        while True:
            with self._ready:
                while not (self._items or self._closed):
                    self._ready.wait()
                if self._closed:
                    return
                batch = self._take_batch()
            if batch:
                self._run(batch)

    def _take_batch(self) -> list[_Item]:
        """Take the oldest item, and those of like length that fit beside it."""
        self._items = [item for item in self._items if not item.request.is_over]
        if not self._items:
            return []
        oldest = self._items[0]
        limits = self._limits
        alike = [item for item in self._items if item.prepared.group == oldest.prepared.group]
        alike.sort(key=lambda item: abs(item.prepared.tokens - oldest.prepared.tokens))
        batch: list[_Item] = []
        longest = 0
        for item in alike:
            longest = max(longest, item.prepared.tokens)
            if batch and (longest * (len(batch) + 1) > limits.batch_tokens or len(batch) >= limits.batch_items):
                break
            batch.append(item)
        taken = set(map(id, batch))
        self._items = [item for item in self._items if id(item) not in taken]
        batch.sort(key=lambda item: item.prepared.tokens)
        return batch

    def _run(self, batch: list[_Item]) -> None:
        try:
            results = self._model.run([item.prepared.payload for item in batch])
        except Exception as error:
            requests = list(dict.fromkeys(item.request for item in batch))
            if len(requests) == 1:
                self._fail(requests[0], error)
                return
            for request in requests:
                self._run([item for item in batch if item.request is request])
            return
        for item, result in zip(batch, results, strict=True):
            request = item.request
            request.done[item.index] = Done(result, item.prepared.tokens)
            request.left -= 1
            if request.left == 0:
                self._tell(request, lambda request=request: request.future.set_result(request.done))

    def _fail(self, request: _Request, error: Exception) -> None:
        if not isinstance(error, ModelrackError):
            log.error("a batch failed", exc_info=error)
            error = EngineError("The model failed inside; its log has the details.")
        request.is_over = True
        self._tell(request, lambda: request.future.set_exception(error))

    @staticmethod
    def _tell(request: _Request, tell: Any) -> None:
        def on_loop() -> None:
            if not request.future.done():
                tell()

        with contextlib.suppress(RuntimeError):  # the loop is closed
            request.loop.call_soon_threadsafe(on_loop)
