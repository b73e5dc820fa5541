"""The batcher: the requests that wait, a thread that runs their items, and one that prepares them meanwhile."""

import asyncio
import contextlib
import logging
import threading
from collections import deque
from collections.abc import Callable, Sequence
from copy import copy
from time import perf_counter
from typing import Any, Generic, TypeVar

from ..errors import EngineError, ModelrackError, NotReady, TooManyRequests
from .contract import BatchLimits, BatchModel, Done
from .pace import Pace
from .preparing import Piece, Request, prepare_apart
from .queue import FairQueue, Item
from .running import run_apart

__all__ = ["Batcher"]

log = logging.getLogger(__name__)

Work = TypeVar("Work")
Result = TypeVar("Result")

_PIECE_WORKS = 256
_PIECE_TOKENS = 16_384
"""What is prepared at once: as much as takes a few milliseconds, because what comes meanwhile waits for it."""
_SMALL_TOKENS = 2048
"""What is prepared before the next batch rather than beside it, so that it can be in it."""

_End = tuple[Request, ModelrackError | None]
"""A request that is over, with its error if it has one."""


def _weigh_alike(work: Any) -> int:
    return 1


class Batcher(Generic[Work, Result]):
    """Runs the items of all requests in batches.

    `run` is for event loops; `close` ends the threads. All state is behind one lock, which is never held while the
    model is at work.

    Args:
        weigh: tells about how many tokens a work has, without much work; at least 1.
    """

    def __init__(
        self,
        model: BatchModel[Work, Any, Result],
        limits: BatchLimits | None = None,
        weigh: Callable[[Work], int] = _weigh_alike,
    ) -> None:
        self._model = model
        self._limits = limits or BatchLimits()
        self._weigh = weigh
        self._lock = threading.Lock()
        self._can_run = threading.Condition(self._lock)
        self._can_prepare = threading.Condition(self._lock)
        self._unprepared: deque[Request] = deque()
        self._queue: FairQueue[Request] = FairQueue()
        self._waiting: set[Request] = set()
        self._waiting_items = 0
        self._waiting_tokens = 0
        self._is_idle = False
        self._is_preparing = False
        self._running: set[Request] = set()
        self._interrupt: Callable[[], None] | None = getattr(model, "interrupt", None)
        self._shut_with: ModelrackError | None = None
        self._pace = Pace(self._limits)
        self._threads = [
            threading.Thread(target=self._guard, args=(loop,), name=name, daemon=True)
            for name, loop in (("batch-run", self._run_all), ("batch-prepare", self._prepare_all))
        ]
        for thread in self._threads:
            thread.start()

    async def run(self, works: Sequence[Work]) -> list[Done[Result]]:
        """Return the results of a request's items, in order. A cancelled task takes its items out of the queue.

        Raises: TooManyRequests: too much is waiting. NotReady: it is closed. What `prepare` gave for one of the items,
            or `run` raised.
        """
        if not works:
            return []
        weight = sum(map(self._weigh, works))
        future = asyncio.get_running_loop().create_future()
        request = Request(works=works, weight=weight, future=future)
        with self._lock:
            self._admit(request)
        try:
            done: list[Done[Result]] = await future
            return done
        finally:
            with self._lock:
                self._forget(request)

    def close(self) -> None:
        """End the threads; requests that wait fail. Blocks until a batch that runs has ended."""
        with self._lock:
            self._shut(NotReady("The model is being unloaded."))
        self._fail_waiting()
        for thread in self._threads:
            if thread is not threading.current_thread():
                thread.join()

    # With the lock held

    def _admit(self, request: Request) -> None:
        """Queue a request, and wake who is to see to it."""
        if self._shut_with is not None:
            raise copy(self._shut_with)
        limits = self._limits
        items, tokens = self._waiting_items + len(request.works), self._waiting_tokens + request.weight
        if self._waiting and (items > limits.queue_items or tokens > limits.queue_tokens):
            raise TooManyRequests(
                f"{self._waiting_items} items are waiting already; this model's queue takes {limits.queue_items}, or "
                f"about {limits.queue_tokens} tokens.",
                # Half of the queue, at least: with less, all who were refused would be refused again.
                headers={
                    "Retry-After": str(self._pace.retry_s(max(tokens - limits.queue_tokens, self._waiting_tokens / 2)))
                },
            )
        self._waiting.add(request)
        self._waiting_items, self._waiting_tokens = items, tokens
        self._unprepared.append(request)
        if self._is_preparing:
            return
        if self._is_idle:
            self._can_run.notify()
        else:
            self._can_prepare.notify()

    def _forget(self, request: Request) -> None:
        """Take a request out of everything, unless it is out already."""
        if request not in self._waiting:
            return
        self._waiting.remove(request)
        self._waiting_items -= len(request.works)
        self._waiting_tokens -= request.weight
        if request.prepared < len(request.works):
            self._unprepared.remove(request)
        self._queue.drop(request)
        if request in self._running:
            self._running.remove(request)
            if not self._running and self._interrupt is not None:
                self._interrupt()

    def _take_pieces(self, most_tokens: int) -> list[Piece]:
        """Take works to prepare: a share of each request in turn, so that large ones hold none up.

        None if there are none, or the other thread is at it. Who takes some calls `_prepare`.
        """
        pieces: list[Piece] = []
        if self._is_preparing:
            return pieces
        room, tokens = _PIECE_WORKS, most_tokens
        while self._unprepared and room > 0 and tokens > 0:
            request = self._unprepared.popleft()
            start = end = request.prepared
            while end < len(request.works) and room > 0 and tokens > 0:
                tokens -= self._weigh(request.works[end])
                room -= 1
                end += 1
            request.prepared = end
            pieces.append(Piece(request, start, request.works[start:end]))
            if end < len(request.works):
                self._unprepared.append(request)
        self._is_preparing = bool(pieces)
        return pieces

    def _shut(self, error: ModelrackError) -> None:
        """Let the threads end, and take nothing more."""
        self._shut_with = self._shut_with or error
        self._can_run.notify_all()
        self._can_prepare.notify_all()

    # In either thread

    def _guard(self, loop: Callable[[], None]) -> None:
        """Run a thread's loop; whatever ends it, nobody waits for ever."""
        try:
            loop()
        except BaseException:
            log.critical("a thread of the batcher ended", exc_info=True)
            with self._lock:
                self._shut(EngineError("The model failed inside; its log has the details."))
            self._fail_waiting()

    def _fail_waiting(self) -> None:
        with self._lock:
            ends: list[_End] = [(request, copy(self._shut_with)) for request in self._waiting]
        self._end(ends)

    def _end(self, ends: Sequence[_End]) -> None:
        """Forget requests that are over, and tell those who wait: each event loop once."""
        if not ends:
            return
        with self._lock:
            for request, _ in ends:
                self._forget(request)
        loops: dict[asyncio.AbstractEventLoop, list[_End]] = {}
        for end in ends:
            loops.setdefault(end[0].future.get_loop(), []).append(end)
        for loop, its in loops.items():
            with contextlib.suppress(RuntimeError):  # it is closed
                loop.call_soon_threadsafe(_tell, its)

    def _prepare(self, pieces: Sequence[Piece]) -> None:
        """Prepare pieces that `_take_pieces` gave, and queue what becomes of them."""
        ready, ends = prepare_apart(self._model.prepare, pieces)
        with self._lock:
            for request, items in ready:
                self._queue.add(request, items)
            self._is_preparing = False
            if self._is_idle and self._queue:
                self._can_run.notify()
        self._end(ends)

    # In the thread that prepares

    def _prepare_all(self) -> None:
        while True:
            with self._lock:
                while not self._shut_with and (self._is_preparing or not self._unprepared):
                    self._can_prepare.wait()
                if self._shut_with:
                    return
                pieces = self._take_pieces(_PIECE_TOKENS)
            self._prepare(pieces)

    # In the thread that runs

    def _run_all(self) -> None:
        while self._await_work():
            with self._lock:
                pieces = self._take_pieces(_SMALL_TOKENS if self._queue else _PIECE_TOKENS)
            if pieces:
                self._prepare(pieces)
            with self._lock:
                batch = self._take_batch()
            if batch:
                self._run(batch)

    def _await_work(self) -> bool:
        """Wait until there is something to prepare or to run; False at the end."""
        with self._lock:
            while not (self._shut_with or self._queue or (self._unprepared and not self._is_preparing)):
                self._wait_idly()
            return self._shut_with is None

    def _take_batch(self) -> list[Item[Request]]:
        """Take the next batch, with the lock held; none if there is something else to do before it."""
        first, shortest = self._queue.first(), self._queue.shortest()
        if first is None or shortest is None:
            return []
        pace, limits = self._pace, self._limits
        hold_s = pace.hold_until(shortest.prepared.tokens, shortest.flow.since, len(self._waiting)) - perf_counter()
        if hold_s > 0 and not self._is_preparing:
            if not self._unprepared:
                self._wait_idly(hold_s)
            return []
        batch = self._queue.take(pace.most_tokens(first.prepared.tokens), limits.batch_items, limits.padding_tokens)
        self._running = {item.flow for item in batch}
        if self._unprepared and not self._is_preparing:
            self._can_prepare.notify()
        return batch

    def _wait_idly(self, limit_s: float | None = None) -> None:
        self._is_idle = True
        self._can_run.wait(limit_s)
        self._is_idle = False

    def _run(self, batch: list[Item[Request]]) -> None:
        tokens = sum(item.prepared.tokens for item in batch)
        begun = perf_counter()
        found = run_apart(self._model.run, batch, self._lower)
        end = perf_counter()
        with self._lock:
            self._running = set()
            self._pace.note(tokens, batch[-1].prepared.tokens, begun, end)
        ends: list[_End] = []
        for item, result in found:
            request = item.flow
            if isinstance(result, ModelrackError):
                ends.append((request, result))
                continue
            request.done[item.index] = Done(result, item.prepared.tokens)
            request.left -= 1
            if request.left == 0:
                ends.append((request, None))
        self._end(ends)

    def _lower(self, batch: Sequence[Item[Any]]) -> None:
        tokens = len(batch) * batch[-1].prepared.tokens
        log.warning("memory does not suffice for a batch of %d tokens", tokens)
        with self._lock:
            self._pace.lower(tokens)


def _tell(ends: Sequence[_End]) -> None:
    """On the event loop: give requests their results or errors, those that still wait."""
    for request, error in ends:
        if request.future.done():
            continue
        if error is None:
            request.future.set_result(request.done)
        else:
            request.future.set_exception(error)
