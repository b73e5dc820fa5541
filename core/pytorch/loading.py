"""Loading under watch: how far it is, and why it failed, in one line."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import psutil

from ..errors import LaunchFailed, ModelrackError
from ..hooks.types import LoadPlan
from ..worker.contract import Report

__all__ = ["attempt", "telling"]

_TICK_S = 1.0

T = TypeVar("T")


def attempt(
    plan: LoadPlan,
    library: str,
    call: Callable[[], T],
    *,
    verb: str = "load",
    smaller: str = "with dtype float16 or bfloat16",
) -> T:
    """Return what `call` returns.

    Args:
        library: what loads the model, as the error shall name it.
        verb: what it could not do with the model.
        smaller: how the model is launched so that it takes less memory.

    Raises: LaunchFailed: it failed; says why, and what can be done about it if that is known.
    """
    try:
        return call()
    except ModelrackError:
        raise
    except Exception as error:
        if type(error).__name__ == "OutOfMemoryError":  # PyTorch's
            raise LaunchFailed(
                f"The memory of the device does not hold the model: {_line(error)}.",
                remedy=f"Launch it {smaller}, or on more accelerators (--n-gpu).",
            ) from error
        reason, remedy = _line(error), None
        if "trust_remote_code" in str(error):
            reason = "it comes with Python code of its own"
            remedy = "If you trust it, launch it with trust_remote_code=true; the server's operator must allow that."
        raise LaunchFailed(f"{library} could not {verb} {plan.files.path}: {reason}.", remedy=remedy) from error


def _line(error: Exception) -> str:
    text = str(error).strip().partition("\n")[0][:400].rstrip(".:")
    return text or type(error).__name__


@contextmanager
def telling(report: Report, weight_bytes: int, taken: Callable[[], int] | None = None) -> Iterator[None]:
    """Report how far loading has come, by the memory that it has taken.

    Args:
        weight_bytes: that will be loaded.
        taken: bytes on the device so far; None: main memory.
    """
    done = threading.Event()
    process = psutil.Process()
    before = process.memory_info().rss

    def taken_here() -> int:
        return int(process.memory_info().rss - before)

    count = taken or taken_here

    def watch() -> None:
        last = 0
        while not done.wait(_TICK_S):
            now = count()
            if now > last:
                last = now
                report(0.05 + 0.8 * min(1.0, now / max(weight_bytes, 1)), "loading the weights")

    watcher = threading.Thread(target=watch, name="progress", daemon=True)
    report(0.05, "loading the weights")
    watcher.start()
    try:
        yield
    finally:
        done.set()
        watcher.join()
