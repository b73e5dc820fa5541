"""Locally typical sampling as a logits processor of vLLM, which has none; imported by its processes alone.

vLLM has two model runners, with an interface each: the second, which it takes wherever there is Triton, refuses to
start with processors of the first. The class below is one of both.
"""

from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from vllm.v1.sample.logits_processor import AdapterLogitsProcessor
from vllm.v1.worker.gpu.sample.logits_processor.interface import LogitsProcessor

__all__ = ["TypicalP"]

_GREEDY = 1e-5
"""What vLLM takes for a temperature of 0."""


@dataclass(frozen=True, slots=True)
class _Wish:
    """What a request of the second runner asks for."""

    mass: float
    temperature: float
    top_k: int
    min_p: float


class TypicalP(AdapterLogitsProcessor, LogitsProcessor):  # type: ignore[misc, unused-ignore]
    """Cuts tokens off whose information is far from what is expected, for requests that carry a `typical_p`."""

    def __init__(self, vllm_config: Any, *given: Any) -> None:
        """Begin for a runner.

        Args:
            given: device and whether memory is pinned, by the first runner; the requests' state, by the second.
        """
        if len(given) > 1:
            super().__init__(vllm_config, *given)
        self._wishes: dict[int, _Wish] = {}

    # The first runner

    def is_argmax_invariant(self) -> bool:
        """Tell that greedy requests are left alone, as by the other cuts of what is sampled from."""
        return True

    def new_req_logits_processor(self, params: Any) -> Any:
        """Return what changes the logits of a request, or None."""
        mass = _mass(params)
        return None if mass is None else partial(_cut, mass, params.top_k)

    # The second runner

    def add_request(self, slot: int, params: Any) -> bool:
        """Note what a request asks for, in place of the one before in its slot; tell whether it is anything."""
        self._wishes.pop(slot, None)
        mass = _mass(params)
        if mass is None or params.temperature < _GREEDY:
            return False
        self._wishes[slot] = _Wish(mass, params.temperature, params.top_k, params.min_p)
        return True

    def apply(self, logits: torch.Tensor, context: Any = None) -> torch.Tensor:
        """Change the logits of the requests that want it, in place.

        Args:
            context: of the second runner; a row is a request's, since typical sampling is refused with drafts.
        """
        if context is None:
            changed: torch.Tensor = super().apply(logits)
            return changed
        for row, slot in enumerate(context.idx_mapping_np.tolist()):
            wish = self._wishes.get(slot)
            if wish is not None:
                _cut_unscaled(wish, logits[row])
        return logits


def _mass(params: Any) -> float | None:
    mass = (params.extra_args or {}).get("typical_p")
    return mass if mass is not None and mass < 1 else None


def _cut_unscaled(wish: _Wish, logits: torch.Tensor) -> None:
    """Cut logits, in place, before temperature and `min_p`, where the second runner puts processors."""
    scaled = logits / wish.temperature
    if wish.min_p > 0:
        probabilities = scaled.softmax(dim=-1)
        scaled.masked_fill_(probabilities < wish.min_p * probabilities.max(), float("-inf"))
    logits.masked_fill_(_cut(wish.mass, wish.top_k, [], scaled).isneginf(), float("-inf"))


def _cut(mass: float, top_k: int, output_ids: list[int], logits: torch.Tensor) -> torch.Tensor:
    """Keep the tokens closest to the entropy, as few as have this probability together, and at least one.

    Source: Meister et al., "Locally Typical Sampling", section 4.
    """
    if 0 < top_k < logits.numel():  # vLLM's own comes after this: what is typical is looked for among the likeliest
        logits = logits.masked_fill_(logits < logits.topk(top_k).values[-1], float("-inf"))
    logprobs = torch.log_softmax(logits, dim=-1)
    probabilities = logprobs.exp()
    # What has been ruled out has an infinite logarithm, and no part in the entropy.
    entropy = -torch.where(probabilities > 0, probabilities * logprobs, 0.0).sum()
    order = torch.argsort((-logprobs - entropy).abs())
    before = torch.cumsum(probabilities[order], dim=-1) - probabilities[order]
    is_cut = before >= mass
    is_cut[0] = False
    return logits.masked_fill_(torch.zeros_like(is_cut).scatter_(0, order, is_cut), float("-inf"))
