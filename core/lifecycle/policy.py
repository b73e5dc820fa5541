"""Decisions of the lifecycle as pure functions: restart delay, stalls, placement, progress."""

from collections.abc import Sequence
from dataclasses import dataclass

from ..errors import BadRequest
from ..hooks.types import Accelerator, Machine

__all__ = ["StartLimits", "overall_progress", "place", "restart_delay_s", "start_verdict"]

STABLE_S = 60.0
"""Seconds of readiness after which earlier failures no longer count."""


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


def overall_progress(download: float | None, load: float) -> float:
    """Return the progress of a launch, 0 to 1: a download counts for four fifths of it."""
    if download is None:
        return load
    return 0.8 * download + 0.2 * load


def place(machine: Machine, n_gpu: int | str | None, gpu_idx: Sequence[int] | None) -> tuple[int, ...]:
    """Choose the accelerators of one replica; the ones with most free memory first.

    Args:
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
    roomiest = sorted(machine.accelerators, key=lambda device: (-device.memory_free_bytes, device.index))
    return tuple(sorted(device.index for device in roomiest[:count]))
