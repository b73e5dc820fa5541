"""An engine that counts: after a token comes the next greater one. It computes nothing, but all else is real."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from functools import partial
from threading import Semaphore
from typing import Any, TypeVar

from modelrack.errors import EngineError
from modelrack.llm.contract import ModelTraits, TokenLogprob
from modelrack.llm.decoding import DecodeLoop, DecodingModel, Job, Slot

__all__ = ["CountingLoop", "CountingModel", "make_model", "run", "until"]

T = TypeVar("T")
END = 250


async def until(holds: Callable[[], bool]) -> None:
    """Wait until something holds."""
    while not holds():
        await asyncio.sleep(0.0005)


class CountingLoop(DecodeLoop[Slot]):
    """Reads a prompt once for all choices of its job, a token in each step, and then counts on.

    Args:
        most: choices that run at once.
    """

    slot_type = Slot

    def __init__(self, on_broken: Callable[[], None] | None = None, *, most: int = 4) -> None:
        super().__init__(on_broken)
        self.most = most
        self.waiting: list[Slot] = []
        self.running: list[Slot] = []
        self.read: dict[Slot, int] = {}
        self.left: list[tuple[int, bool]] = []
        self.inherited = 0
        self.steps = 0
        self.faults: list[Exception] = []
        """Raised by the next steps."""
        self.doomed: Job[Slot] | None = None
        """Fails in the next step."""
        self.is_held = False
        self.is_at_gate = False
        self._permits = Semaphore(0)

    async def advance(self, steps: int) -> None:
        """Let a loop that is held compute so many steps, and what came meanwhile be looked at."""
        for _ in range(steps):
            await until(lambda: self.is_at_gate)
            count = self.steps
            self._permits.release()
            await until(partial(self._has_stepped, count))

    def _has_stepped(self, count: int) -> bool:
        return self.steps > count and (self.is_at_gate or not self.has_work())

    def let_go(self) -> None:
        """Hold the loop no longer."""
        self.is_held = False
        self._permits.release()

    def has_work(self) -> bool:
        return bool(self.waiting or self.running)

    def take_in(self, job: Job[Slot]) -> None:
        leader = job.next_waiting()
        if leader is not None:
            self._wait(leader)

    def _wait(self, slot: Slot) -> None:
        slot.state = "waiting"
        self.waiting.append(slot)

    def inherit(self, slot: Slot, heir: Slot) -> None:
        self.inherited += 1
        heir.state = slot.state
        queue = self.waiting if slot.state == "waiting" else self.running
        queue[queue.index(slot)] = heir
        self.read[heir] = self.read.pop(slot, 0)

    def leave(self, slot: Slot, *, keep: bool) -> None:
        for queue in (self.waiting, self.running):
            if slot in queue:
                queue.remove(slot)
        self.read.pop(slot, None)
        self.left.append((slot.index, keep))
        slot.state = "over"

    def clear(self) -> Iterable[Job[Slot]]:
        slots = [*self.waiting, *self.running]
        self.waiting.clear()
        self.running.clear()
        self.read.clear()
        return [slot.job for slot in slots]

    def step(self) -> bool:
        if self.is_held:
            self.is_at_gate = True
            self._permits.acquire(timeout=20)
            self.is_at_gate = False
        self.steps += 1
        if self.faults:
            raise self.faults.pop(0)
        if self.doomed is not None:
            self.fail(self.doomed, EngineError("it is too odd"))
            self.doomed = None
        while self.waiting and len(self.running) < self.most:
            slot = self.waiting.pop(0)
            slot.state = "running"
            self.running.append(slot)
        for slot in tuple(self.running):
            if slot.state == "running":
                self._go_on(slot)
        return True

    def _go_on(self, slot: Slot) -> None:
        job = slot.job
        if not job.is_read:
            self.read[slot] = self.read.get(slot, 0) + 1
            if self.read[slot] < len(job.prompt):
                return
            job.cached = 0
            job.is_read = True
            for twin in job.slots:
                if twin.state == "new" and not twin.is_cancelled:
                    self._wait(twin)
        logprob = TokenLogprob(-1.0) if job.generation.logprobs is not None else None
        if slot.take((slot.tokens[-1] + 1) % 256, logprob, self.events):
            self.leave(slot, keep=True)


CountingModel = DecodingModel[CountingLoop]


class Bytes:
    """A vocabulary of bytes."""

    def encode(self, text: str, *, add_special: bool, parse_special: bool) -> list[int]:
        return list(text.encode())

    def token_bytes(self, token: int) -> bytes:
        return bytes((token,))

    special_bytes = token_bytes

    def token_name(self, token: int) -> str:
        return str(token)


def make_model(
    on_broken: Callable[[], None] | None = None, *, most: int = 4, max_queue: int = 4, **more: Any
) -> CountingModel:
    loop = CountingLoop(on_broken, most=most)
    loop.start()
    traits = ModelTraits(n_ctx=64, n_vocab=256, end_ids=frozenset({END}))
    return DecodingModel(loop=loop, vocabulary=Bytes(), traits=traits, most=most, max_queue=max_queue, **more)


def run(model: CountingModel, scenario: Callable[[CountingModel], Awaitable[T]]) -> T:
    """Let a scenario use a model, and close it."""

    async def bounded() -> T:
        async with asyncio.timeout(20):
            return await scenario(model)

    try:
        return asyncio.run(bounded())
    finally:
        model.loop.let_go()
        model.close()
