"""Log probabilities out of a model's raw logits."""

import ctypes

import numpy as np
from numpy.typing import NDArray

from modelrack.llm.contract import TokenLogprob

from . import bindings
from .bindings import Handle

__all__ = ["Floats", "LogprobRow", "row_of"]

Floats = NDArray[np.float32]


def row_of(context: Handle, row: int, n_vocab: int) -> Floats:
    """Return the logits that follow token `row` of the last batch: llama.cpp's own memory, valid until the next."""
    address = bindings.logits_row(context, row)
    return np.ctypeslib.as_array((ctypes.c_float * n_vocab).from_address(address))


class LogprobRow:
    """The log probabilities of one position, and its likeliest tokens.

    Args:
        logits: may change afterwards.
        count: likeliest tokens to find.
    """

    __slots__ = ("_logits", "_top", "_total")

    def __init__(self, logits: Floats, count: int) -> None:
        peak = logits.max()
        self._logits = logits.astype(np.float64)
        self._total = float(peak) + float(np.log(np.exp(self._logits - peak).sum()))
        self._top: tuple[tuple[int, float], ...] = ()
        if count:
            count = min(count, len(logits))
            found = np.argpartition(logits, -count)[-count:]
            # Of equal ones the lower id comes first, as in a greedy choice.
            order = np.lexsort((found, -self._logits[found]))
            self._top = tuple((int(token), self._of(int(token))) for token in found[order])

    def _of(self, token: int) -> float:
        return float(self._logits[token]) - self._total

    def of(self, token: int) -> TokenLogprob:
        """Return what belongs to a token."""
        return TokenLogprob(self._of(token), self._top)
