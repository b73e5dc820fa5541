"""A worker's process: start it, ask who it is, wait for its end, stop its group, read its last words."""

import asyncio
import contextlib
import logging
import os
import re
import signal
import socket as sockets
import struct
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
import psutil

__all__ = [
    "OWNER_VARIABLE",
    "Process",
    "Status",
    "answers_for",
    "ask_status",
    "birth",
    "is_running",
    "kill_stray",
    "last_lines",
    "spawn",
    "told_facts",
]

log = logging.getLogger(__name__)

OWNER_VARIABLE = "MODELRACK_OWNER"
"""Set in every worker's environment to `<home>:<incarnation>`: a sweep kills only what carries it."""

_TAIL_BYTES = 16 * 1024
_CONTENT_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Status:
    """What a worker says of itself.

    Args:
        progress: 0 to 1.
        reports: how often its loader has reported; a sign of life.
        error: why it has failed, and `remedy` what can be done about it.
        routes: public paths that it has a handler for.
    """

    model_uid: str
    incarnation: str
    state: str
    progress: float
    stage: str
    reports: int
    error: str | None
    remedy: str | None
    routes: tuple[str, ...]
    facts: Mapping[str, Any]


class Process:
    """One worker's process, a child of this server or adopted from an earlier one.

    The process leads its own group, so a signal to the group reaches what it started too.
    """

    def __init__(self, pid: int, created: float, child: subprocess.Popen[bytes] | None = None) -> None:
        self.pid = pid
        self.created = created
        self._child = child
        self._exited = asyncio.Event()
        self._watch()

    @classmethod
    def adopt(cls, pid: int, created: float) -> "Process | None":
        """Take over a process by pid; None if it has ended, or the pid is another process's by now."""
        return cls(pid, created) if is_running(pid, created) else None

    @property
    def is_running(self) -> bool:
        """Return whether its end has not been seen yet."""
        return not self._exited.is_set()

    async def wait(self) -> None:
        """Wait for the process to end."""
        await self._exited.wait()

    def ending(self) -> str:
        """Return how it ended, as a clause: `exited with code 1`, `was killed by SIGKILL`, or `ended`."""
        code = self._child.returncode if self._child else None
        if code is None:
            return "ended"
        if code < 0:
            with contextlib.suppress(ValueError):
                return f"was killed by {signal.Signals(-code).name}"
            return f"was killed by signal {-code}"
        return f"exited with code {code}"

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the process's group, if it has not ended."""
        if self.is_running:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.pid, number)

    async def stop(self, grace_s: float) -> None:
        """End the group: SIGTERM, then SIGKILL after `grace_s` seconds; returns once the leader has ended."""
        self.signal(signal.SIGTERM)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self.wait(), grace_s)
        if self.is_running:
            if grace_s:
                log.warning("worker %d did not end on SIGTERM within %g s; killing it", self.pid, grace_s)
            self.signal(signal.SIGKILL)
            await self.wait()

    def cpu_seconds(self) -> float:
        """Return the processor time used so far by the process and its children; 0 if it has ended."""
        return sum(self._measure(lambda process: process.cpu_times().user + process.cpu_times().system))

    def memory_bytes(self) -> int:
        """Return the resident memory of the process and its children; 0 if it has ended."""
        return int(sum(self._measure(lambda process: float(process.memory_info().rss))))

    def _measure(self, measure: Callable[[psutil.Process], float]) -> Iterator[float]:
        with contextlib.suppress(psutil.Error):
            leader = psutil.Process(self.pid)
            for process in (leader, *leader.children(recursive=True)):
                with contextlib.suppress(psutil.Error):
                    yield measure(process)

    def _watch(self) -> None:
        try:
            fd = os.pidfd_open(self.pid)
        except (AttributeError, OSError):
            self._poller = asyncio.get_running_loop().create_task(self._poll())
            return
        loop = asyncio.get_running_loop()

        def on_exit() -> None:
            loop.remove_reader(fd)
            os.close(fd)
            self._reap()

        loop.add_reader(fd, on_exit)

    async def _poll(self) -> None:
        """Notice the end where the system has no file descriptors for processes."""
        while self._is_alive():
            await asyncio.sleep(0.1)
        self._reap()

    def _is_alive(self) -> bool:
        if self._child is not None:
            return self._child.poll() is None
        return is_running(self.pid, self.created)

    def _reap(self) -> None:
        if self._child is not None:
            # Before the zombie is reaped its pid cannot be given away, so the group is still ours.
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.pid, signal.SIGKILL)
            self._child.wait()
        else:
            _kill_group_members(self.pid)
        self._exited.set()


def is_running(pid: int | None, created: float | None) -> bool:
    """Return whether a process still runs; another one that has its pid by now was created at another time."""
    if pid is None or created is None:
        return False
    try:
        return abs(birth(pid) - created) < 0.05 and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except (OSError, psutil.Error):
        return False


def birth(pid: int) -> float:
    """Return when a process was created, in seconds on a clock that nobody sets: on Linux since the system's start.

    Raises: OSError or psutil.Error: there is no such process.
    """
    try:
        fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
    except FileNotFoundError:
        return psutil.Process(pid).create_time()
    return int(fields[19]) / os.sysconf("SC_CLK_TCK")


def spawn(module: str, job: Path, run_dir: Path, log_path: Path, env: Mapping[str, str], python: str) -> Process:
    """Start `python -P -m module job` in its own session, with output to its log.

    Args:
        env: the whole environment of the process.

    Raises: OSError: it cannot be started.
    """
    argv = [python, "-P", "-m", module, str(job)]
    log_path.parent.mkdir(parents=True, exist_ok=True)
    with log_path.open("ab", buffering=0) as out:
        child = subprocess.Popen(
            argv, cwd=run_dir, env=dict(env), stdin=subprocess.DEVNULL, stdout=out, stderr=out, start_new_session=True
        )
    return Process(child.pid, birth(child.pid), child)  # it is there even if it has ended: nobody has reaped it


async def ask(socket: str, path: str, timeout_s: float) -> tuple[int, bytes]:
    """Send one GET to a worker's socket and return (HTTP status, body as sent).

    Raises: OSError, TimeoutError or ValueError: it does not listen yet, does not answer, or is no HTTP server.
    """
    async with asyncio.timeout(timeout_s):
        reader, writer = await asyncio.open_unix_connection(socket)
        try:
            writer.write(f"GET {path} HTTP/1.1\r\nHost: worker\r\nConnection: close\r\n\r\n".encode())
            answer = await reader.readuntil(b"\r\n\r\n")
            status = int(answer.split(None, 2)[1])
            length = _CONTENT_LENGTH.search(answer)
            return status, await (reader.readexactly(int(length[1])) if length else reader.read())
        except (asyncio.IncompleteReadError, asyncio.LimitOverrunError, IndexError) as error:
            raise ValueError(f"no HTTP answer on {socket}") from error
        finally:
            writer.close()


async def ask_status(socket: str, timeout_s: float = 2.0) -> Status | None:
    """Ask a Python worker who and how it is; None if it does not answer properly (yet)."""
    try:
        code, body = await ask(socket, "/_worker/status", timeout_s)
        if code != 200:
            return None
        value = orjson.loads(body)
        return Status(
            model_uid=value["model_uid"],
            incarnation=value["incarnation"],
            state=value["state"],
            progress=float(value["progress"]),
            stage=value["stage"],
            reports=int(value.get("reports", 0)),
            error=value.get("error"),
            remedy=value.get("remedy"),
            routes=tuple(value.get("routes") or ()),
            facts=value.get("facts") or {},
        )
    except (OSError, TimeoutError, ValueError, KeyError, TypeError):
        return None


def told_facts(body: bytes) -> Mapping[str, Any]:
    """Return the facts that a command worker tells once it is ready: the object `facts` of its JSON answer, if any."""
    try:
        value = orjson.loads(body)
    except ValueError:
        return {}
    facts = value.get("facts") if isinstance(value, dict) else None
    return facts if isinstance(facts, dict) else {}


def answers_for(socket: str, process: Process, owner: str) -> bool:
    """Return whether whoever listens on a socket belongs to a process: by its tag, its group, or as its descendant.

    Where the system does not say who listens, the path alone must do: it holds a random token.

    Args:
        owner: the value of the tag.
    """
    pid = _listener(socket)
    if pid is None or pid == process.pid:
        return True
    try:
        listener = psutil.Process(pid)
        if os.getpgid(pid) == process.pid or any(parent.pid == process.pid for parent in listener.parents()):
            return True
        return listener.environ().get(OWNER_VARIABLE) == owner
    except (OSError, psutil.Error):
        return False


def _listener(path: str) -> int | None:
    """Return the pid of the process that listens on a Unix socket; None if the system does not tell."""
    option = getattr(sockets, "SO_PEERCRED", None)
    if option is None:  # not on macOS
        return None
    with contextlib.suppress(OSError), sockets.socket(sockets.AF_UNIX, sockets.SOCK_STREAM) as connection:
        connection.settimeout(1.0)
        connection.connect(path)
        pid, _, _ = struct.unpack("3i", connection.getsockopt(sockets.SOL_SOCKET, option, struct.calcsize("3i")))
        return int(pid) or None  # 0: it lives in another namespace
    return None


def last_lines(path: Path, start: int = 0, count: int = 20) -> list[str]:
    """Return the last non-empty lines of a log, from the byte offset `start` on."""
    try:
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(start if start <= size else 0, size - _TAIL_BYTES))
            text = file.read().decode(errors="replace")
    except OSError:
        return []
    return [line.rstrip() for line in text.splitlines() if line.strip()][-count:]


def _kill_group_members(group: int) -> None:
    """Kill what is left of an adopted worker's group, told from strangers by the ownership tag."""
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            if os.getpgid(process.pid) == group and OWNER_VARIABLE in process.environ():
                os.kill(process.pid, signal.SIGKILL)


def kill_stray(owner: str, known: Sequence[int]) -> list[int]:
    """Kill the groups of processes that carry this home's ownership tag and are not among the `known` pids.

    Returns: pids killed.
    """
    killed = []
    for process in _owned(owner):
        with contextlib.suppress(psutil.Error, OSError):  # it may end meanwhile
            if process.pid not in known and os.getpgid(process.pid) not in known:
                os.kill(process.pid, signal.SIGKILL)
                killed.append(process.pid)
    return killed


def _owned(owner: str) -> Iterator[psutil.Process]:
    me = os.getpid()
    for process in psutil.process_iter():
        if process.pid == me:
            continue
        with contextlib.suppress(psutil.Error, OSError):
            if process.environ().get(OWNER_VARIABLE, "").partition(":")[0] == owner:
                yield process
