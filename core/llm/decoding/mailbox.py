"""From the decode loop to the event loop: what a step brought, with one wake-up, and less where it lags behind."""

import asyncio
import logging
from collections.abc import Callable
from contextlib import suppress
from threading import Lock
from typing import Any

from ...errors import EngineError
from .jobs import Event, Job, Slot

__all__ = ["Mailbox"]

log = logging.getLogger(__name__)


class Mailbox:
    """Delivers events to their listeners, on the event loop.

    Args:
        over: hears of each choice that is over, on the event loop.
    """

    def __init__(self, over: Callable[[Job[Any]], None]) -> None:
        self.loop: asyncio.AbstractEventLoop | None = None
        self._over = over
        self._lock = Lock()
        self._events: list[Event] = []

    def post(self, events: list[Event]) -> None:
        """Hand over what a step brought; called by the decode loop."""
        if not events:
            return
        with self._lock:
            is_awake = bool(self._events)
            self._events += events
        if not is_awake and self.loop is not None:
            # A loop that is closed has nobody left to tell.
            with suppress(RuntimeError):
                self.loop.call_soon_threadsafe(self._deliver)

    def _deliver(self) -> None:
        with self._lock:
            events, self._events = self._events, []
        touched: dict[Slot, None] = {}
        failed: list[Job[Any]] = []
        for owner, token, logprob, reason in events:
            if isinstance(owner, Job):
                failed.append(owner)
                continue
            if token >= 0:
                owner.inbox.append(token)
                if logprob is not None:
                    owner.logprob_inbox.append(logprob)
            if reason is not None:
                owner.reason = reason
            touched[owner] = None
        for slot in touched:
            if not slot.job.is_over and not slot.is_cancelled:
                try:
                    self._tell(slot)
                except Exception:
                    log.exception("a listener has failed: request %s", slot.job.generation.request_id)
                    slot.job.error = EngineError("The answer could not be put together; see the worker's log.")
                    self._fail(slot.job)
                    slot.job.cancel()
        for job in failed:
            self._fail(job)

    def _tell(self, slot: Slot) -> None:
        job = slot.job
        listener = job.listener
        if not job.is_begun:
            job.is_begun = True
            listener.begin(len(job.prompt), job.cached or 0, job.prompt_logprobs)
        if slot.inbox:
            tokens, slot.inbox = slot.inbox, []
            if job.generation.logprobs is None:
                listener.take(slot.index, tokens, None)
            else:
                logprobs, slot.logprob_inbox = slot.logprob_inbox, []
                listener.take(slot.index, tokens, logprobs)
        if slot.reason is not None and not slot.is_cancelled:
            slot.is_told = True
            job.open -= 1
            if job.open == 0:
                self._close(job)
            listener.end(slot.index, slot.reason, slot.generated)

    def _fail(self, job: Job[Any]) -> None:
        if job.is_over:
            return
        self._close(job)
        try:
            job.listener.fail(job.error or EngineError("The engine gave no reason."))
        except Exception:
            log.exception("a listener has failed: request %s", job.generation.request_id)

    def _close(self, job: Job[Any]) -> None:
        job.is_over = True
        self._over(job)

    def close(self, job: Job[Any]) -> None:
        """Hear, on the event loop, that nobody waits for a job any more."""
        if not job.is_over:
            self._close(job)
