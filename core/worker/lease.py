"""The lease: a file that the server touches; who holds it ends when nobody does any more."""

import os
import threading
import time
from collections.abc import Callable

__all__ = ["watch_lease"]


def watch_lease(path: str, limit_s: float, on_expiry: Callable[[], None]) -> None:
    """Call `on_expiry` once, from a thread of its own, when the file has not been touched for `limit_s` seconds.

    The time since the file's last change is measured on the monotonic clock: a machine that slept, or whose clock was
    set, takes no worker's life. A file that is gone counts as not touched.
    """
    threading.Thread(target=_watch, args=(path, limit_s, on_expiry), name="lease", daemon=True).start()


def _watch(path: str, limit_s: float, on_expiry: Callable[[], None]) -> None:
    touched = _changed_ns(path)
    seen = time.monotonic()
    while time.monotonic() - seen <= limit_s:
        time.sleep(min(max(limit_s / 4, 0.02), 5.0))
        changed = _changed_ns(path)
        if changed is not None and changed != touched:
            touched = changed
            seen = time.monotonic()
    on_expiry()


def _changed_ns(path: str) -> int | None:
    try:
        return os.stat(path).st_mtime_ns
    except OSError:
        return None
