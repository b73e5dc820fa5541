"""The decode loop's frame: one thread that computes, and the event loop that is told of it."""

import asyncio
import logging
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from queue import Empty, SimpleQueue
from typing import Any, Generic

from ...errors import EngineError, ModelrackError, NotReady
from .jobs import Event, Job, SlotT
from .mailbox import Mailbox

__all__ = ["DecodeLoop"]

log = logging.getLogger(__name__)

_PATIENCE = 3
"""So many steps in a row may fail before the engine counts as broken."""


class DecodeLoop(ABC, Generic[SlotT]):
    """Computes jobs step by step, in a thread of its own.

    An engine says what a step is; between two steps, jobs come in and cancelled choices leave, and what the step
    brought is handed to the event loop in one go. The states of a choice are the engine's to set, but for the first and
    the last (`new`, `over`).

    Args:
        on_broken: called, in the loop's thread, when the engine has failed several times in a row.
    """

    slot_type: type[SlotT]
    """The engine's kind of `Slot`."""

    def __init__(self, on_broken: Callable[[], None] | None = None) -> None:
        self.mailbox = Mailbox(self._count_out)
        self.in_flight = 0
        """Choices that run and wait; for the event loop."""
        self.is_broken = False
        self.events: list[Event] = []
        """What there is to tell; see `Slot.take`. Belongs to the loop's thread."""
        self._inbox: SimpleQueue[Job[SlotT] | None] = SimpleQueue()
        self._failures = 0
        self._is_closing = False
        self._on_broken = on_broken
        self._thread = threading.Thread(target=self.run, name="decode", daemon=True)

    # On the event loop.

    def start(self) -> None:
        """Start the loop's thread."""
        self._thread.start()

    def submit(self, job: Job[SlotT]) -> None:
        """Queue a job."""
        if self.mailbox.loop is None:
            self.mailbox.loop = asyncio.get_running_loop()
        self.in_flight += job.open
        self._inbox.put(job)

    def wake(self, job: Job[SlotT]) -> None:
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

    def _count_out(self, job: Job[Any]) -> None:
        self.in_flight -= len(job.slots)

    # What an engine does, in the loop's thread.

    @abstractmethod
    def take_in(self, job: Job[SlotT]) -> None:
        """Let a job wait for its turn: all of its choices, or the first alone, which reads the prompt for the others.

        Those that remain `new` are the engine's to begin later; some of them may have been cancelled meanwhile.
        """

    @abstractmethod
    def has_work(self) -> bool:
        """Tell whether there is anything to compute."""

    @abstractmethod
    def step(self) -> bool:
        """Compute a step; what there is to tell goes to `events`. True: it went well.

        A failure that the engine has dealt with itself is told by `count_failure` and False. After any exception, all
        that is under way fails.
        """

    @abstractmethod
    def leave(self, slot: SlotT, *, keep: bool) -> None:
        """Take a choice out, wherever it is, and set it `over`.

        Args:
            keep: what was computed of it is sound, and may serve others.
        """

    def inherit(self, slot: SlotT, heir: SlotT) -> None:
        """Let a `new` choice of a job take the place of one that was cancelled before the prompt was read.

        Only called where `take_in` leaves choices `new`.
        """
        raise NotImplementedError

    @abstractmethod
    def clear(self) -> Iterable[Job[SlotT]]:
        """Let go of everything, and return the jobs that were under way."""

    # What it can do there, beside computing.

    @property
    def is_closing(self) -> bool:
        """Tell whether the loop is to end."""
        return self._is_closing

    def post(self) -> None:
        """Hand over what there is to tell. Done after each step; a step may do so before it is over."""
        self.mailbox.post(self.events)
        self.events.clear()

    def fail(self, job: Job[SlotT], error: ModelrackError) -> None:
        """End a job with an error."""
        if job.error is None:
            job.error = error
        for slot in job.slots:
            if slot.state != "over":
                self.leave(slot, keep=False)
        self.events.append((job, -1, None, None))

    def count_failure(self) -> None:
        """Note that a step has failed; too many in a row, and everything fails."""
        self._failures += 1
        if self._failures >= _PATIENCE and not self.is_broken:
            self.is_broken = True
            self._fail_all(EngineError("The engine fails again and again; the worker ends."))
            if self._on_broken is not None:
                self._on_broken()

    def read_inbox(self, *, wait: bool) -> None:
        """Let jobs in, and cancelled choices out. Done between two steps; a long step may do so within.

        Args:
            wait: for one at least.
        """
        inbox = self._inbox
        while wait or not inbox.empty():
            try:
                job = inbox.get(block=wait)
            except Empty:
                return
            wait = False
            if job is None:
                return
            # What was cancelled before it was looked at is here twice.
            if job.open and not job.is_read and all(slot.state == "new" for slot in job.slots):
                self.take_in(job)
            self._drop_cancelled(job)

    # The frame itself.

    def run(self) -> None:
        """Compute until the loop is closed: all that its thread does. Derive it to have something around it."""
        while not self._is_closing:
            try:
                self.read_inbox(wait=not self.has_work())
                if self.has_work() and not self.is_closing and self.step():
                    self._failures = 0
            except Exception as error:
                log.exception("a step of the decode loop has failed")
                self._fail_all(EngineError(f"The decode loop failed ({type(error).__name__}: {error})."))
                self.count_failure()
            self.post()
        self._fail_all(NotReady("The model is stopping.", headers={"Retry-After": "1"}))
        self.post()

    def _drop_cancelled(self, job: Job[SlotT]) -> None:
        for slot in job.slots:
            if not slot.is_cancelled or slot.state == "over":
                continue
            heir = None if job.is_read or slot.state == "new" else job.next_waiting()
            if heir is None:
                self.leave(slot, keep=True)
            else:
                self.inherit(slot, heir)
                slot.state = "over"

    def _fail_all(self, error: ModelrackError) -> None:
        jobs: dict[Job[SlotT], None] = {}
        try:
            jobs.update(dict.fromkeys(self.clear()))
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
            self.events.append((job, -1, None, None))
