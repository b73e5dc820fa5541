"""Find the processes that use an environment."""

import os
from contextlib import suppress
from pathlib import Path

__all__ = ["users"]


def users(folder: Path) -> list[int]:
    """Return the pids of this user's processes that run in an environment, in order.

    A process uses it if its first argument lies in it, if `VIRTUAL_ENV` names it (the server sets that for workers), or
    if it has mapped one of its files. Engines change their argument vectors, so one sign alone would not do.
    """
    import psutil

    root = os.path.realpath(folder)
    names = {str(folder), root}
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error, OSError):
            first = next(iter(process.cmdline()), "")
            is_started = any(first.startswith(f"{name}{os.sep}") for name in names)
            if is_started or process.environ().get("VIRTUAL_ENV") in names or _has_mapped(process.pid, root):
                found.append(process.pid)
    return sorted(found)


def _has_mapped(pid: int, root: str) -> bool:
    """Return whether a process has mapped a file below a folder; False where the system does not tell."""
    with suppress(OSError):
        return f" {root}{os.sep}" in Path(f"/proc/{pid}/maps").read_text(errors="replace")
    return False
