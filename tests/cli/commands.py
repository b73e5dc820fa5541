"""Run commands as a user does."""

import json
import os
import pty
import re
import select
import subprocess
import sys
import time
from collections.abc import Mapping
from typing import Any

__all__ = ["Done", "Terminal", "run", "run_json"]

TAKE_TERMINAL = (
    "import fcntl, os, sys, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); os.execv(sys.argv[1], sys.argv[1:])"
)
"""Makes stdin the terminal that Ctrl-C comes from. (`pty.fork` warns where there are threads.)"""
PROGRAM = [sys.executable, "-m", "modelrack.cli"]
_COLOURS = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|[\x01\x02\r]")

Done = subprocess.CompletedProcess[str]


def run(
    environment: Mapping[str, str], *arguments: str, stdin: str | None = None, code: int = 0, **options: Any
) -> Done:
    """Run a command; it must end with this exit code, and never show a traceback."""
    source: dict[str, Any] = {"stdin": subprocess.DEVNULL} if stdin is None else {"input": stdin}
    done = subprocess.run(
        [*PROGRAM, *arguments], env=dict(environment), capture_output=True, text=True, timeout=60, **source, **options
    )
    assert done.returncode == code, f"{arguments}: {done.returncode}\n{done.stdout}\n{done.stderr}"
    assert "Traceback" not in done.stderr
    if code:
        assert "Error: " in done.stderr or code == 130
    return done


def run_json(environment: Mapping[str, str], *arguments: str, **options: Any) -> Any:
    """Run a command with `--json`, and read what it prints."""
    return json.loads(run(environment, *arguments, "--json", **options).stdout)


class Terminal:
    """A command on a terminal, with somebody who types."""

    def __init__(self, environment: Mapping[str, str], *arguments: str) -> None:
        self.screen = ""
        self._fd, screen = pty.openpty()
        self._process = subprocess.Popen(
            [sys.executable, "-c", TAKE_TERMINAL, *PROGRAM, *arguments],
            env={**environment, "TERM": "xterm", "COLUMNS": "100", "LINES": "40"},
            stdin=screen,
            stdout=screen,
            stderr=screen,
            start_new_session=True,
        )
        os.close(screen)

    def enter(self, text: str) -> None:
        """Type; \\x03 is Ctrl-C and \\x04 is Ctrl-D."""
        os.write(self._fd, text.encode())

    def expect(self, text: str, limit_s: float = 20.0) -> str:
        """Wait until a text appears; return what came up to its end, without colours, and take it off the screen."""
        end = time.monotonic() + limit_s
        while text not in self.screen:
            assert time.monotonic() < end, f"waited in vain for {text!r} in {self.screen!r}"
            assert self._read(end - time.monotonic()) or text in self.screen, f"no {text!r} in {self.screen!r}"
        before, _, self.screen = self.screen.partition(text)
        return before + text

    def press(self, key: str, text: str, limit_s: float = 20.0) -> None:
        """Press a key until a text appears, as one does: a signal just before a prompt reads is lost in readline."""
        end = time.monotonic() + limit_s
        while text not in self.screen:
            assert time.monotonic() < end, f"pressed {key!r} in vain for {text!r} in {self.screen!r}"
            self.enter(key)
            pause = time.monotonic() + 2
            while text not in self.screen and time.monotonic() < pause and self._read(pause - time.monotonic()):
                pass
        self.expect(text)

    def end(self, limit_s: float = 20.0) -> int:
        """Wait until the command has ended, and return its exit code."""
        end = time.monotonic() + limit_s
        while self._read(end - time.monotonic()):
            assert time.monotonic() < end, f"it goes on: {self.screen!r}"
        return self._process.wait(10)

    def _read(self, limit_s: float) -> bool:
        """Read what has been written; False once nobody writes any more."""
        if not select.select([self._fd], [], [], max(limit_s, 0.0))[0]:
            return True
        try:
            content = os.read(self._fd, 65536)
        except OSError:
            return False
        self.screen += _COLOURS.sub("", content.decode("utf-8", "replace"))
        return bool(content)

    def __enter__(self) -> "Terminal":
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait(10)
        os.close(self._fd)
