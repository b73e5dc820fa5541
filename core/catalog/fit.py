"""Whether a replica fits into the memory at hand."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

from ..errors import ModelrackError
from ..hooks.types import Engine, LoadPlan, Machine, MemoryEstimate
from .memory import corrected, estimate_plainly, total_bytes

__all__ = ["Fit", "Measured", "Recall", "Reckoned", "expected", "fit_into", "readable", "reckon"]

log = logging.getLogger(__name__)

_SHARES = {"measured": 0.97, "files": 0.95, "size": 0.85}
"""Part of the free memory that weights and buffers may take: the less is known, the more is left over."""


class Measured(Protocol):
    """What a replica took once it was ready, as the store keeps it."""

    @property
    def host_bytes(self) -> int:
        """Return what it took in main memory."""

    @property
    def device_bytes(self) -> int:
        """Return what it took on its devices; 0 if that could not be told."""

    @property
    def estimated_bytes(self) -> int | None:
        """Return what had been estimated, in all."""


Recall = Callable[[Engine, LoadPlan], Measured | None]
"""Looks up what a replica of the same kind took before."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reckoned:
    """What a replica will need.

    Args:
        memory: None if nothing is known.
        basis: where this is from: a replica that ran before, the model's files, or its size alone.
        problem: why the engine says that it cannot be loaded into the memory at hand.
        remedy: what could be done about that.
    """

    memory: MemoryEstimate | None
    basis: Literal["measured", "files", "size", "unknown"] = "unknown"
    problem: str = ""
    remedy: str = ""


def reckon(engine: Engine, plan: LoadPlan, machine: Machine, measured: Measured | None = None) -> Reckoned:
    """Estimate what a replica will need, corrected by what was measured before. Never raises.

    Before a download (`plan.files.path` is empty) engines are asked all the same: they may know sizes by the facts.
    """
    memory: MemoryEstimate | None = None
    problem, remedy = "", ""
    try:
        memory = engine.estimate(plan, machine) if engine.estimate else None
    except ModelrackError as error:
        problem, remedy = error.message, error.remedy or ""
    except Exception as error:  # a plugin's mistake must not hide what is known without it
        log.log(logging.WARNING if plan.files.path else logging.DEBUG, "%s: estimate failed: %r", engine.name, error)
    if memory is None:
        memory = _plain(plan, machine)
    if memory is None:
        return Reckoned(memory=None, problem=problem, remedy=remedy)
    if measured is None:
        return Reckoned(memory=memory, basis="files" if plan.files.path else "size", problem=problem, remedy=remedy)
    exact = corrected(
        memory,
        measured.host_bytes,
        measured.device_bytes,
        measured.estimated_bytes,
        on_device=bool(plan.accelerators),
    )
    return Reckoned(memory=exact, basis="measured", problem=problem, remedy=remedy)


def _plain(plan: LoadPlan, machine: Machine) -> MemoryEstimate | None:
    try:
        return estimate_plainly(plan, machine)
    except (ModelrackError, OSError):  # files that cannot be read: loading them says what is wrong
        return None


def expected(
    engine: Engine, plan: LoadPlan, machine: Machine, measured: Measured | None = None
) -> MemoryEstimate | None:
    """Return what a replica will need, or None if that is unknown. Never raises."""
    return reckon(engine, plan, machine, measured).memory


@dataclass(frozen=True, slots=True, kw_only=True)
class Fit:
    """Whether replicas fit.

    Args:
        reckoned: what one of them needs.
        fits: None if nothing is known.
        reason: one clause, with figures.
        lacking_host_bytes: of main memory, that is needed and not free.
        lacking_device_bytes: of the devices' memory.
    """

    reckoned: Reckoned = field(default_factory=lambda: Reckoned(memory=None))
    fits: bool | None = None
    reason: str = "what it needs is not known"
    lacking_host_bytes: int = 0
    lacking_device_bytes: int = 0


def fit_into(reckoned: Reckoned, machine: Machine, accelerators: Sequence[int], replicas: int = 1) -> Fit:
    """Compare what replicas need with what is free where they would run.

    Args:
        accelerators: indices of the devices that they share; empty: main memory.
    """
    memory = reckoned.memory
    if memory is None:
        if reckoned.problem:
            return Fit(reckoned=reckoned, fits=False, reason=_clause(reckoned.problem))
        return Fit(reckoned=reckoned)
    free_device = sum(device.memory_free_bytes for device in machine.accelerators if device.index in accelerators)
    free_host = machine.memory_free_bytes
    on_device = bool(accelerators)
    host = replicas * memory.host_bytes
    device = replicas * (total_bytes(memory) - memory.host_bytes)
    cache = replicas * memory.cache_bytes
    share = _SHARES[reckoned.basis]
    if on_device:
        lacking_device, lacking_host = _lacking(device, cache, free_device, share), _lacking(host, 0, free_host, share)
    else:
        lacking_device, lacking_host = 0, _lacking(host + device, cache, free_host, share)
    fits = not (lacking_device or lacking_host)
    if fits and reckoned.problem:  # the engine knows better
        return Fit(reckoned=reckoned, fits=False, reason=_clause(reckoned.problem))
    needed, free, where = (device, free_device, " on its devices") if on_device else (host + device, free_host, "")
    if lacking_host and not lacking_device and on_device:
        needed, free, where = host, free_host, " in main memory"
    return Fit(
        reckoned=reckoned,
        fits=fits,
        reason=f"needs {'' if reckoned.basis == 'measured' else 'about '}{readable(needed)} of the {readable(free)} "
        f"that are free{where}" + (", too tight for an estimate" if not fits and needed <= free else ""),
        lacking_host_bytes=lacking_host,
        lacking_device_bytes=lacking_device,
    )


def _lacking(needed: int, cache: int, free: int, share: float) -> int:
    """Return the bytes that are lacking. What is not cache may be more than reckoned; the size of a cache is chosen."""
    return max(0, needed - free, int((needed - cache) / share) - free)


def _clause(message: str) -> str:
    return message[:1].lower() + message[1:].rstrip(".")


def readable(count: int) -> str:
    """Return bytes as people read them: in MiB or GiB."""
    return f"{count / (1 << 30):.2f} GiB" if count >= 1 << 30 else f"{count / (1 << 20):.1f} MiB"
