"""Start real servers for tests, and make sure that each ends well and leaves nothing behind."""

import contextlib
import os
import re
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import psutil

__all__ = ["RunningServer", "Server", "start_server", "wait_until", "wait_until_ready"]

START_S = 60.0
STOP_S = 40.0

_ADDRESS = re.compile(r"http://\S+:\d+")


@dataclass
class Server:
    """A server that runs.

    Args:
        lines: what it has written, stdout and stderr, as far as it came.
    """

    url: str
    home: Path
    process: subprocess.Popen[str]
    lines: list[str] = field(default_factory=list)

    @property
    def output(self) -> str:
        """Return what it has written."""
        return "".join(self.lines)

    @property
    def environment(self) -> dict[str, str]:
        """Return the variables under which commands talk to this server."""
        return {**clean_environment(), "MODELRACK_ENDPOINT": self.url, "MODELRACK_HOME": str(self.home)}

    def children(self) -> list[psutil.Process]:
        """Return the processes below it."""
        try:
            return psutil.Process(self.process.pid).children(recursive=True)
        except psutil.NoSuchProcess:
            return []


RunningServer = Server


def clean_environment() -> dict[str, str]:
    """Return this process's variables without those that settings are read from."""
    return {key: value for key, value in os.environ.items() if not key.startswith("MODELRACK_")}


@contextlib.contextmanager
def start_server(home: Path, *arguments: str, executable: str | Path = sys.executable, **env: str) -> Iterator[Server]:
    """Run `modelrack serve` on a free port of the loopback interface.

    At the end it is told to stop as by Ctrl-C; it must then leave with exit code 0 and without a child process. A test
    may end it itself before that.

    Args:
        home: its home folder.
        arguments: further arguments of `serve`.
        executable: the Python to run it with, another environment's, say.
        env: further variables.
    """
    command = [str(executable), "-m", "modelrack.cli", "serve", "--port", "0", "--home", str(home), *arguments]
    process = subprocess.Popen(
        command,
        env={**clean_environment(), "PYTHONUNBUFFERED": "1", **env},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    lines: list[str] = []
    reader = threading.Thread(target=_copy, args=(process, lines), daemon=True)
    reader.start()
    try:
        server = Server(_read_address(process, lines), home, process, lines)
        wait_until_ready(server.url, process)
        yield server
    except BaseException:
        _end(process, _children(process))
        raise
    else:
        _stop(process, lines)
    finally:
        reader.join(5)
        assert process.stdout
        process.stdout.close()


def wait_until_ready(
    url: str, process: subprocess.Popen[str] | subprocess.Popen[bytes], limit_s: float = START_S
) -> None:
    """Wait until the server at `url` is ready.

    Raises: AssertionError: its process has ended, or it took too long.
    """
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))

    def is_ready() -> bool:
        assert process.poll() is None, f"the server ended with exit code {process.returncode}"
        try:
            with opener.open(f"{url}/ready", timeout=5) as answer:
                return bool(answer.status == 200)
        except (urllib.error.URLError, OSError):
            return False

    wait_until(is_ready, limit_s, f"{url} to be ready")


def wait_until(claim: Callable[[], bool], limit_s: float = 20.0, what: str = "") -> None:
    """Wait until a claim is true.

    Raises: AssertionError: it was not, within the limit.
    """
    end = time.monotonic() + limit_s
    while not claim():
        assert time.monotonic() < end, f"waited {limit_s:g} s in vain for {what or claim}"
        time.sleep(0.02)


def _copy(process: subprocess.Popen[str], lines: list[str]) -> None:
    assert process.stdout
    with contextlib.suppress(ValueError):  # closed while it was read
        for line in process.stdout:
            lines.append(line)


def _read_address(process: subprocess.Popen[str], lines: list[str]) -> str:
    found: list[str] = []

    def has_address() -> bool:
        found.extend(match.group() for match in map(_ADDRESS.search, list(lines)) if match)
        assert found or process.poll() is None, f"the server ended with {process.returncode}:\n{''.join(lines)}"
        return bool(found)

    wait_until(has_address, START_S, "the server's address")
    return found[0]


def _children(process: subprocess.Popen[str]) -> list[psutil.Process]:
    try:
        return psutil.Process(process.pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return []


def _stop(process: subprocess.Popen[str], lines: list[str]) -> None:
    """Stop the server as Ctrl-C does, and check how it went."""
    if process.poll() is not None:
        return
    children = _children(process)
    process.send_signal(signal.SIGINT)
    try:
        code = process.wait(STOP_S)
    except subprocess.TimeoutExpired:
        _end(process, children)
        raise AssertionError(f"the server did not stop within {STOP_S:g} s:\n{''.join(lines)}") from None
    _, left = psutil.wait_procs(children, timeout=5)
    _end(process, left)
    assert code == 0, f"the server ended with exit code {code}:\n{''.join(lines)}"
    assert not left, f"the server left processes behind: {left}"


def _end(process: subprocess.Popen[str], children: list[psutil.Process]) -> None:
    """End the server and what is left of its children, whatever it takes."""
    for child in children:
        with contextlib.suppress(psutil.NoSuchProcess):
            child.kill()
    if process.poll() is None:
        process.kill()
    process.wait(10)
