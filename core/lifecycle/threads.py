"""Run what blocks, and may never end, beside the event loop."""

import asyncio
import contextlib
import threading
from collections.abc import Callable
from typing import TypeVar

__all__ = ["in_thread"]

T = TypeVar("T")


def in_thread(work: Callable[[], T], *, name: str) -> "asyncio.Future[T]":
    """Run `work` in a thread of its own that keeps nobody from ending, and return its future.

    Unlike with `asyncio.to_thread`, the server can end while the work hangs; whoever stops waiting leaves it alone.
    """
    loop = asyncio.get_running_loop()
    future: asyncio.Future[T] = loop.create_future()

    def settle(value: T | None, error: BaseException | None) -> None:
        if future.done():
            return
        if error is not None:
            future.set_exception(error)
        else:
            future.set_result(value)  # type: ignore[arg-type]  # without an error it is what `work` returned

    def run() -> None:
        value: T | None = None
        error: Exception | None = None
        try:
            value = work()
        except Exception as caught:
            error = caught
        except BaseException as caught:  # a plugin may raise SystemExit; whoever waits must hear of that too
            error = RuntimeError(f"{type(caught).__name__}: {caught}")
        if isinstance(error, StopIteration):  # cannot be set on a future
            error = RuntimeError(f"StopIteration: {error}")
        with contextlib.suppress(RuntimeError):  # the loop has ended meanwhile
            loop.call_soon_threadsafe(settle, value, error)

    threading.Thread(target=run, name=name, daemon=True).start()
    return future
