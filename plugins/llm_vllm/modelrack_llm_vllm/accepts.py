"""Which forms of models vLLM runs on which machines, and how well."""

from functools import lru_cache
from pathlib import Path

from modelrack.hooks import Candidate, Machine

__all__ = ["accepts", "rank"]

_ON_ACCELERATORS = ("pytorch", "awq", "gptq", "fp8", "bnb", "fp4")
_ON_CPUS = ("pytorch", "awq", "gptq")
_KINDS = ("cuda", "rocm")
_CPUS = ("x86_64", "aarch64")
_HIGH, _LOW = 80, 10
"""It serves many at once on GPUs as nothing else does; on CPUs it is slow to start, and large."""


def accepts(candidate: Candidate, machine: Machine) -> str | None:
    """Return None if vLLM takes the candidate on this machine, else why not.

    Architectures that it does not list itself may still run by way of Transformers: vLLM says so when it loads them.
    """
    if machine.platform != "linux":
        return "it runs on Linux only"
    form = candidate.variant.format
    if form not in _ON_ACCELERATORS:
        return f"it does not read the format '{form}'"
    if not _has_accelerator(machine):
        if machine.architecture not in _CPUS:
            return f"its build for CPUs knows no {machine.architecture}"
        if form not in _ON_CPUS:
            return f"it runs the format '{form}' on CUDA and ROCm only"
    names = candidate.family.architectures
    if names and all(name in _removed() for name in names):
        return f"it no longer runs the architecture {names[0]}"
    return None


def rank(candidate: Candidate, machine: Machine) -> int:
    """Return how much it is preferred on this machine."""
    return _HIGH if _has_accelerator(machine) else _LOW


def _has_accelerator(machine: Machine) -> bool:
    return any(one.kind in _KINDS for one in machine.accelerators)


@lru_cache(maxsize=1)
def _removed() -> frozenset[str]:
    """Return the architectures that earlier versions of vLLM ran, and 0.32 refuses; source: its registry of models."""
    return frozenset(Path(__file__).with_name("removed.txt").read_text().split())
