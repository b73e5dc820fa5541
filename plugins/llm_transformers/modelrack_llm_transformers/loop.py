"""The decode loop's frame: one thread that computes, and the event loop that it tells of it."""

import logging
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from queue import Empty, SimpleQueue

import torch

from modelrack.errors import EngineError, ModelrackError, NotReady

from .mailbox import Event, Mailbox
from .slots import Job

__all__ = ["Runner"]

log = logging.getLogger(__name__)

_PATIENCE = 3
"""So many steps in a row may fail before the engine counts as broken."""


class Runner(ABC):
    """Computes jobs step by step, in a thread of its own.

    Args:
        on_broken: called, in the loop's thread, when the engine has failed several times in a row.
    """

    def __init__(self, on_broken: Callable[[], None] | None = None) -> None:
        self.mailbox = Mailbox(self._count_out)
        self.in_flight = 0
        self.is_broken = False
        self._events: list[Event] = []
        self._inbox: SimpleQueue[Job | None] = SimpleQueue()
        self._failures = 0
        self._is_closing = False
        self._on_broken = on_broken
        self._thread = threading.Thread(target=self._run, name="decode", daemon=True)

    # On the event loop.

    def start(self) -> None:
        """Start the loop's thread."""
        self._thread.start()

    def submit(self, job: Job) -> None:
        """Queue a job."""
        self.in_flight += job.open
        self._inbox.put(job)

    def wake(self, job: Job) -> None:
        """Let the loop look at a job that was cancelled."""
        if job.open == 0:
            self.mailbox.close(job)
        self._inbox.put(job)

    def close(self, timeout_s: float) -> bool:
        """End the loop after its present step; what is under way fails. True if it has ended in time."""
        self._is_closing = True
        self._inbox.put(None)
        if self._thread.is_alive():
            self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def _count_out(self, job: Job) -> None:
        self.in_flight -= len(job.slots)

    # In the loop's thread.

    @abstractmethod
    def _take(self, job: Job) -> None:
        """Take in a new job."""

    @abstractmethod
    def _drop(self, job: Job) -> None:
        """Let go of those choices of a job that were cancelled, and that are not over; all of them if it has failed."""

    @abstractmethod
    def _has_work(self) -> bool:
        """Tell whether there is anything to compute."""

    @abstractmethod
    def _step(self) -> None:
        """Compute one step; what there is to tell goes to `self._events`."""

    @abstractmethod
    def _clear(self) -> Iterable[Job]:
        """Let go of everything, and return the jobs that were under way."""

    def _run(self) -> None:
        with torch.inference_mode():
            while not self._is_closing:
                try:
                    self._read_inbox(wait=not self._has_work())
                    self._step_once()
                except Exception as error:
                    log.exception("a step of the decode loop has failed")
                    self._fail_all(EngineError(f"The decode loop failed ({type(error).__name__}: {error})."))
                    self._count_failure()
                self._post()
            self._fail_all(NotReady("The model is stopping.", headers={"Retry-After": "1"}))
            self._post()

    def _step_once(self) -> None:
        if self._is_closing or not self._has_work():
            return
        failures = self._failures
        self._step()
        if self._failures == failures:
            self._failures = 0

    def _post(self) -> None:
        self.mailbox.post(self._events)
        self._events.clear()

    def _read_inbox(self, *, wait: bool) -> None:
        while wait or not self._inbox.empty():
            try:
                job = self._inbox.get(block=wait)
            except Empty:
                return
            wait = False
            if job is None:
                return
            is_new = all(slot.state == "new" for slot in job.slots)
            if is_new and not any(slot.is_cancelled for slot in job.slots):
                self._take(job)
            elif is_new and job.open and not job.is_read:
                self._take(job)
                self._drop(job)
            else:
                self._drop(job)

    def _fail(self, job: Job, error: ModelrackError) -> None:
        """End a job with an error."""
        if job.error is None:
            job.error = error
        for slot in job.slots:
            slot.is_cancelled = slot.is_cancelled or slot.state != "over"
        self._drop(job)
        self._events.append((job, -1, None, None))

    def _count_failure(self) -> None:
        self._failures += 1
        if self._failures >= _PATIENCE and not self.is_broken:
            self.is_broken = True
            self._fail_all(EngineError("The engine fails again and again; the worker ends."))
            if self._on_broken is not None:
                self._on_broken()

    def _fail_all(self, error: ModelrackError) -> None:
        jobs: dict[Job, None] = {}
        try:
            jobs.update(dict.fromkeys(self._clear()))
        except Exception:
            log.exception("what was under way could not be cleared away")
        while not self._inbox.empty():
            job = self._inbox.get()
            if job is not None:
                jobs[job] = None
        for job in jobs:
            for slot in job.slots:
                slot.state = "over"
            job.error = job.error or error
            self._events.append((job, -1, None, None))
