"""The command `python -m modelrack.worker.guard JOB.json`: run a command worker for as long as its lease is renewed."""

import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

from .lease import watch_lease

_FORWARD_S = 1.0
"""The server signals the whole group, so the command has most often heard of a stop already, and some servers take a
second signal as "at once": it is passed on only to a command that has not ended after this time."""
_KILL_S = 5.0
"""Time a command whose lease has expired gets to end."""


def main(arguments: list[str]) -> int:
    """Run the job's command and return its exit code, as a shell would."""
    if len(arguments) != 1 or arguments[0] in ("-h", "--help"):
        print("Usage: python -m modelrack.worker.guard JOB.json", file=sys.stderr)
        return 2
    # Plain JSON instead of the checked job: the guard stays beside its command, and should take no memory for it.
    job: dict[str, Any] = json.loads(Path(arguments[0]).read_bytes())
    command: dict[str, Any] = job["command"]
    stopping = threading.Event()
    signal.signal(signal.SIGTERM, lambda number, frame: stopping.set())
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    argv: list[str] = command["argv"]
    try:
        child = subprocess.Popen(argv, env=os.environ | command["env"], stdin=subprocess.DEVNULL)
    except OSError as error:
        print(f"The command {argv[0]} cannot be started: {error.strerror}.", file=sys.stderr)
        return 1
    threading.Thread(target=_forward, args=(stopping, child), daemon=True).start()
    if job["lease"] is not None:
        watch_lease(job["lease"], job["lease_s"], lambda: _expire(child))
    code = child.wait()
    return 128 - code if code < 0 else code


def _forward(stopping: threading.Event, child: "subprocess.Popen[bytes]") -> None:
    stopping.wait()
    try:
        child.wait(_FORWARD_S)
    except subprocess.TimeoutExpired:
        child.send_signal(signal.SIGTERM)


def _expire(child: "subprocess.Popen[bytes]") -> None:
    print("modelrack.worker.guard: the lease has expired, the server is gone", file=sys.stderr, flush=True)
    child.send_signal(signal.SIGTERM)
    try:
        child.wait(_KILL_S)
    except subprocess.TimeoutExpired:
        child.kill()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
