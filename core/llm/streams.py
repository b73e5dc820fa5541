"""Chunks from listeners to the host, on one event loop."""

import asyncio
from collections import deque
from collections.abc import Callable

__all__ = ["ChunkStream"]


class ChunkStream:
    """An endless-until-closed stream of chunks with one consumer; both sides are on the event loop.

    The consumer is woken once for all that a step brings. It is not bounded: the limit of tokens is.

    Args:
        on_leave: called when the consumer goes away before the end.
    """

    __slots__ = ("_error", "_is_closed", "_items", "_on_leave", "_waiter")

    def __init__(self, on_leave: Callable[[], None]) -> None:
        self._items: deque[bytes] = deque()
        self._waiter: asyncio.Future[None] | None = None
        self._is_closed = False
        self._error: BaseException | None = None
        self._on_leave = on_leave

    def put(self, chunk: bytes) -> None:
        """Add a chunk."""
        self._items.append(chunk)
        waiter = self._waiter
        if waiter is not None:
            self._waiter = None
            if not waiter.done():
                waiter.set_result(None)

    def close(self, error: BaseException | None = None) -> None:
        """End the stream after what was put so far; the consumer then sees the end, or the error."""
        if self._is_closed:
            return
        self._is_closed = True
        self._error = error
        waiter = self._waiter
        if waiter is not None:
            self._waiter = None
            if not waiter.done():
                waiter.set_result(None)

    def __aiter__(self) -> "ChunkStream":
        return self

    async def __anext__(self) -> bytes:
        items = self._items
        while not items:
            if self._is_closed:
                if self._error is not None:
                    raise self._error
                raise StopAsyncIteration
            waiter = self._waiter = asyncio.get_running_loop().create_future()
            try:
                await waiter
            except asyncio.CancelledError:
                await self.aclose()
                raise
        return items.popleft()

    async def aclose(self) -> None:
        """Go away: what is there is dropped, and the engine's work stops."""
        self._items.clear()
        if not self._is_closed:
            self._is_closed = True
            self._on_leave()
