"""A small model that drafts tokens for a larger one, for all its sequences at once."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from modelrack.errors import LaunchFailed

from . import bindings
from .bindings import Batch, Handle
from .cache import common_prefix
from .logprobs import row_of
from .logs import Reasons

__all__ = ["DraftModel", "DraftSequence", "check_vocabulary", "load_draft_model"]

_PADDING = 128
"""Tokens by which two vocabularies may differ in size: sizes are rounded up differently for models of one family."""
_LEAST_PREFIX = 16
_NEW = 32
"""More tokens than this at once are a prompt, or what came while nothing was drafted."""


@dataclass(eq=False, slots=True)
class DraftSequence:
    """One of the draft model's sequences: what its cells hold, and how much of it is known to be right."""

    slot: int
    cells: list[int] = field(default_factory=list)
    checked: int = 0
    is_placed: bool = False
    is_text: bool = True


@dataclass(slots=True)
class _Job:
    """One draft in the making."""

    place: int
    sequence: DraftSequence
    limit: int
    row: int


class DraftModel:
    """Drafts greedily with a model of its own, whose cache follows the sequences' tokens by itself.

    It keeps what a finished sequence has left, and later sequences with the same beginning go on from there. Belongs to
    the thread that decodes.

    Args:
        model: llama.cpp's model; freed with this.
        context: its context, for `sequences` sequences.
        n_ctx: tokens that a sequence may have.
        n_batch: most tokens of one computation, at least as many as sequences.
        least_probability: less likely tokens end a draft.
    """

    def __init__(
        self, model: Handle, context: Handle, *, sequences: int, n_ctx: int, n_batch: int, least_probability: float
    ) -> None:
        self._model = model
        self._context = context
        self._memory: Handle = bindings.get_memory(context)
        self._n_vocab: int = bindings.vocab_size(bindings.model_vocab(model))
        self._n_ctx = n_ctx
        self._batch = Batch(n_batch)
        self._least_probability = least_probability
        # Layers with a sliding window forget what has left it: such a sequence cannot be cut back far.
        self._forgets = bindings.model_window(model) > 0
        # The one that was used longest ago first.
        self._idle = [DraftSequence(slot) for slot in range(sequences)]
        self._running: list[DraftSequence] = []
        self.has_read = False
        """Whether the last call had to read more than what was new since the one before."""

    def acquire(self) -> DraftSequence | None:
        """Take a sequence; None: all are in use."""
        if not self._idle:
            return None
        sequence = self._idle.pop(0)
        sequence.is_placed = False
        self._running.append(sequence)
        return sequence

    def release(self, sequence: DraftSequence) -> None:
        """Give a sequence back. What its cells hold stays for others until it is needed."""
        self._running.remove(sequence)
        self._idle.append(sequence)

    def draft(self, wanted: Sequence[tuple[DraftSequence, Sequence[int], int]]) -> list[list[int]]:
        """Return what may come after the tokens of each sequence, in this order.

        What a sequence does not have in its cells yet is computed first, at most `n_batch` tokens in one call: until
        that is done, its drafts are empty.

        Args:
            wanted: sequences, all their tokens and the most to draft, at least one.
        """
        drafts: list[list[int]] = [[] for _ in wanted]
        jobs, count = self._feed(wanted)
        while jobs or count:
            if not self._decode(count, [sequence for sequence, _, _ in wanted]):
                return [[] for _ in wanted]
            count = 0
            going_on = []
            for job in jobs:
                token = self._choose(job.row)
                if token is None:
                    continue
                draft = drafts[job.place]
                draft.append(token)
                if len(draft) < job.limit:
                    job.row = count
                    self._add(count, token, job.sequence, is_wanted=True)
                    going_on.append(job)
                    count += 1
            jobs = going_on
        return drafts

    def _feed(self, wanted: Sequence[tuple[DraftSequence, Sequence[int], int]]) -> tuple[list[_Job], int]:
        """Put what the sequences lack into the batch; returns the drafts that can begin after it, and its size."""
        self._place_one(wanted)
        self.has_read = False
        jobs = []
        count = 0
        for place, (sequence, tokens, limit) in enumerate(wanted):
            limit = min(limit, self._n_ctx - len(tokens))
            if limit < 1 or not sequence.is_placed or not sequence.is_text:
                continue
            self._follow(sequence, tokens)
            start = len(sequence.cells)
            end = min(len(tokens), start + self._batch.capacity - count - (len(wanted) - place - 1))
            for index in range(start, end):
                self._add(count, tokens[index], sequence, is_wanted=index == len(tokens) - 1)
                count += 1
            self.has_read |= end - start > _NEW
            sequence.checked = end
            if end == len(tokens):
                jobs.append(_Job(place, sequence, limit, count - 1))
        return jobs, count

    def _place_one(self, wanted: Sequence[tuple[DraftSequence, Sequence[int], int]]) -> None:
        """Give a new sequence the longest beginning that any other has.

        One in each call: choices of one prompt then find what the first of them has computed.
        """
        found = next(((sequence, tokens) for sequence, tokens, _ in wanted if not sequence.is_placed), None)
        if found is None:
            return
        sequence, tokens = found
        sequence.is_placed = True
        # What is no text stands in a prompt as negative numbers; only prompts have it.
        sequence.is_text = min(tokens) >= 0
        best, length = None, 0
        for other in (sequence, *self._idle, *self._running):
            same = common_prefix(other.cells, tokens, len(tokens) - 1)
            if same > length and (same == len(other.cells) or not self._forgets):
                best, length = other, same
        if best is not sequence:
            self._cut(sequence, 0)
            if best is not None and length >= _LEAST_PREFIX:
                bindings.memory_copy(self._memory, best.slot, sequence.slot, 0, length)
                sequence.cells = best.cells[:length]
        sequence.checked = 0

    def _follow(self, sequence: DraftSequence, tokens: Sequence[int]) -> None:
        """Cut off the cells that are not as the sequence's tokens; the last token is always computed anew."""
        cells = sequence.cells
        limit = min(len(cells), len(tokens) - 1)
        checked = min(sequence.checked, limit)
        if checked + 64 < limit:
            checked += common_prefix(cells[checked:limit], tokens[checked:limit], limit - checked)
        else:
            while checked < limit and cells[checked] == tokens[checked]:
                checked += 1
        if checked < len(cells):
            self._cut(sequence, checked)
        sequence.checked = checked

    def _cut(self, sequence: DraftSequence, length: int) -> None:
        # Recurrent models, which cannot be cut back, are refused when they are loaded.
        bindings.memory_remove(self._memory, sequence.slot, length, -1)
        del sequence.cells[length:]

    def _add(self, row: int, token: int, sequence: DraftSequence, *, is_wanted: bool) -> None:
        batch = self._batch
        batch.token[row] = token
        batch.position[row] = len(sequence.cells)
        batch.sequence[row] = sequence.slot
        batch.wanted[row] = is_wanted
        sequence.cells.append(token)

    def _decode(self, count: int, sequences: Sequence[DraftSequence]) -> bool:
        if bindings.decode(self._context, self._batch, count) == 0:
            return True
        # The cache is full. Drafts are not worth a search for room: all begin anew.
        for sequence in (*self._idle, *sequences):
            self._cut(sequence, 0)
            sequence.checked = 0
        return False

    def _choose(self, row: int) -> int | None:
        """Return the likeliest token after a row of the batch, or None if it is not likely enough."""
        logits = row_of(self._context, row, self._n_vocab)
        token = int(logits.argmax())
        if self._least_probability > 0:
            total = float(np.exp(logits - logits[token]).sum())
            if total * self._least_probability > 1:
                return None
        return token

    def free(self) -> None:
        """Free the model."""
        bindings.free_context(self._context)
        bindings.free_model(self._model)


def check_vocabulary(draft: Handle, target: Handle, path: str) -> None:
    """Refuse a draft model whose tokens are not those of the model it is to draft for.

    Args:
        draft, target: llama.cpp's vocabularies.
        path: of the draft model, for the message.

    Raises: LaunchFailed: they differ.
    """
    sizes = bindings.vocab_size(draft), bindings.vocab_size(target)
    reason = ""
    if abs(sizes[0] - sizes[1]) > _PADDING:
        reason = f"it has {sizes[0]} tokens, the model {sizes[1]}"
    elif bindings.vocab_type(draft) != bindings.vocab_type(target):
        reason = "its tokenizer is of another kind"
    else:
        text = bindings.vocab_text
        for token in range(min(sizes)):
            if text(draft, token) != text(target, token):
                reason = f"token {token} is {_quote(text(draft, token))}, the model's is {_quote(text(target, token))}"
                break
    if reason:
        raise LaunchFailed(
            f"The draft model {path} has another vocabulary than the model: {reason}.",
            remedy="Choose a smaller model of the same family as draft_model.",
        )


def _quote(text: bytes | None) -> str:
    return repr((text or b"").decode("utf-8", "replace"))


def load_draft_model(
    path: str,
    target: Handle,
    model_params: Any,
    context_params: Any,
    *,
    sequences: int,
    least_probability: float,
) -> DraftModel:
    """Load a draft model.

    Args:
        target: llama.cpp's vocabulary of the model it is to draft for.
        model_params: of llama.cpp, for loading.
        context_params: those of the model it is to draft for.
        sequences: to draft for at once.
        least_probability: less likely tokens end a draft.

    Raises: LaunchFailed: it cannot be loaded, or does not fit the model.
    """
    with Reasons() as reasons:
        model: Handle | None = bindings.load_model(os.fsencode(path), model_params)
    if not model:
        raise LaunchFailed(f"llama.cpp could not load the draft model {path}: {reasons.text('it gave no reason')}.")
    try:
        check_vocabulary(bindings.model_vocab(model), target, path)
        if bindings.model_is_recurrent(model) or bindings.model_is_hybrid(model):
            raise LaunchFailed(f"The draft model {path} is recurrent: what was drafted in vain cannot be taken back.")
        params = type(context_params).from_buffer_copy(context_params)
        params.n_seq_max = params.n_outputs_max = sequences
        with Reasons() as reasons:
            context: Handle | None = bindings.init_context(model, params)
        if not context:
            reason = reasons.text("it gave no reason")
            raise LaunchFailed(f"llama.cpp could not make a context for the draft model {path}: {reason}.")
    except BaseException:
        bindings.free_model(model)
        raise
    return DraftModel(
        model,
        context,
        sequences=sequences,
        n_ctx=min(params.n_ctx, bindings.model_trained_context(model)),
        n_batch=params.n_batch,
        least_probability=least_probability,
    )
