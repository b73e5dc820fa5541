"""How single tokens are drawn: seeds, biases, penalties, and cuts of what may be chosen."""

from collections import Counter
from collections.abc import Sequence
from random import Random

import torch
from torch import Tensor

from modelrack.llm.contract import Sampling
from modelrack.llm.decoding import COLD, is_greedy

__all__ = ["Sampler", "cut", "draw"]

_HEAD = 1024
"""Likeliest tokens that are looked at first where `top_p` or `min_p` cut: sorting a whole vocabulary takes long."""


class Sampler:
    """What one choice is sampled with.

    The order is that of Transformers: bias, penalties, temperature, top_k, top_p, min_p, typical_p.

    Args:
        prompt: tokens that count for the repetition penalty; frequency and presence count those chosen here.
    """

    __slots__ = ("_bias", "_counts", "_device", "_random", "_seen", "adjusts", "is_greedy", "is_plain", "sampling")

    def __init__(self, sampling: Sampling, seed: int, prompt: Sequence[int], device: torch.device) -> None:
        self.sampling = sampling
        self.is_greedy = is_greedy(sampling)
        self.is_plain = sampling.top_k <= 0 and sampling.top_p >= 1 and sampling.min_p <= 0 and sampling.typical_p >= 1
        self._random = Random(seed)
        self._device = device
        self._bias: tuple[Tensor, Tensor] | None = None
        if sampling.logit_bias:
            self._bias = (
                torch.tensor(list(sampling.logit_bias), device=device),
                torch.tensor(list(sampling.logit_bias.values()), dtype=torch.float32, device=device),
            )
        # Images stand in a prompt as tokens of their own, which no answer has.
        self._seen = set(prompt) if sampling.repetition_penalty != 1 else None
        counts = sampling.frequency_penalty or sampling.presence_penalty
        self._counts: Counter[int] | None = Counter() if counts else None
        self.adjusts = self._bias is not None or self._seen is not None or self._counts is not None

    def next_float(self) -> float:
        """Return the next random number, at least 0 and below 1."""
        return self._random.random()

    def adjust(self, logits: Tensor) -> None:
        """Add biases and penalties to the logits of one position, in place."""
        if self._bias is not None:
            tokens, values = self._bias
            logits[tokens] += values
        sampling = self.sampling
        if self._seen:
            tokens = torch.tensor(list(self._seen), device=self._device)
            values = logits[tokens]
            penalty = sampling.repetition_penalty
            logits[tokens] = torch.where(values > 0, values / penalty, values * penalty)
        if self._counts:
            tokens = torch.tensor(list(self._counts), device=self._device)
            counts = torch.tensor(list(self._counts.values()), dtype=torch.float32, device=self._device)
            logits[tokens] -= counts * sampling.frequency_penalty + sampling.presence_penalty

    def accept(self, token: int) -> None:
        """Hear of the token that was chosen."""
        if self._seen is not None:
            self._seen.add(token)
        if self._counts is not None:
            self._counts[token] += 1


def draw(logits: Tensor, samplers: Sequence[Sampler]) -> list[int]:
    """Draw one token from each row of logits; the rows may change.

    Args:
        logits: of shape (len(samplers), vocabulary), float32.
    """
    device = logits.device
    # float32 would lose tokens of small probability in a long sum; MPS has nothing better.
    exact = torch.float32 if device.type == "mps" else torch.float64
    temperatures = torch.tensor([one.sampling.temperature for one in samplers], dtype=torch.float32, device=device)
    scaled = logits.div_(temperatures.clamp_(min=COLD)[:, None])
    points = torch.tensor([one.next_float() for one in samplers], dtype=exact, device=device)
    if all(one.is_plain for one in samplers):
        found: list[int] = _pick(torch.softmax(scaled, -1), points).tolist()
        return found
    probabilities, tokens = cut(scaled, [one.sampling for one in samplers])
    places = _pick(probabilities, points)
    found = tokens.gather(1, places[:, None])[:, 0].tolist()
    return found


def _pick(probabilities: Tensor, points: Tensor) -> Tensor:
    """Return the column at which each row's sum of probabilities passes its point's share of the whole."""
    sums = probabilities.to(points.dtype).cumsum(-1)
    wanted = points * sums[:, -1]
    # The first column whose sum is greater: a token of no probability is never chosen.
    places = torch.searchsorted(sums, wanted[:, None], right=True)[:, 0]
    return places.clamp_(max=probabilities.shape[-1] - 1)


def cut(scaled: Tensor, samplings: Sequence[Sampling]) -> tuple[Tensor, Tensor]:
    """Return the probabilities of what is left to choose from, likeliest first, and the tokens they belong to."""
    size = scaled.shape[-1]
    device = scaled.device
    limits = torch.tensor([one.top_k if 0 < one.top_k < size else size for one in samplings], device=device)
    shares = torch.tensor([one.top_p for one in samplings], dtype=torch.float32, device=device)
    # A typical cut looks at everything that is left; the others only at the likeliest.
    count = min(size, max((one.top_k if one.top_k > 0 else _HEAD) for one in samplings))
    if any(one.typical_p < 1 and one.top_k <= 0 for one in samplings):
        count = size
    totals = scaled.logsumexp(-1, keepdim=True)
    while True:
        values, tokens = scaled.topk(count, -1)
        probabilities = (values - totals).exp_()
        if count == size or _is_enough(probabilities, limits, samplings):
            break
        count = size
    columns = torch.arange(count, device=device)[None, :]
    kept = probabilities.masked_fill_(columns >= limits[:, None], 0)
    kept = kept / _whole(kept, limits, size, count)
    before = kept.cumsum(-1) - kept
    kept = kept.masked_fill_((before >= shares[:, None]) & (columns > 0) & (shares[:, None] < 1), 0)
    floors = torch.tensor([one.min_p for one in samplings], dtype=torch.float32, device=device)
    kept = kept.masked_fill_((kept < floors[:, None] * kept[:, :1]) & (columns > 0), 0)
    if any(one.typical_p < 1 for one in samplings):
        kept = _typical(kept, [one.typical_p for one in samplings])
    return kept, tokens


def _whole(kept: Tensor, limits: Tensor, size: int, count: int) -> Tensor:
    """Return what the probabilities of each row are divided by: their sum where `top_k` has cut the others away."""
    sums = kept.sum(-1, keepdim=True)
    return torch.where((limits <= count)[:, None] & (limits < size)[:, None], sums, torch.ones_like(sums))


def _is_enough(probabilities: Tensor, limits: Tensor, samplings: Sequence[Sampling]) -> bool:
    """Tell whether nothing that is left to choose from lies beyond these columns."""
    count = probabilities.shape[-1]
    sums, last = probabilities.sum(-1).tolist(), probabilities[:, -1].tolist()
    first = probabilities[:, 0].tolist()
    for row, (one, limit) in enumerate(zip(samplings, limits.tolist(), strict=True)):
        by_count = limit <= count
        by_share = one.top_p < 1 and sums[row] >= one.top_p
        by_floor = one.min_p > 0 and last[row] < one.min_p * first[row]
        if not (by_count or by_share or by_floor):
            return False
    return True


def _typical(kept: Tensor, masses: Sequence[float]) -> Tensor:
    """Leave of each row the tokens whose surprise is nearest to the expected one, up to a share of the whole.

    Source: Meister et al., "Locally Typical Sampling" (2022), section 3.
    """
    shares = torch.tensor(masses, dtype=torch.float32, device=kept.device)[:, None]
    whole = kept / kept.sum(-1, keepdim=True)
    surprise = -whole.log()
    expected = torch.where(whole > 0, whole * surprise, torch.zeros_like(whole)).sum(-1, keepdim=True)
    order = (surprise - expected).abs().nan_to_num_(nan=torch.inf).argsort(dim=-1, stable=True)
    ordered = whole.gather(1, order)
    before = ordered.cumsum(-1) - ordered
    ordered = ordered.masked_fill_((before >= shares) & (shares < 1), 0)
    return torch.zeros_like(kept).scatter_(1, order, ordered)
