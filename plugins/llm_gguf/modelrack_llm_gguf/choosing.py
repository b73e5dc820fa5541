"""Chooses the tokens of a step out of its logits."""

import numpy as np

from modelrack.llm.contract import TokenLogprob
from modelrack.llm.decoding import Event, seed_of

from .bindings import Handle
from .context import Context
from .logprobs import LogprobRow
from .sampling import Chain
from .slots import Slot

__all__ = ["Chooser"]


class Chooser:
    """Samples, holds to constraints, and tells when a choice is over.

    Args:
        n_ctx: tokens that a sequence holds.
        end_ids: the model's end tokens.
        seed: for requests that bring none; None is a new one each time.
    """

    def __init__(
        self, context: Context, vocab: Handle, n_ctx: int, end_ids: frozenset[int], seed: int | None = None
    ) -> None:
        self._context = context
        self._vocab = vocab
        self._n_ctx = n_ctx
        self._end_ids = np.array(sorted(end_ids), dtype=np.intp)
        self._seed = seed
        self._rows: dict[int, LogprobRow] = {}

    def begin(self, slot: Slot) -> None:
        """Prepare a choice whose prompt has been read, if that is not done already."""
        if slot.chain is not None:
            return
        generation = slot.job.generation
        sampling = generation.sampling
        seed = seed_of(sampling, slot.index, self._seed)
        context = self._context
        slot.chain = Chain(context.handle, self._vocab, context.n_vocab, self._n_ctx, sampling, seed, slot.job.prompt)
        slot.careful = (
            slot.matcher is not None
            or generation.logprobs is not None
            or generation.ignore_eos
            or generation.min_tokens > 0
        )

    def choose(self, slot: Slot, row: int, events: list[Event]) -> bool:
        """Choose the token that follows row `row` of the batch; True: the choice is over.

        Raises: ModelrackError: the constraint cannot go on.
        """
        logprob: TokenLogprob | None = None
        chain = slot.chain
        assert chain is not None
        if slot.careful:
            found = self._choose_carefully(slot, chain, row)
            if found is None:
                events.append((slot, -1, None, "stop"))
                return True
            token, logprob = found
        else:
            token = chain.sample(row)
        return slot.take(token, logprob, events)

    def _choose_carefully(self, slot: Slot, chain: Chain, row: int) -> tuple[int, TokenLogprob | None] | None:
        generation = slot.job.generation
        logits = self._context.row(row)
        known: LogprobRow | None = None
        if generation.logprobs is not None:
            known = self._rows.get(row)
            if known is None:
                known = self._rows[row] = LogprobRow(logits, generation.logprobs)
        matcher = slot.matcher
        if matcher is not None and matcher.mask(logits):
            return None
        slot.bar_ends(logits, self._end_ids)
        token = chain.sample(row)
        if matcher is not None:
            matcher.accept(token)
        return token, known.of(token) if known is not None else None

    def read_prompt(self, slot: Slot, start: int, count: int, row: int) -> None:
        """Take the log probabilities of a prompt's tokens.

        Args:
            start: index of the first token that was computed, in row `row`.
        """
        job = slot.job
        known = job.prompt_logprobs
        assert known is not None
        top = job.generation.logprobs or 0
        for offset in range(count):
            index = start + offset + 1
            if index >= len(job.prompt):
                return
            if len(known) == index:
                logits = LogprobRow(self._context.row(row + offset), top)
                known.append(logits.of(job.prompt[index]))

    def forget_rows(self) -> None:
        """Hear that another batch comes."""
        if self._rows:
            self._rows.clear()
