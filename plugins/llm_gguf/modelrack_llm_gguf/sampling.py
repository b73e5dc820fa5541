"""Chains of llama.cpp's samplers, one for each sequence."""

import ctypes
from collections.abc import Sequence

from modelrack.llm.contract import Sampling
from modelrack.llm.decoding import is_greedy

from . import bindings
from .bindings import Handle

__all__ = ["Chain"]

_QUICK_VOCABULARY = 40_000
"""Up to so many tokens, sampling takes less than handing over Python's lock."""


class Chain:
    """Chooses the tokens of one sequence, and remembers what it has chosen as far as its penalties need it.

    The order is llama.cpp's: bias, penalties, DRY, top_k, typical_p, top_p, min_p, temperature, choice.

    Args:
        n_ctx: tokens that penalties look back on.
        prompt: tokens that count for the repetition penalty and DRY; frequency and presence count those chosen here.
    """

    __slots__ = ("_context", "_handle", "_sample")

    def __init__(
        self,
        context: Handle,
        vocab: Handle,
        n_vocab: int,
        n_ctx: int,
        sampling: Sampling,
        seed: int,
        prompt: Sequence[int],
    ) -> None:
        self._context = context
        params = bindings.chain_params()
        params.no_perf = True
        self._handle: Handle = bindings.chain_init(params)
        add = self._add
        picks_best = is_greedy(sampling)
        if sampling.logit_bias:
            add(_bias(n_vocab, sampling))
        if sampling.repetition_penalty != 1:
            one = bindings.sampler_penalties(n_vocab, n_ctx, sampling.repetition_penalty, 0.0, 0.0)
            add(one)
            _accept(one, prompt, n_ctx)
        if sampling.frequency_penalty or sampling.presence_penalty:
            add(bindings.sampler_penalties(n_vocab, n_ctx, 1.0, sampling.frequency_penalty, sampling.presence_penalty))
        if sampling.dry_multiplier > 0:
            one = _dry(vocab, n_ctx, sampling)
            add(one)
            _accept(one, prompt, n_ctx)
        if picks_best:
            add(bindings.sampler_greedy())
        else:
            if sampling.top_k > 0:
                add(bindings.sampler_top_k(sampling.top_k))
            if sampling.typical_p < 1:
                add(bindings.sampler_typical(sampling.typical_p, 1))
            if sampling.top_p < 1:
                add(bindings.sampler_top_p(sampling.top_p, 1))
            if sampling.min_p > 0:
                add(bindings.sampler_min_p(sampling.min_p, 1))
            if sampling.temperature != 1:
                add(bindings.sampler_temperature(sampling.temperature))
            add(bindings.sampler_dist(seed))
        is_quick = n_vocab <= _QUICK_VOCABULARY or (picks_best and sampling.dry_multiplier <= 0)
        self._sample = bindings.sample_quick if is_quick else bindings.sample_slow

    def _add(self, sampler: Handle) -> None:
        bindings.chain_add(self._handle, sampler)

    def sample(self, row: int) -> int:
        """Choose the token that follows token `row` of the last batch, and remember it."""
        return self._sample(self._handle, self._context, row)  # type: ignore[no-any-return]

    def close(self) -> None:
        """Free it."""
        if self._handle:
            bindings.sampler_free(self._handle)
            self._handle = 0


def _accept(sampler: Handle, prompt: Sequence[int], n_ctx: int) -> None:
    accept = bindings.sampler_accept
    for token in prompt[-n_ctx:]:
        # Images stand in a prompt as negative numbers.
        if token >= 0:
            accept(sampler, token)


def _bias(n_vocab: int, sampling: Sampling) -> Handle:
    biases = (bindings.LogitBias * len(sampling.logit_bias))(*sampling.logit_bias.items())
    return bindings.sampler_bias(n_vocab, len(biases), ctypes.addressof(biases))  # type: ignore[no-any-return]


def _dry(vocab: Handle, n_ctx: int, sampling: Sampling) -> Handle:
    breakers = [text.encode() for text in sampling.dry_sequence_breakers]
    array = (ctypes.c_char_p * len(breakers))(*breakers)
    last = sampling.dry_penalty_last_n
    return bindings.sampler_dry(  # type: ignore[no-any-return]
        vocab,
        sampling.dry_multiplier,
        sampling.dry_base,
        sampling.dry_allowed_length,
        n_ctx if last < 0 else last,
        ctypes.addressof(array),
        len(breakers),
    )
