"""The life of a Python worker's process: load, answer, drain, close."""

import asyncio
import logging
import os
import signal
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any, NoReturn

import orjson

from ..errors import ModelrackError, NotReady
from .contract import Job, Loader
from .host import Host, render_error
from .http import HttpServer
from .lease import watch_lease
from .validation import import_dotted

__all__ = ["run_worker"]

log = logging.getLogger(__name__)

_FAILED_S = 1.0
"""How long a worker whose load failed keeps telling why, if nobody asks."""
_BUGS = (ArithmeticError, AssertionError, AttributeError, LookupError, NameError, TypeError)
"""Errors whose text alone says little: `KeyError('x')` is `'x'`."""
_LEASE_GRACE_S = 5.0
"""How long a worker without a lease may take to close."""


class Worker:
    """One worker: its state, and the steps from one to the next. Everything but the load happens on the event loop."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self.loop = asyncio.get_running_loop()
        self.loader: Loader | None = None
        self.state = "loading"
        self.progress = 0.0
        self.stage = "starting"
        self.reports = 0
        self.error: str | None = None
        self.remedy: str | None = None
        self.facts: Mapping[str, Any] = {}
        self.stopping = asyncio.Event()
        self.expired = False
        plan = job.plan
        self.host = Host(
            plan.model_uid, job.routes, self.status, plan.request_defaults, plan.feature_engines, job.files
        )
        self.server = HttpServer(self.host.serve, render_error, job.max_body_bytes)

    def status(self) -> dict[str, Any]:
        """Return the answer to `GET /_worker/status`."""
        return {
            "model_uid": self.job.plan.model_uid,
            "replica_id": self.job.replica_id,
            "incarnation": self.job.incarnation,
            "pid": os.getpid(),
            "state": self.state,
            "progress": self.progress,
            "stage": self.stage,
            "reports": self.reports,
            "error": self.error,
            "remedy": self.remedy,
            "routes": self.host.served,
            "active": self.host.counters.active,
            "facts": dict(self.facts),
        }

    def report(self, progress: float, stage: str) -> None:
        """Take a sign of life of the load; called from any thread."""
        self.progress = min(max(float(progress), 0.0), 1.0)
        self.stage = stage
        self.reports += 1

    def catch_signals(self) -> None:
        """Take SIGTERM as "stop". SIGINT too, where a person runs the worker in a terminal; else it is ignored."""
        for number in (signal.SIGTERM, signal.SIGINT):
            self.loop.remove_signal_handler(number)
        self.loop.add_signal_handler(signal.SIGTERM, self.stopping.set)
        if sys.stdin is not None and sys.stdin.isatty():
            self.loop.add_signal_handler(signal.SIGINT, self.stopping.set)
        else:
            signal.signal(signal.SIGINT, signal.SIG_IGN)

    def watch_lease(self) -> None:
        """End this process when the server no longer renews its lease, even if the event loop hangs."""
        if self.job.lease is None:
            return

        def expire() -> None:
            print("modelrack.worker: the lease has expired, the server is gone", file=sys.stderr, flush=True)
            self.expired = True
            with suppress(RuntimeError):
                self.loop.call_soon_threadsafe(self.stopping.set)
            time.sleep(_LEASE_GRACE_S)
            os._exit(1)

        watch_lease(self.job.lease, self.job.lease_s, expire)

    async def run(self, sock: socket.socket) -> int:
        """Live; return the exit code."""
        self.catch_signals()
        self.watch_lease()
        await self.server.start(sock)
        loaded = await self._or_stop(_in_thread(self._load, name="load"))
        if loaded is None:
            # The load cannot be interrupted; the process ends around it.
            return 1 if self.expired else 0
        if loaded.exception() is not None:
            return await self._fail(loaded.exception())
        # Native libraries install handlers of their own while they load (xllamacpp 2 does).
        self.catch_signals()
        self.state, self.progress, self.stage = "ready", 1.0, "ready"
        self.host.open()
        await self.stopping.wait()
        return await self._stop()

    async def _or_stop(self, work: "asyncio.Future[None]") -> "asyncio.Future[None] | None":
        """Wait for the work, or for a stop that comes before it is done (None)."""
        stop = asyncio.ensure_future(self.stopping.wait())
        futures: list[asyncio.Future[Any]] = [work, stop]
        await asyncio.wait(futures, return_when=asyncio.FIRST_COMPLETED)
        stop.cancel()
        return work if work.done() else None

    def _load(self) -> None:
        path = self.job.loader
        self.report(0.0, "importing")
        loader: Loader = import_dotted(path)(self.job.plan)
        self.loader = loader
        self.report(0.0, "loading")
        loaded: Any = loader.load(self.report)
        made = list(loaded.values()) if isinstance(loaded, Mapping) else [None]
        if any(isinstance(handler, type) or not callable(handler) for handler in made):
            raise TypeError(f"{path}.load must return handlers by ability, such as {{'chat': Chat()}}, not {loaded!r}")
        self.host.bind(loaded)
        # What cannot be told as JSON is a failure of the load, not of every answer to "how are you".
        self.facts = orjson.loads(orjson.dumps(dict(loader.describe()), default=str))

    async def _fail(self, error: BaseException | None) -> int:
        assert error is not None
        if isinstance(error, ModelrackError):
            reason, self.remedy = error.message, error.remedy
        else:
            traceback.print_exception(error)
            reason = str(error) or type(error).__name__
            if isinstance(error, _BUGS):
                reason = f"{type(error).__name__}: {error}"
        self.error = " ".join(reason.split())
        self.state = "failed"
        self.host.refuse(NotReady(f"Model '{self.job.plan.model_uid}' could not be loaded: {self.error}"))
        self.host.polled.clear()
        with suppress(TimeoutError):
            await asyncio.wait_for(self.host.polled.wait(), _FAILED_S)
        self.server.drain()
        with suppress(TimeoutError):
            await asyncio.wait_for(self.server.closed(), _FAILED_S)
        # Last, so that a native library's own output cannot come after it.
        print(self.error, file=sys.stderr, flush=True)
        return 1

    async def _stop(self) -> int:
        self.state, self.stage = "stopping", "stopping"
        self.host.refuse(NotReady(f"Model '{self.job.plan.model_uid}' is stopping.", headers={"Retry-After": "1"}))
        self.server.drain()
        if not self.expired:
            await self.host.idle.wait()
            await self.server.closed()
        if self.loader is not None:
            try:
                await _in_thread(self.loader.close, name="close")
            except Exception:
                log.exception("closing the model failed")
        return 1 if self.expired else 0


def _in_thread(work: Callable[[], None], *, name: str) -> "asyncio.Future[None]":
    """Run `work` in a thread that does not keep the process from ending, and return its future."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[None] = loop.create_future()

    def settle(error: BaseException | None) -> None:
        if not future.done():
            future.set_exception(error) if error is not None else future.set_result(None)

    def run() -> None:
        error: BaseException | None = None
        try:
            work()
        except BaseException as caught:
            # SystemExit and the like must also be told; StopIteration cannot be set on a future.
            error = caught if isinstance(caught, Exception) and not isinstance(caught, StopIteration) else None
            error = error or RuntimeError(f"{type(caught).__name__}: {caught}")
        with suppress(RuntimeError):
            loop.call_soon_threadsafe(settle, error)

    threading.Thread(target=run, name=name, daemon=True).start()
    return future


def run_worker(job: Job, sock: socket.socket) -> NoReturn:
    """Run a worker on a bound socket until it is told to stop, and end the process."""

    async def main() -> int:
        return await Worker(job).run(sock)

    # The runner is not closed, nor is the interpreter: both would wait for threads of the engine that may never end.
    _exit(asyncio.Runner(loop_factory=_new_loop).run(main()))


def _new_loop() -> asyncio.AbstractEventLoop:
    try:
        import uvloop
    except ImportError:
        return asyncio.new_event_loop()
    return uvloop.new_event_loop()


def _exit(code: int) -> NoReturn:
    logging.shutdown()
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            stream.flush()
    os._exit(code)
