"""Continuous batching: each step takes a token of every running sequence, and parts of new prompts."""

import logging
from collections.abc import Callable, Iterable, Sequence
from itertools import count
from typing import Any

import torch
from torch import Tensor

from modelrack.errors import EngineError, LaunchFailed

from .choosing import Chooser
from .loop import Runner
from .paged import Paged, Row
from .slots import Job, Slot

__all__ = ["ContinuousRunner", "check"]

log = logging.getLogger(__name__)

_TOLERANCES = {torch.float32: 1e-3, torch.float16: 0.02, torch.bfloat16: 0.1}
"""How far logits over the paged cache may be from the plain ones, as a share of these."""


class ContinuousRunner(Runner):
    """Runs jobs over a paged cache.

    A job's first choice reads the prompt; the others share what it has read. A choice is a request of the paged cache,
    under the id that is its `place`.

    Args:
        most: sequences computed together.
    """

    def __init__(
        self, paged: Paged, chooser: Chooser, *, most: int, on_broken: Callable[[], None] | None = None
    ) -> None:
        super().__init__(on_broken)
        self._paged = paged
        self._chooser = chooser
        self._most = most
        self._ids = count()
        self._owners: dict[str, Slot] = {}
        self._wants_all: set[str] = set()

    def has_work(self) -> bool:
        """Tell whether any choice is there."""
        return bool(self._owners)

    def take_in(self, job: Job) -> None:
        """Let a job's first choice read the prompt for the others."""
        slot = job.next_waiting()
        if slot is not None:
            self._queue(slot)

    def _queue(self, slot: Slot) -> None:
        """Let a choice wait for its turn to read what it has of tokens."""
        job = slot.job
        place = self._open(slot)
        wants_all = job.prompt_logprobs is not None and not job.is_read
        self._paged.add(place, slot.tokens, salt=job.generation.cache_salt, shares=not wants_all)
        if wants_all:
            self._wants_all.add(place)

    def _open(self, slot: Slot) -> str:
        place = slot.place = str(next(self._ids))
        slot.state = "running"
        self._owners[place] = slot
        return place

    def inherit(self, slot: Slot, heir: Slot) -> None:
        """Let another choice of the same job go on with what was read of the prompt."""
        heir.place, slot.place = slot.place, None
        heir.state = slot.state
        self._owners[heir.place] = heir

    def leave(self, slot: Slot, *, keep: bool) -> None:
        """End a choice. What was read of its prompt is kept in any case: only whole pages are, which are sound."""
        slot.state = "over"
        place, slot.place = slot.place, None
        if place is not None and self._owners.pop(place, None) is not None:
            self._wants_all.discard(place)
            self._paged.remove(place)

    def clear(self) -> Iterable[Job]:
        """Let go of everything, and of the cache: it may be broken."""
        jobs = [slot.job for slot in self._owners.values()]
        self._owners.clear()
        self._wants_all.clear()
        self._paged.clear()
        return jobs

    def step(self) -> bool:
        """Compute a step; if it fails, those that were in it fail."""
        try:
            found = self._paged.step(frozenset(self._wants_all))
        except Exception as error:
            batch = [self._owners[place] for place in self._paged.batch() if place in self._owners]
            if not batch:
                raise
            log.exception("a step over %d sequences has failed", len(batch))
            for job in dict.fromkeys(slot.job for slot in batch):
                self.fail(job, EngineError(f"The next tokens could not be computed ({type(error).__name__})."))
            self.count_failure()
            return False
        if found is None:
            raise EngineError("The scheduler has work, and does none of it.")
        self._choose(*found)
        return True

    def _choose(self, rows: Sequence[Row], logits: Tensor) -> None:
        groups: list[list[Slot]] = []
        places: list[int] = []
        for row in rows:
            slot = self._owners[row.request_id]
            job = slot.job
            if not job.is_read:
                self._hear_of_reading(slot, row, logits)
            if row.last >= 0:
                group = [slot, *self._twins(job)]
                job.is_read = True
                groups.append(group)
                places += [row.last] * len(group)
        if not groups:
            return
        slots = [slot for group in groups for slot in group]
        is_all = places == list(range(logits.shape[0]))
        over = self._chooser.choose(slots, logits if is_all else logits[places], self.events)
        ended = {slot for slot, is_over in zip(slots, over, strict=True) if is_over}
        for group in groups:
            self._advance(group[0], group[1:], ended)

    def _hear_of_reading(self, slot: Slot, row: Row, logits: Tensor) -> None:
        """Note what a step has read of a prompt."""
        job = slot.job
        if job.cached is None:
            job.cached = row.start
        if slot.place in self._wants_all:
            self._chooser.read_prompt(slot, logits[row.first : row.first + row.count], row.start)
            if row.last >= 0:
                self._wants_all.discard(slot.place)

    def _twins(self, job: Job) -> list[Slot]:
        """Return the choices that begin where their job's prompt has been read."""
        if job.is_read:
            return []
        return [slot for slot in job.slots if slot.state == "new" and not slot.is_cancelled]

    def _advance(self, leader: Slot, twins: Sequence[Slot], ended: set[Slot]) -> None:
        """Go on by the tokens that were chosen; end the choices that are over.

        Args:
            twins: choices that begin with the same step.
        """
        job = leader.job
        if job.error is not None:
            self.fail(job, job.error)
            return
        for twin in twins:
            if twin in ended:
                twin.state = "over"
        begun = [twin for twin in twins if twin not in ended]
        if begun:
            self._fork(leader, begun)
        if leader in ended:
            self.leave(leader, keep=True)
        else:
            self._paged.advance(leader.place, leader.tokens[-1])

    def _fork(self, leader: Slot, twins: Sequence[Slot]) -> None:
        """Let choices go on from the prompt that another has read; those without a place read it themselves later."""
        room = max(0, self._most - self._paged.count)
        wanted = {self._open(twin): twin for twin in twins[:room]}
        forked = self._paged.fork(leader.place, [(place, twin.tokens[-1]) for place, twin in wanted.items()])
        for place, twin in wanted.items():
            if place not in forked:
                del self._owners[place]
                self._queue(twin)
        for twin in twins[room:]:
            self._queue(twin)


def check(model: Any, make: Callable[[], Paged]) -> Paged:
    """Return what `make` makes, if the model's answers over it are those without it.

    Raises: LaunchFailed: they are not. Anything else: the architecture does not allow it.
    """
    size = model.config.get_text_config().vocab_size
    generator = torch.Generator().manual_seed(0)
    texts = [torch.randint(size, (length,), generator=generator).tolist() for length in (21, 5)]
    with torch.inference_mode():
        plain = [model(torch.tensor([text], device=model.device), use_cache=False).logits[0].float() for text in texts]
        paged = make()
        worst = max(_deviations(paged, texts, plain))
        paged.clear()
    if not worst <= _TOLERANCES.get(model.dtype, 0.1):
        raise LaunchFailed(f"its answers over a paged cache deviate by {worst:.2g}")
    return paged


def _deviations(paged: Paged, texts: Sequence[Sequence[int]], plain: Sequence[Tensor]) -> Iterable[float]:
    """Yield by how much logits deviate: of prompts read together, and of tokens after them."""
    heads = [len(text) - 2 for text in texts]
    for index, (text, head) in enumerate(zip(texts, heads, strict=True)):
        paged.add(str(index), list(text[:head]), salt=None, shares=False)
    for step in range(3):
        found = paged.step(frozenset(str(index) for index in range(len(texts))) if step == 0 else frozenset())
        assert found is not None
        for row in found[0]:
            index = int(row.request_id)
            wanted = plain[index][row.start : row.start + row.count]
            got = found[1][row.first : row.first + row.count] if row.first >= 0 else found[1][row.last][None]
            yield float((got - wanted[-got.shape[0] :]).norm() / wanted.norm())
            if step < 2:
                paged.advance(row.request_id, texts[index][heads[index] + step])
