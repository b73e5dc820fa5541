"""The script `guard.py COMMAND …`: run a command for as long as whoever started it holds the other end of stdin.

The server may be killed while it makes an environment; what it has started must not go on downloading then. Run by path
in isolated mode: nothing of modelrack is imported.
"""

import os
import signal
import subprocess
import sys
import threading
from types import FrameType


def main(argv: list[str]) -> int:
    """Run the command, and end with its exit code."""
    stopped = threading.Event()

    def stop(number: int, frame: FrameType | None) -> None:
        stopped.set()

    signal.signal(signal.SIGTERM, stop)  # the command has it too: both are in one process group
    # Inherited descriptors go on to the command: they hold the lock of the folder that it writes to.
    child = subprocess.Popen(argv, stdin=subprocess.DEVNULL, close_fds=False)
    threading.Thread(target=_watch, daemon=True).start()
    code = child.wait()
    if stopped.is_set():
        os.killpg(0, signal.SIGKILL)  # whatever the command had started
    return 128 - code if code < 0 else code


def _watch() -> None:
    while os.read(0, 1024):
        pass
    os.killpg(0, signal.SIGKILL)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
