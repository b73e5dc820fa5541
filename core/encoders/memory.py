"""How much memory a replica will take, as the server reckons it before it starts."""

from ..catalog.memory import estimate_encoder
from ..hooks.types import LoadPlan, Machine, MemoryEstimate
from ..pytorch import expected_dtype
from .options import batch_tokens

__all__ = ["estimate"]


def estimate(plan: LoadPlan, machine: Machine) -> MemoryEstimate | None:
    """Estimate what a replica with `EncoderOptions` will take; None: nothing is known of the model."""
    return estimate_encoder(
        plan,
        machine,
        batched_tokens=batch_tokens(plan.options, on_cpu=not plan.accelerators),
        dtype=expected_dtype(plan, machine),
    )
