"""The threads that llama.cpp's blocking calls run in, and what each of them is given to do."""

from collections.abc import Callable
from queue import SimpleQueue
from threading import Lock, Thread
from time import monotonic
from typing import Protocol

__all__ = ["Sink", "Threads", "Work"]

Method = Callable[[bytes, Callable[[bytes], bool]], object]
"""One of the engine's calls: blocks until the answer is complete, and gives each event to the callback."""


class Sink(Protocol):
    """Takes the events of one call, in one of the threads."""

    @property
    def is_cancelled(self) -> bool:
        """Tell whether nobody waits for the answer any more."""

    def feed(self, event: bytes) -> bool:
        """Take an event; True stops the call."""

    def end(self, error: BaseException | None) -> None:
        """Hear that the call is over; called once."""


class Work:
    """One call to make."""

    __slots__ = ("body", "method", "sink")

    def __init__(self, method: Method, body: bytes, sink: Sink) -> None:
        self.method = method
        self.body = body
        self.sink = sink


class Threads:
    """A pool of threads, started as they are needed.

    The engine wakes all callers for every event it has for any one (one condition variable, llama.cpp's
    `server_response`), and a call that waits for a free slot inside cannot be cancelled: so only few more calls are
    made than there are slots, and the rest wait here.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._queue: SimpleQueue[Work | None] = SimpleQueue()
        self._threads: list[Thread] = []
        self._lock = Lock()
        self._open = 0
        self._is_closed = False

    def submit(self, work: Work) -> None:
        """Have a call made as soon as a thread is free; its sink hears the end in any case."""
        with self._lock:
            self._open += 1
            if self._open > len(self._threads) < self._limit:
                thread = Thread(target=self._run, name=f"llama-{len(self._threads)}", daemon=True)
                self._threads.append(thread)
                thread.start()
        self._queue.put(work)

    def close(self, timeout_s: float) -> bool:
        """Let the threads end after what they are doing; True if all have ended in time."""
        self._is_closed = True
        for _ in self._threads:
            self._queue.put(None)
        deadline = monotonic() + timeout_s
        for thread in self._threads:
            thread.join(max(0.0, deadline - monotonic()))
        return not any(thread.is_alive() for thread in self._threads)

    def _run(self) -> None:
        get = self._queue.get
        while True:
            work = get()
            if work is None:
                return
            error: BaseException | None = None
            sink = work.sink
            try:
                if not (sink.is_cancelled or self._is_closed):
                    work.method(work.body, sink.feed)
            except BaseException as caught:
                error = caught
            with self._lock:
                self._open -= 1
            sink.end(error)
            # The next wait may be long: keep nothing of this request alive meanwhile.
            del work, sink, error
