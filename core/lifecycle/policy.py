"""Decisions of the lifecycle as pure functions: restart delay, stalls, placement, progress."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

from ..errors import BadRequest, InsufficientMemory
from ..hooks.types import Accelerator, Machine, MemoryEstimate

__all__ = [
    "Reserved",
    "StartLimits",
    "check_room",
    "device_bytes",
    "less_reserved",
    "overall_progress",
    "place",
    "reserve",
    "restart_delay_s",
    "start_verdict",
]

Reserved: TypeAlias = Mapping[int | None, int]
"""Bytes that replicas are about to take, by index of the accelerator; None is main memory."""

STABLE_S = 60.0
"""Seconds of readiness after which earlier failures no longer count."""


REFUSED_ABOVE = 1.5
"""Times the room on the devices that an estimate must exceed before a launch is refused for it: it is an estimate."""

_SHARES = {"environment": 4.0, "download": 4.0, "load": 1.0}
"""How long the parts of a launch take, in proportion, where they are needed at all."""


@dataclass(frozen=True, slots=True)
class StartLimits:
    """How long a start may take.

    Args:
        stall_s: without any progress.
        limit_s: in all.
    """

    stall_s: float
    limit_s: float


def restart_delay_s(failures: int) -> float:
    """Return how long to wait before the next start, after this many failures in a row (1 or more)."""
    return min(30.0, 0.1 * 4.0 ** (failures - 1))


def start_verdict(now: float, started: float, last_progress: float, limits: StartLimits) -> str | None:
    """Return why a start has to be given up, naming the limit and its knob, or None. Times in seconds, one clock."""
    if now - last_progress > limits.stall_s:
        return (
            f"the start made no progress for {limits.stall_s:g} s "
            "(MODELRACK_START_STALL_S sets this limit); its log may say why"
        )
    if now - started > limits.limit_s:
        return f"the start took longer than {limits.limit_s:g} s (MODELRACK_START_LIMIT_S sets this limit)"
    return None


def overall_progress(download: float | None, load: float, environment: float | None = None) -> float:
    """Return the progress of a launch, 0 to 1, from that of its parts; None is a part that is not needed."""
    parts = {"environment": environment, "download": download, "load": load}
    done = {name: part for name, part in parts.items() if part is not None}
    return sum(_SHARES[name] * part for name, part in done.items()) / sum(_SHARES[name] for name in done)


def device_bytes(estimate: MemoryEstimate) -> int:
    """Return what an estimate counts on the devices that the model runs on; the CPU is one."""
    return estimate.weights_bytes + estimate.cache_bytes + estimate.overhead_bytes


def reserve(estimates: Iterable[tuple[Sequence[int], MemoryEstimate]]) -> dict[int | None, int]:
    """Return what replicas will take that are still loading, from the accelerators and the estimate of each."""
    reserved: dict[int | None, int] = {}
    for chosen, estimate in estimates:
        reserved[None] = reserved.get(None, 0) + estimate.host_bytes + (0 if chosen else device_bytes(estimate))
        for index in chosen:
            reserved[index] = reserved.get(index, 0) + device_bytes(estimate) // len(chosen)
    return reserved


def less_reserved(machine: Machine, reserved: Reserved) -> Machine:
    """Return the machine with what is free now less what others are about to take of it."""
    return replace(
        machine,
        memory_free_bytes=max(0, machine.memory_free_bytes - reserved.get(None, 0)),
        accelerators=tuple(
            replace(device, memory_free_bytes=_room(device, reserved)) for device in machine.accelerators
        ),
    )


def check_room(
    machine: Machine, chosen: Sequence[int], estimate: MemoryEstimate | None, reserved: Reserved
) -> str | None:
    """Compare what a replica is expected to need with what there is; returns a warning, or None.

    Args:
        chosen: indices of its accelerators; empty means the CPU alone.
        reserved: what others are about to take.

    Raises: InsufficientMemory: it needs much more than the accelerators chosen have free.
    """
    if estimate is None:
        return None
    warnings = []
    host = estimate.host_bytes
    if chosen:
        need = device_bytes(estimate)
        free = sum(_room(device, reserved) for device in machine.accelerators if device.index in chosen)
        names = f"GPU {', '.join(map(str, chosen))}"
        if need > REFUSED_ABOVE * free:
            raise InsufficientMemory(
                f"The model is expected to need {_gb(need)} on {names}, and {_gb(free)} are free there.",
                param="gpu_idx",
                remedy="Take a smaller size or quantization, more GPUs (n_gpu), or the CPU (n_gpu null), or terminate "
                "other models.",
            )
        if need > free:
            warnings.append(f"it is expected to need {_gb(need)} on {names}, and {_gb(free)} are free there")
    else:
        host += device_bytes(estimate)
    free = max(0, machine.memory_free_bytes - reserved.get(None, 0))
    if host > free:
        warnings.append(f"it is expected to need {_gb(host)} of main memory, and {_gb(free)} are free")
    return "; ".join(warnings) or None


def _room(device: Accelerator, reserved: Reserved) -> int:
    return max(0, device.memory_free_bytes - reserved.get(device.index, 0))


def _gb(amount: int) -> str:
    return f"{amount / 1e9:.1f} GB"


def place(
    machine: Machine,
    n_gpu: int | str | None,
    gpu_idx: Sequence[int] | None,
    reserved: Reserved | None = None,
) -> tuple[int, ...]:
    """Choose the accelerators of one replica; the ones with most room first.

    Args:
        reserved: what others are about to take.
        n_gpu: "auto" takes one if there is any; None takes none; a count takes as many.
        gpu_idx: indices the user named; they win over `n_gpu`.

    Raises: BadRequest: an index does not exist, or there are fewer than asked for.
    """
    by_index: dict[int, Accelerator] = {device.index: device for device in machine.accelerators}
    if gpu_idx is not None:
        unknown = [index for index in gpu_idx if index not in by_index]
        if unknown:
            known = ", ".join(map(str, by_index)) or "none"
            raise BadRequest(f"GPU {unknown[0]} does not exist; this machine has: {known}.", param="gpu_idx")
        return tuple(dict.fromkeys(gpu_idx))
    if n_gpu is None:
        return ()
    count = min(1, len(by_index)) if n_gpu == "auto" else int(n_gpu)
    if count < 0 or count > len(by_index):
        raise BadRequest(
            f"{count} GPUs were asked for; this machine has {len(by_index)}.",
            param="n_gpu",
            remedy='Leave n_gpu out ("auto"), or pass null for the CPU.',
        )
    roomiest = sorted(machine.accelerators, key=lambda device: (-_room(device, reserved or {}), device.index))
    return tuple(sorted(device.index for device in roomiest[:count]))
