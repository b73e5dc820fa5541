"""Log probabilities out of a model's raw logits."""

from collections.abc import Sequence

import torch
from torch import Tensor

from modelrack.llm.contract import TokenLogprob

__all__ = ["Logprobs"]


class Logprobs:
    """The log probabilities of some positions, and their likeliest tokens.

    Args:
        logits: of shape (positions, vocabulary), float32; may change afterwards.
        counts: likeliest tokens to find, by position.
    """

    def __init__(self, logits: Tensor, counts: Sequence[int]) -> None:
        self._all = torch.log_softmax(logits, -1)
        self._top: list[tuple[tuple[int, float], ...]] = [()] * len(counts)
        most = min(max(counts, default=0), logits.shape[-1])
        if most:
            found = self._all.topk(most, -1)
            values, tokens = found.values.tolist(), found.indices.tolist()
            for row, count in enumerate(counts):
                pairs = list(zip(tokens[row], values[row], strict=True))
                # Of equal ones the lower id comes first, as in a greedy choice.
                pairs.sort(key=lambda pair: (-pair[1], pair[0]))
                self._top[row] = tuple(pairs[:count])

    def of(self, tokens: Sequence[int]) -> list[TokenLogprob]:
        """Return what belongs to a token of each position."""
        wanted = torch.tensor(list(tokens), device=self._all.device)[:, None]
        values = self._all.gather(1, wanted)[:, 0].tolist()
        return [TokenLogprob(value, top) for value, top in zip(values, self._top, strict=True)]
