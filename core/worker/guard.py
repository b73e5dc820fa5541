"""The command `python -m modelrack.worker.guard JOB.json`: run a command worker for as long as its lease is renewed."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

from .lease import watch_lease

_FORWARD_S = 1.0
"""The server signals the whole group, so the command has most often heard of a stop already, and some servers take a
second signal as "at once": it is passed on only to a command that has not ended after this time."""
_KILL_S = 5.0
"""Time a command whose lease has expired gets to end."""
_SWEEPS = 50
_SWEEP_S = 0.02
"""How often, and after which pause, the group is looked at until nobody but this process is in it."""


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
    _end_group()
    return 128 - code if code < 0 else code


def _forward(stopping: threading.Event, child: "subprocess.Popen[bytes]") -> None:
    stopping.wait()
    try:
        child.wait(_FORWARD_S)
    except subprocess.TimeoutExpired:
        child.send_signal(signal.SIGTERM)


def _end_group() -> None:
    """Kill what the command has left behind, for nobody else may be there to do it.

    Only where the server has started the guard: it leads a session of its own then, whose group is that of its worker.
    """
    me = os.getpid()
    if os.getsid(0) != me:
        return
    for _ in range(_SWEEPS):  # one that starts another meanwhile is met the next time
        members = [pid for pid in _group(me) if pid != me]
        if not members:
            return
        for pid in members:
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(_SWEEP_S)


def _group(leader: int) -> list[int]:
    """Return the processes of a group that have not ended yet."""
    if os.path.isdir("/proc/self"):
        return [int(name) for name in os.listdir("/proc") if name.isdigit() and _is_member(name, leader)]
    lister = subprocess.Popen(
        ["ps", "-A", "-o", "pid=,pgid=,stat="], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True
    )
    rows = (line.split() for line in lister.communicate()[0].splitlines())
    members = [int(row[0]) for row in rows if len(row) == 3 and row[1] == str(leader) and row[2][:1] != "Z"]
    return [pid for pid in members if pid != lister.pid]


def _is_member(pid: str, leader: int) -> bool:
    try:
        # After the name, which may hold anything: state, parent, group.
        state, _, group = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[:3]
    except (OSError, ValueError):
        return False
    return int(group) == leader and state not in (b"Z", b"X")


def _expire(child: "subprocess.Popen[bytes]") -> None:
    print("modelrack.worker.guard: the lease has expired, the server is gone", file=sys.stderr, flush=True)
    child.send_signal(signal.SIGTERM)
    try:
        child.wait(_KILL_S)
    except subprocess.TimeoutExpired:
        child.kill()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
