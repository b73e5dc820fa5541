"""The decode loop: one thread that computes all sequences together, step by step."""

import logging
from collections import deque
from collections.abc import Callable, Iterable
from time import perf_counter
from typing import Any

from modelrack.errors import EngineError, ModelrackError
from modelrack.llm.decoding import DecodeLoop

from .cache import Cells, PrefixCache
from .choosing import Chooser
from .context import Context
from .filling import count_unread, draft_ahead, fill_part, fill_running, wants_prompt
from .pace import Pace
from .parts import Adapters, LoopCounters, Speculator, Vision
from .places import Places
from .slots import Job, Slot

__all__ = ["Scheduler"]

log = logging.getLogger(__name__)


class Scheduler(DecodeLoop[Slot]):
    """Runs the decode loop.

    Each step computes one token of every running sequence (or several, with drafts), and as much of the oldest prompts
    as `Pace` allows. Sequences wait in the order they came; when cells run out, idle beginnings go first, then the
    youngest sequence goes back to the head of the queue.

    Args:
        most: sequences that run at once.
        on_broken: called, in the loop's thread, when the engine has failed several times in a row.
    """

    slot_type = Slot

    def __init__(
        self,
        context: Context,
        chooser: Chooser,
        *,
        most: int,
        n_batch: int,
        n_outputs: int,
        cells: Cells,
        prefixes: PrefixCache,
        numbers: int,
        adapters: Adapters | None = None,
        speculator: Speculator | None = None,
        vision: Vision | None = None,
        on_broken: Callable[[], None] | None = None,
    ) -> None:
        super().__init__(on_broken)
        self.counters = LoopCounters()
        self._context = context
        self._chooser = chooser
        self._most = most
        self._n_batch = n_batch
        self._n_outputs = n_outputs
        self._pace = Pace(n_batch)
        self._places = Places(context, cells, prefixes, numbers)
        self._adapters = adapters
        self._speculator = speculator
        self._vision = vision
        self._waiting: deque[Slot] = deque()
        self._reading: list[Slot] = []
        self._running: list[Slot] = []
        self._images: list[Slot] = []
        self._ages = 0

    # What the frame of the loop asks for.

    def has_work(self) -> bool:
        """Tell whether any sequence is there."""
        return bool(self._running or self._reading or self._waiting)

    def take_in(self, job: Job) -> None:
        """Let a job's first choice wait; it reads the prompt for the others."""
        leader = job.next_waiting()
        if leader is not None:
            leader.state = "waiting"
            self._waiting.append(leader)

    def inherit(self, slot: Slot, heir: Slot) -> None:
        """Let another choice of the same job go on with what was read of the prompt."""
        heir.state = slot.state
        heir.age, heir.n_past, heir.number, heir.span = slot.age, slot.n_past, slot.number, slot.span
        slot.number, slot.span = -1, None
        queue: Any = self._waiting if heir.state == "waiting" else self._reading
        queue[queue.index(slot)] = heir

    def leave(self, slot: Slot, *, keep: bool) -> None:
        """End a sequence."""
        if slot.state == "running":
            self._running.remove(slot)
        elif slot.state == "reading":
            self._reading.remove(slot)
        elif slot.state == "waiting":
            self._waiting.remove(slot)
        slot.state = "over"
        self._places.leave(slot, keep=keep)
        self._close_speculation(slot)
        if slot.chain is not None:
            slot.chain.close()
            slot.chain = None

    def clear(self) -> Iterable[Job]:
        """End all sequences."""
        slots = (*self._running, *self._reading, *self._waiting)
        for slot in slots:
            try:
                self.leave(slot, keep=False)
            except Exception:
                log.exception("a sequence could not be cleared away")
        self._running, self._reading = [], []
        self._waiting.clear()
        self._images.clear()
        return dict.fromkeys(slot.job for slot in slots)

    def step(self) -> bool:
        """Compute a step: a token of every running sequence, and parts of prompts."""
        started = perf_counter()
        self._chooser.forget_rows()
        lora = self._choose_adapter()
        running = self._make_room(lora)
        if self._speculator is not None and running:
            room = min(self._places.cells.free, self._n_outputs, self._n_batch) - len(running)
            draft_ahead(self._speculator, running, room)
        sequences, count = len(running), fill_running(self._context.batch, running)
        parts, total = self._fill_reading(lora, running, count)
        is_sound = False
        if total:
            decoding = perf_counter()
            status = self._context.decode(total)
            decoded = perf_counter()
            if status != 0:
                is_sound = self._recover(status, running, parts)
            else:
                is_sound = True
                if self._speculator is not None and total == count:
                    self._speculator.learn(count, decoded - decoding)
                self._choose(running, parts)
            ended = perf_counter()
            counters = self.counters
            counters.steps += 1
            counters.prompt_tokens += total - count
            counters.decode_s += decoded - decoding
            counters.sample_s += ended - decoded
            self._places.charge(total)
        self._read_images()
        self.post()
        if total:
            now = perf_counter()
            self._pace.learn(sequences, total - count, now - started)
            counters.busy_s += now - started
        return is_sound

    def _choose_adapter(self) -> str | None:
        if self._adapters is None:
            return None
        work: dict[str | None, int] = {}
        for slot in (*self._running, *self._reading):
            work[slot.job.lora] = work.get(slot.job.lora, 0) + 1
        if self._waiting and len(self._running) + len(self._reading) < self._most:
            # Who comes next is let in on a turn of its own adapter, so that no long answer with another keeps it out.
            work.setdefault(self._waiting[0].job.lora, 1)
        name = self._adapters.choose(work) if work else None
        self._adapters.apply(self._context.handle, name)
        return name

    def _make_room(self, lora: str | None) -> list[Slot]:
        """Return the running sequences of this step, with a free cell for each of them."""
        while True:
            running = self._running
            if self._adapters is not None:
                running = [slot for slot in running if slot.job.lora == lora]
            if self._places.cells.free >= len(running) or self._places.make_room(len(running)):
                return running
            self._give_way(running[0])

    def _give_way(self, last: Slot) -> None:
        """Take the cells of the youngest sequence; of the only one, end it."""
        youngest = max((*self._running, *self._reading), key=lambda slot: slot.age)
        if len(self._running) + len(self._reading) > 1:
            self._preempt(youngest)
        elif youngest.state == "running":
            self.events.append((last, -1, None, "length"))
            self.leave(last, keep=False)
        else:
            self.fail(youngest.job, EngineError("The prompt does not fit into the cache."))

    def _preempt(self, slot: Slot) -> None:
        self.counters.preempted += 1
        (self._running if slot.state == "running" else self._reading).remove(slot)
        self._places.leave(slot, keep=False)
        self._close_speculation(slot)
        slot.state = "waiting"
        self._waiting.appendleft(slot)

    def _fill_reading(self, lora: str | None, running: list[Slot], count: int) -> tuple[list[tuple[Slot, int]], int]:
        """Put as much of the oldest prompts into the batch as this step may read.

        Returns: the sequences with the numbers of their tokens, and all tokens of the batch.
        """
        parts: list[tuple[Slot, int]] = []
        if not self._reading and not self._waiting:
            return parts, count
        unread = count_unread(self._reading, self._waiting, self._most - len(running))
        budget = min(self._pace.budget(len(running), *unread), self._n_batch - count)
        outputs = self._n_outputs - count
        reading = [slot for slot in self._reading if self._adapters is None or slot.job.lora == lora]
        while budget > 0 and outputs > 0:
            if reading:
                slot = reading.pop(0)
            else:
                admitted = self._admit(lora)
                if admitted is None:
                    break
                slot = admitted
            amount = self._next_part(slot, budget, outputs, count)
            if amount <= 0:
                if amount == 0:
                    break
                continue
            outputs -= fill_part(self._context.batch, slot, amount, count)
            parts.append((slot, amount))
            count += amount
            budget -= amount
        return parts, count

    def _next_part(self, slot: Slot, budget: int, outputs: int, count: int) -> int:
        """Return how many tokens of a prompt are computed next; 0: there is no room, -1: an image comes first."""
        tokens, start = slot.tokens, slot.n_past
        amount = min(len(tokens) - start, budget)
        media = slot.job.media
        if media is not None:
            end = start
            while end < start + amount and tokens[end] >= 0:
                end += 1
            amount = end - start
            if amount == 0:
                self._images.append(slot)
                return -1
        if wants_prompt(slot):
            amount = min(amount, outputs)
        cells = self._places.cells
        if cells.free < count + amount and not self._places.make_room(count + amount):
            amount = max(0, min(amount, cells.free - count))
            if amount == 0 and count == 0:
                self._give_way(slot)
        return amount

    def _admit(self, lora: str | None) -> Slot | None:
        """Let the first waiting sequence come in."""
        present = [*self._running, *self._reading]
        while self._waiting and len(present) < self._most:
            slot = self._waiting[0]
            if self._adapters is not None and slot.job.lora != lora and present:
                return None
            if not self._places.enter(slot, present):
                return None
            self._waiting.popleft()
            if slot.age == 0:
                self._ages += 1
                slot.age = self._ages
            if not slot.job.is_read:
                slot.job.cached = slot.n_past
                self.counters.cached_tokens += slot.n_past
            slot.state = "reading"
            self._reading.append(slot)
            return slot
        return None

    def _choose(self, running: list[Slot], parts: list[tuple[Slot, int]]) -> None:
        """Choose the tokens of a step."""
        places = self._places
        for slot in tuple(running):
            places.grow(slot, 1 + len(slot.draft))
            self._choose_for(slot)
        for slot, amount in parts:
            start = slot.n_past
            places.grow(slot, amount)
            if wants_prompt(slot):
                self._chooser.read_prompt(slot, start, amount, slot.row)
            if slot.n_past == len(slot.tokens):
                slot.row += amount - 1
                self._begin(slot)

    def _choose_for(self, slot: Slot) -> None:
        draft = slot.draft
        before = slot.generated
        is_over = False
        try:
            for step in range(len(draft) + 1):
                is_over = self._chooser.choose(slot, slot.row + step, self.events)
                if is_over or step == len(draft) or slot.tokens[-1] != draft[step]:
                    break
        except ModelrackError as error:
            self.fail(slot.job, error)
            return
        self.counters.tokens += slot.generated - before
        if draft:
            accepted = step
            slot.draft = []
            self._places.shrink(slot, len(draft) - accepted)
            slot.speculation.judge(len(draft), accepted)
        if is_over:
            self.leave(slot, keep=True)

    def _begin(self, slot: Slot) -> None:
        """Let a sequence run whose prompt has been read, and the other choices of its job with it."""
        job = slot.job
        self._reading.remove(slot)
        beginning = [slot]
        if not job.is_read:
            job.is_read = True
            later: list[Slot] = []
            for twin in job.slots:
                if twin.state != "new" or twin.is_cancelled:
                    continue
                has_place = len(self._running) + len(self._reading) + len(beginning) < self._most
                if has_place and not later and self._places.fork(slot, twin):
                    self._ages += 1
                    twin.age, twin.row = self._ages, slot.row
                    beginning.append(twin)
                else:
                    twin.state = "waiting"
                    later.append(twin)
            self._waiting.extendleft(reversed(later))
        for one in beginning:
            one.state = "running"
            self._running.append(one)
        for one in beginning:
            if one.state == "running":
                self._chooser.begin(one)
                if self._speculator is not None and job.media is None:
                    one.speculation = self._speculator.open(one.tokens)
                self._choose_for(one)

    def _read_images(self) -> None:
        """Compute the images that prompts have reached, each in a step of its own."""
        for slot in self._images:
            media, vision = slot.job.media, self._vision
            if slot.state != "reading" or media is None or vision is None:
                continue
            image = media.image_at(slot.n_past)
            budget = self._pace.budget(len(self._running))
            if not self._places.make_room(image.n_tokens if image.is_whole else min(budget, image.n_tokens)):
                self._give_way(slot)
                continue
            try:
                done = vision.decode(self._context.handle, image, slot.number, slot.n_past, budget)
            except ModelrackError as error:
                self.fail(slot.job, error)
                continue
            self._places.grow(slot, done)
        self._images.clear()

    def _recover(self, status: int, running: list[Slot], parts: list[tuple[Slot, int]]) -> bool:
        """Go on after a batch that could not be computed; True: some of it could."""
        slots = [*running, *(slot for slot, _ in parts)]
        for slot in slots:
            slot.draft = []
        if status == 1:
            # It finds no cells though they were counted as free; the engine has undone the batch.
            if not self._places.make_room(self._places.cells.free + 1):
                self._give_way(slots[0])
            return False
        log.error("llama_decode has failed with status %d for %d sequences", status, len(slots))
        for slot in slots:
            if not self._context.cut(slot.number, slot.position(slot.n_past)):
                self._preempt(slot)
        is_sound = False
        for slot in slots:
            if slot.state in ("running", "reading"):
                is_sound = self._compute_alone(slot) or is_sound
        if not is_sound:
            self.count_failure()
        return is_sound

    def _compute_alone(self, slot: Slot) -> bool:
        """Compute a sequence of a batch that has failed: only one that fails alone too (False) has its job end."""
        self._chooser.forget_rows()
        running, parts, count = [slot], [], 0
        if slot.state == "running":
            count = fill_running(self._context.batch, running)
        else:
            running = []
            count = min(len(slot.tokens) - slot.n_past, self._n_batch)
            while slot.job.media is not None and min(slot.tokens[slot.n_past : slot.n_past + count]) < 0:
                count -= 1
            if wants_prompt(slot):
                count = min(count, self._n_outputs)
            fill_part(self._context.batch, slot, count, 0)
            parts.append((slot, count))
        status = self._context.decode(count)
        if status == 0:
            self._choose(running, parts)
            return True
        self.fail(slot.job, EngineError(f"llama.cpp could not compute the next tokens (status {status})."))
        return False

    def _close_speculation(self, slot: Slot) -> None:
        slot.draft = []
        if slot.speculation is not None and self._speculator is not None:
            self._speculator.close(slot.speculation)
            slot.speculation = None
