"""Run uv: find it, hand it the user's settings, end it when nobody waits any more, and say why it failed."""

import asyncio
import contextlib
import os
import re
import shutil
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from .errors import EnvironmentFailed

__all__ = ["Uv", "UvFailed", "find_uv", "uv_variables"]

_GUARD = Path(__file__).with_name("guard.py")
_STOP_S = 3.0
_LINES = 12
_LENGTH = 1500
_DROPPED = (
    "UV_CONFIG_SETTINGS",
    "UV_NO_CACHE",
    "UV_NO_PROGRESS",
    "UV_PROJECT",
    "UV_PYTHON",
    "UV_REQUIRE_HASHES",
    "UV_SYSTEM_PYTHON",
    "UV_VENV_CLEAR",
    "UV_VENV_SEED",
    "UV_WORKING_DIR",
    "CONDA_PREFIX",
    "PYTHONHOME",
    "PYTHONPATH",
    "VIRTUAL_ENV",
)
"""What would lead uv to another environment than the one that is made, or change its form."""

_TAKEN_OVER: tuple[tuple[str, tuple[str, ...], Callable[[str], str]], ...] = (
    ("PIP_INDEX_URL", ("UV_DEFAULT_INDEX", "UV_INDEX_URL"), str.strip),
    ("PIP_EXTRA_INDEX_URL", ("UV_INDEX", "UV_EXTRA_INDEX_URL"), lambda value: " ".join(value.split())),
    ("PIP_FIND_LINKS", ("UV_FIND_LINKS",), lambda value: ",".join(_absolute(part) for part in value.split())),
    ("PIP_TRUSTED_HOST", ("UV_INSECURE_HOST",), lambda value: " ".join(value.split())),
    ("PIP_CERT", ("SSL_CERT_FILE",), str.strip),
)
"""What pip's users have set, under the names of uv; where one of uv's is set, pip's does not count."""


class UvFailed(EnvironmentFailed):
    """The command uv failed; `output` is all that it wrote to stderr."""

    def __init__(self, message: str, *, remedy: str | None = None, output: str = "") -> None:
        super().__init__(message, remedy=remedy)
        self.output = output

    @property
    def is_network(self) -> bool:
        """Return whether something could not be fetched."""
        return any(mark in self.output for mark in ("Failed to fetch", "Failed to download", "network was disabled"))

    @property
    def is_disk(self) -> bool:
        """Return whether something could not be read or written on this machine."""
        return any(mark in self.output for mark in _OF_THE_DISK)


_OF_THE_DISK = (
    "No space left on device",
    "Disk quota exceeded",
    "Permission denied",
    "Operation not permitted",
    "Read-only file system",
    "Input/output error",
    "Too many open files",
)


def find_uv() -> str:
    """Return the path of uv: the one of this environment, else the one on the PATH.

    Raises: EnvironmentFailed: there is none.
    """
    try:
        from uv import find_uv_bin

        return str(find_uv_bin())
    except (ImportError, FileNotFoundError):
        found = shutil.which("uv")
    if found is None:
        raise EnvironmentFailed("Environments are made with uv, and there is none.", remedy="pip install uv")
    return found


def _absolute(location: str) -> str:
    """Return a folder by its full path: uv runs in another folder. An address stays as it is."""
    return location if "://" in location else os.path.abspath(os.path.expanduser(location))


def uv_variables(home: Path, environ: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return the variables under which uv runs: the user's own, then those of pip, then what is kept below the home."""
    given = os.environ if environ is None else environ
    variables = {key: value for key, value in given.items() if key not in _DROPPED}
    for name, targets, change in _TAKEN_OVER:
        if given.get(name, "").strip() and not any(target in given for target in targets):
            variables[targets[0] if targets[0] != "UV_INDEX" else targets[1]] = change(given[name])
    if "UV_FIND_LINKS" in given:
        parts = given["UV_FIND_LINKS"].split(",")
        variables["UV_FIND_LINKS"] = ",".join(_absolute(part.strip()) for part in parts if part.strip())
    variables.setdefault("UV_CACHE_DIR", str(home / "cache" / "uv"))
    variables["UV_CACHE_DIR"] = _absolute(variables["UV_CACHE_DIR"])
    variables.setdefault("UV_PYTHON_INSTALL_DIR", str(home / "cache" / "python"))
    if variables.get("UV_LINK_MODE") == "symlink":
        del variables["UV_LINK_MODE"]  # an environment must outlive what is in the cache
    if sys.platform == "linux":
        variables.setdefault("UV_LINK_MODE", "hardlink")
    return variables | {"UV_PREVIEW_FEATURES": "pylock", "NO_COLOR": "1", "UV_NO_PROGRESS": "1"}


def without_index(environ: Mapping[str, str]) -> bool:
    """Return whether the user wants no index: uv has an option for it, and no variable."""
    is_set = environ.get("PIP_NO_INDEX", "").strip().lower() in ("1", "true", "yes", "on", "y", "t")
    return is_set and not any(name in environ for name in ("UV_DEFAULT_INDEX", "UV_INDEX_URL", "UV_INDEX"))


@dataclass(frozen=True, slots=True)
class Uv:
    """Calls of uv for one build.

    Args:
        variables: the whole environment of its processes.
        held: descriptors of locks that its processes hold too, for as long as one of them lives.
    """

    program: str
    variables: Mapping[str, str]
    held: tuple[int, ...] = ()

    @property
    def is_offline(self) -> bool:
        """Return whether the user wants it to ask nobody."""
        offline = self.variables.get("UV_OFFLINE", "").lower()
        return without_index(self.variables) or offline in ("1", "true", "yes", "on", "y", "t")

    async def pip(self, *arguments: str | Path, on_line: Callable[[str], None] | None = None) -> str:
        """Run a command of `uv pip`; see `run`."""
        no_index = ("--no-index",) if without_index(self.variables) else ()
        return await self.run("pip", *arguments, *no_index, on_line=on_line)

    async def run(self, *arguments: str | Path, on_line: Callable[[str], None] | None = None) -> str:
        """Run one command and return what it wrote to stdout. A cancelled call leaves no process behind.

        Args:
            on_line: is told each line of stderr as it comes.

        Raises: UvFailed: with the reason.
        """
        argv = [sys.executable, "-I", "-S", str(_GUARD), self.program, *map(str, arguments)]
        try:
            process = await asyncio.create_subprocess_exec(
                *argv,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
                env=dict(self.variables),
                cwd="/",  # uv would read the settings of a project around the folder it runs in
                start_new_session=True,
                pass_fds=self.held,
                limit=1 << 20,
            )
        except OSError as error:
            raise EnvironmentFailed(f"uv cannot be started: {error.strerror}.") from error
        assert process.stdout and process.stderr and process.stdin
        lines: list[str] = []
        try:
            reading = asyncio.create_task(process.stdout.read())
            try:
                async for raw in process.stderr:
                    lines.append(raw.decode(errors="replace").rstrip("\n"))
                    if on_line is not None:
                        on_line(lines[-1])
                output = await reading
            finally:
                reading.cancel()
            code = await process.wait()
        except BaseException:
            await _end(process)
            raise
        finally:
            process.stdin.close()
        if code:
            raise _failure(lines, code)
        return output.decode(errors="replace")


async def _end(process: asyncio.subprocess.Process) -> None:
    """End the process group: SIGTERM, and SIGKILL soon after."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        if process.returncode is not None:
            return
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, number)
        with contextlib.suppress(TimeoutError):
            await asyncio.shield(asyncio.wait_for(process.wait(), _STOP_S))
            return


_REMEDIES: tuple[tuple[str, str], ...] = (
    ("No space left on device", "Make room on the disk, or move the home folder: MODELRACK_HOME."),
    ("Disk quota exceeded", "Make room on the disk, or move the home folder: MODELRACK_HOME."),
    ("python-build-standalone", "Put such a Python on the PATH; uv downloads one only where there is none."),
    ("Failed to fetch", "See that the package index can be reached; UV_DEFAULT_INDEX or PIP_INDEX_URL names another."),
    ("Failed to download", "Try again; uv keeps what it has got. UV_HTTP_TIMEOUT and UV_HTTP_RETRIES make it patient."),
    ("network was disabled", "Unset UV_OFFLINE, or import the environment from a file: modelrack env import FILE."),
    ("No interpreter found", "Install such a Python and put it on the PATH, or let uv do so: uv python install."),
    ("Permission denied", "See who owns the files in the home folder (MODELRACK_HOME) and in UV_CACHE_DIR."),
    ("Read-only file system", "Set MODELRACK_HOME, and UV_CACHE_DIR if it is set, to a folder that can be written."),
)


def _failure(lines: Sequence[str], code: int) -> UvFailed:
    output = "\n".join(lines)
    remedy = next((remedy for mark, remedy in _REMEDIES if mark in output), None)
    return UvFailed(explain(lines) or f"uv ended with exit code {code}", remedy=remedy, output=output)


_LEADING = re.compile(r"^\s*(?:error:|cause:|Caused by:|×|╰─▶|├─▶|│|╰|hint:)?\s*")
_MARKERS = re.compile(r"\{[^{}]*\}(?=[=<>~!]| |,|$)")
_NOISE = ("warning:", "Using ", "Resolved ", "Downloading ", "Downloaded ", "Building ", "Built ", "Prepared ")


def explain(lines: Sequence[str]) -> str:
    """Return the useful part of what uv said as it failed, as one text of few lines."""
    start = next((i for i, line in enumerate(lines) if re.match(r"\s*(error:|×)", line)), 0)
    kept: list[str] = []
    for line in lines[start:]:
        text = _MARKERS.sub("", _LEADING.sub("", line)).strip()
        if not text or text.startswith(_NOISE) or text in kept:
            continue
        kept.append(text)
    if len(kept) > _LINES:  # the end of a failed build says most; the head says of what
        kept = [*kept[:3], "…", *kept[-(_LINES - 4) :]]
    text = "\n".join(kept)
    return text if len(text) <= _LENGTH else f"{text[:_LENGTH].rstrip()} …"
