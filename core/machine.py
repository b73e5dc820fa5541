"""See what this machine has: processors, memory and accelerators, with the limits that were set for this process."""

import os
import platform
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from .hooks.types import Accelerator, Machine

__all__ = ["probe"]

_CGROUP = Path("/sys/fs/cgroup")
_DRM = Path("/sys/class/drm")
_NO_LIMIT = 1 << 60
_NVIDIA_DEVICES = ("/dev/nvidiactl", "/dev/dxg")  # a driver's, and the one of Windows' subsystem for Linux
_MEMORY_FILES = (("memory.max", "memory.current"), ("memory.limit_in_bytes", "memory.usage_in_bytes"))


def probe() -> Machine:
    """Return what can be used now. Blocks for some milliseconds; memory is as of this moment."""
    import psutil

    memory = psutil.virtual_memory()
    total, free = int(memory.total), int(memory.available)
    limit, used = _cgroup_memory()
    if limit is not None and limit < total:
        total, free = limit, max(0, min(free, limit - used))
    accelerators: list[Accelerator] = []
    for find in _FINDERS:
        accelerators.extend(find())
    return Machine(
        platform=sys.platform,
        architecture=platform.machine(),
        cores=_cores(),
        memory_total_bytes=total,
        memory_free_bytes=free,
        accelerators=tuple(accelerators),
    )


def _cores() -> int:
    try:
        cores = len(os.sched_getaffinity(0))
    except AttributeError:  # not on macOS and Windows
        cores = os.cpu_count() or 1
    quota = _cgroup_cpus()
    return max(1, min(cores, int(quota + 0.999)) if quota is not None else cores)


def _cgroup_folders(controller: str) -> list[Path]:
    """Return the folders whose limits hold for this process, from its own group up to the root."""
    try:
        lines = Path("/proc/self/cgroup").read_text().splitlines()
    except OSError:
        return []
    folders: list[Path] = []
    for line in lines:
        _, _, rest = line.partition(":")
        names, _, path = rest.partition(":")
        if names and controller not in names.split(","):
            continue
        root = _CGROUP / controller if names else _CGROUP
        group = root / path.lstrip("/")
        # In a container the group's path may name a place outside of what is mounted; the root then is its own group.
        folders += [folder for folder in (group, *group.parents) if folder.is_relative_to(root) and folder.is_dir()]
    return list(dict.fromkeys(folders))


def _read_number(path: Path) -> int | None:
    try:
        value = int(path.read_text().split()[0])
    except (OSError, ValueError, IndexError):
        return None
    return value if 0 <= value < _NO_LIMIT else None


def _cgroup_cpus() -> float | None:
    quotas: list[float] = []
    for folder in _cgroup_folders("cpu"):
        try:
            quota, period = (folder / "cpu.max").read_text().split()
            if quota != "max":
                quotas.append(int(quota) / int(period))
        except (OSError, ValueError):
            pair = _read_number(folder / "cpu.cfs_quota_us"), _read_number(folder / "cpu.cfs_period_us")
            if pair[0] and pair[1]:
                quotas.append(pair[0] / pair[1])
    return min(quotas, default=None)


def _cgroup_memory() -> tuple[int | None, int]:
    """Return the tightest limit and what its group uses beyond the page cache, which the kernel gives back."""
    best: tuple[int | None, int] = None, 0
    for folder in _cgroup_folders("memory"):
        for limit_name, used_name in _MEMORY_FILES:
            limit = _read_number(folder / limit_name)
            if limit is None or (best[0] is not None and best[0] <= limit):
                continue
            best = limit, max(0, (_read_number(folder / used_name) or 0) - _reclaimable(folder))
    return best


def _reclaimable(folder: Path) -> int:
    with suppress(OSError, ValueError):
        rows = (line.split() for line in (folder / "memory.stat").read_text().splitlines())
        stats = {row[0]: int(row[1]) for row in rows if len(row) == 2}
        return stats.get("inactive_file", stats.get("total_inactive_file", 0))
    return 0


def _cuda() -> list[Accelerator]:
    if sys.platform == "linux" and not any(os.path.exists(path) for path in _NVIDIA_DEVICES):
        return []
    try:
        import pynvml
    except ImportError:
        return []
    found: list[Accelerator] = []
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:  # no driver, no device
        return []
    try:
        visible = _visible(os.environ.get("CUDA_VISIBLE_DEVICES"))
        for index in range(pynvml.nvmlDeviceGetCount()):
            handle = pynvml.nvmlDeviceGetHandleByIndex(index)
            name = pynvml.nvmlDeviceGetName(handle)
            uuid = pynvml.nvmlDeviceGetUUID(handle)
            if visible is not None and not ({str(index), _text(uuid)} & visible):
                continue
            memory = pynvml.nvmlDeviceGetMemoryInfo(handle)
            found.append(
                Accelerator(
                    index=index,
                    kind="cuda",
                    name=_text(name),
                    memory_total_bytes=int(memory.total),
                    memory_free_bytes=int(memory.free),
                )
            )
    except pynvml.NVMLError:
        pass
    finally:
        with suppress(pynvml.NVMLError):
            pynvml.nvmlShutdown()
    return found


def _text(value: str | bytes) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else value


def _visible(value: str | None) -> set[str] | None:
    return None if value is None else {part.strip() for part in value.split(",")}


def _rocm() -> list[Accelerator]:
    """Read AMD's kernel driver; what it says of memory is there without any library."""
    found: list[Accelerator] = []
    for device in sorted(_DRM.glob("card[0-9]*/device"), key=lambda path: path.parent.name):
        total = _read_number(device / "mem_info_vram_total")
        if not total or total < 1 << 30 or not Path("/dev/kfd").exists():  # smaller: a processor's own graphics
            continue
        with suppress(OSError):
            name = (device / "product_name").read_text().strip()
            used = _read_number(device / "mem_info_vram_used") or 0
            found.append(
                Accelerator(
                    index=len(found),
                    kind="rocm",
                    name=name or "AMD GPU",
                    memory_total_bytes=total,
                    memory_free_bytes=max(0, total - used),
                )
            )
    return found


def _mps() -> list[Accelerator]:
    if platform.system() != "Darwin" or platform.machine() != "arm64":
        return []
    import psutil

    memory = psutil.virtual_memory()
    # The device shares main memory; macOS lets it have about three quarters of it (recommendedMaxWorkingSetSize).
    return [
        Accelerator(
            index=0,
            kind="mps",
            name="Apple GPU",
            memory_total_bytes=int(memory.total * 0.75),
            memory_free_bytes=int(min(memory.available, memory.total * 0.75)),
        )
    ]


_FINDERS: tuple[Callable[[], list[Accelerator]], ...] = (_cuda, _rocm, _mps)
