"""What a worker's processes hold of main memory and of accelerators."""

import contextlib
from collections.abc import Collection

import psutil

from .process import Process

__all__ = ["held_memory"]


def held_memory(process: Process) -> tuple[int, int]:
    """Return the bytes of main memory (resident) and of accelerators that a process and its children hold.

    Blocks for some milliseconds. 0 stands for what cannot be told: where the driver counts processes in another
    namespace (containers), or tells nothing of single processes.
    """
    pids = {process.pid}
    with contextlib.suppress(psutil.Error):
        pids.update(child.pid for child in psutil.Process(process.pid).children(recursive=True))
    return process.memory_bytes(), _device_bytes(pids)


def _device_bytes(pids: Collection[int]) -> int:
    try:
        import pynvml

        pynvml.nvmlInit()
    except Exception:  # no package, no driver, no device
        return 0
    try:
        held = 0
        for index in range(pynvml.nvmlDeviceGetCount()):
            handle = pynvml.nvmlDeviceGetHandleByIndex(index)
            for user in pynvml.nvmlDeviceGetComputeRunningProcesses(handle):
                if user.pid in pids:
                    held += int(user.usedGpuMemory or 0)
        return held
    except pynvml.NVMLError:
        return 0
    finally:
        with contextlib.suppress(pynvml.NVMLError):
            pynvml.nvmlShutdown()
