"""What an engine on llama.cpp says of models that embed and that rank, for its description."""

from collections.abc import Callable, Mapping
from typing import Final

from ..hooks.types import Candidate, LoadPlan, Machine, MemoryEstimate, Options
from .facts import refuse_embedding, refuse_ranking
from .options import EmbeddingOptions, PooledOptions

__all__ = ["POOLED_OPTIONS", "POOLED_TYPES", "accepts_gguf", "estimate_by_type"]

Estimate = Callable[[LoadPlan, Machine], MemoryEstimate | None]

POOLED_OPTIONS: Final[Mapping[str, type[Options]]] = {"embedding": EmbeddingOptions, "rerank": PooledOptions}
"""Options by type."""
POOLED_TYPES: Final = tuple(POOLED_OPTIONS)
_REFUSE: Final[Mapping[str, Callable[[Candidate], str | None]]] = {
    "embedding": refuse_embedding,
    "rerank": refuse_ranking,
}


def accepts_gguf(candidate: Candidate, machine: Machine) -> str | None:
    """Take every GGUF file, of any architecture, that does not say that it is for something else.

    What llama.cpp does not know, it says itself when it loads.
    """
    if candidate.variant.format != "gguf":
        return f"it runs GGUF files, not the format '{candidate.variant.format}'"
    refuse = _REFUSE.get(candidate.family.model_type)
    return None if refuse is None else refuse(candidate)


def estimate_by_type(estimate: Estimate) -> Estimate:
    """Return what estimates models of any type.

    Args:
        estimate: for those that write text.
    """

    def choose(plan: LoadPlan, machine: Machine) -> MemoryEstimate | None:
        if plan.family.model_type not in POOLED_TYPES:
            return estimate(plan, machine)
        from .memory import estimate as estimate_pooled

        return estimate_pooled(plan, machine)

    return choose
