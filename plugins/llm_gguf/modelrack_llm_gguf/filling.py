"""Decides what is drafted ahead, counts what is to be read, and writes tokens into a batch."""

from collections.abc import Iterable
from itertools import chain, islice
from typing import Any

from .bindings import Batch
from .parts import Speculator
from .slots import Slot

__all__ = ["count_unread", "draft_ahead", "fill_part", "fill_running", "wants_prompt"]


def count_unread(reading: Iterable[Slot], waiting: Iterable[Slot], places: int) -> tuple[int, int]:
    """Return how many sequences are read or could be let in now, and how many tokens they still have to read.

    Args:
        places: sequences that there is a place for, beside those that run.
    """
    coming = list(islice(chain(reading, waiting), max(0, places)))
    return len(coming), sum(len(slot.tokens) - slot.n_past for slot in coming)


def draft_ahead(speculator: Speculator, running: list[Slot], room: int) -> None:
    """Have tokens drafted for the sequences of a step.

    Args:
        room: most tokens that may be drafted in all.
    """
    wanted: list[tuple[Any, int]] = []
    slots = []
    for slot in running:
        slot.draft = []
        limit = min(room, slot.job.limit - slot.generated - 1)
        if slot.speculation is not None and limit > 0:
            wanted.append((slot.speculation, limit))
            slots.append(slot)
    for slot, proposed in zip(slots, speculator.propose(wanted) if wanted else (), strict=True):
        draft = proposed[:room]
        if slot.matcher is not None and draft:
            draft = draft[: slot.matcher.valid(draft)]
        slot.draft = draft
        room -= len(draft)


def fill_running(batch: Batch, running: list[Slot]) -> int:
    """Put the last token of each sequence into the batch, with what was drafted after it; returns how many tokens."""
    token, position, sequence, wanted = batch.token, batch.position, batch.sequence, batch.wanted
    row = 0
    for slot in running:
        slot.row = row
        place, number = slot.n_past + slot.shift, slot.number
        token[row] = slot.tokens[-1]
        position[row] = place
        sequence[row] = number
        wanted[row] = 1
        row += 1
        for drafted in slot.draft:
            place += 1
            token[row] = drafted
            position[row] = place
            sequence[row] = number
            wanted[row] = 1
            row += 1
    return row


def fill_part(batch: Batch, slot: Slot, amount: int, row: int) -> int:
    """Put tokens of a prompt into the batch; returns how many rows of logits they take."""
    start, end = slot.n_past, row + amount
    slot.row = row
    token: Any = batch.token
    position: Any = batch.position
    token[row:end] = slot.tokens[start : start + amount]
    if slot.job.media is None:
        position[row:end] = range(start, start + amount)
    else:
        position[row:end] = [slot.position(index) for index in range(start, start + amount)]
    batch.sequence[row:end] = [slot.number] * amount
    is_last = start + amount == len(slot.tokens)
    if wants_prompt(slot):
        batch.wanted[row:end] = [1] * amount
        return amount
    batch.wanted[row:end] = [0] * amount
    if is_last:
        batch.wanted[end - 1] = 1
    return int(is_last)


def wants_prompt(slot: Slot) -> bool:
    """Tell whether log probabilities of the prompt are still to be had."""
    known = slot.job.prompt_logprobs
    return known is not None and len(known) < len(slot.job.prompt)
