"""Locally typical sampling as a logits processor of vLLM, which has none; imported by its engine's process alone."""

from functools import partial
from typing import Any

import torch
from vllm.v1.sample.logits_processor import AdapterLogitsProcessor

__all__ = ["TypicalP"]


class TypicalP(AdapterLogitsProcessor):  # type: ignore[misc, unused-ignore]
    """Cuts tokens off whose information is far from what is expected, for requests that carry a `typical_p`."""

    def is_argmax_invariant(self) -> bool:
        """Tell that greedy requests are left alone, as by the other cuts of what is sampled from."""
        return True

    def new_req_logits_processor(self, params: Any) -> Any:
        """Return what changes the logits of a request, or None."""
        wanted = (params.extra_args or {}).get("typical_p")
        return partial(_cut, wanted, params.top_k) if wanted is not None and wanted < 1 else None


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
