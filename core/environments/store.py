"""The folder of environments: what is complete, what is being made, and who may touch it."""

import asyncio
import contextlib
import fcntl
import json
import os
import secrets
import shutil
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from .errors import EnvironmentFailed

__all__ = ["FACTS", "LOCK", "Built", "Package", "Store", "Workplace"]

FACTS = "environment.json"
"""The mark of a complete environment: it is written last, and holds what there is to know."""

LOCK = "pylock.toml"
"""What was resolved, beside the facts."""

T = TypeVar("T")

_BUILDING = ".building-"
_REMOVING = ".removing-"
_RETRY_S = 0.1


@dataclass(frozen=True, slots=True)
class Package:
    """One distribution in an environment."""

    name: str
    version: str


@dataclass(frozen=True, slots=True)
class Built:
    """A complete environment.

    Args:
        name: as `modelrack env list` shows it: engine and hash.
        device: kind of device that it was made for.
        folder: where it lies.
        python: path of its interpreter.
        python_tag, platform: what it works on.
        key: hash of the declaration that it was made from.
        requirements: those of the declaration.
        absent: distributions that must not be there.
        size_bytes: of all files, whether other environments share them or not.
        created: seconds since the epoch.
    """

    name: str
    engine: str
    device: str
    folder: Path
    python: str
    python_version: str
    python_tag: str
    platform: str
    hash: str
    key: str
    requirements: tuple[str, ...]
    absent: tuple[str, ...]
    packages: tuple[Package, ...]
    size_bytes: int
    created: float

    def facts(self) -> dict[str, Any]:
        """Return what is kept in the environment: all but where it lies."""
        values = asdict(self)
        del values["folder"], values["python"]
        return {"schema": 1, **values}

    def to_json(self) -> dict[str, Any]:
        """Return it as `modelrack env list --json` prints it."""
        return {**asdict(self), "folder": str(self.folder)}


def interpreter(folder: Path) -> Path:
    """Return the interpreter of an environment."""
    return folder / "bin" / "python"


def read_facts(folder: Path) -> Built | None:
    """Read the mark of an environment; None: there is none, or it is of another version's schema."""
    try:
        return parse_facts((folder / FACTS).read_bytes(), folder)
    except OSError:
        return None


class _Facts(BaseModel):
    """What a mark holds; it may come from a file that was imported."""

    model_config = ConfigDict(extra="forbid", strict=True)

    schema_: Literal[1] = Field(alias="schema")
    name: str = Field(pattern=r"^[a-z0-9][a-z0-9._-]*$")
    engine: str
    device: str
    python_version: str = Field(pattern=r"^\d+\.\d+\.\w+$")
    python_tag: str = Field(pattern=r"^[a-z]+-\d+\.\d+$")
    platform: str
    hash: str = Field(pattern=r"^[0-9a-f]{12}$")
    key: str = Field(pattern=r"^[0-9a-f]{32}$")
    requirements: list[str]
    absent: list[str]
    packages: list[Package]
    size_bytes: int
    created: float


def parse_facts(content: bytes, folder: Path) -> Built | None:
    """Read a mark's content; None: it is none, or of another version's schema."""
    try:
        facts = _Facts.model_validate_json(content)
    except ValidationError:
        return None
    values: dict[str, Any] = {key: getattr(facts, key) for key in _Facts.model_fields if key != "schema_"}
    for key in ("requirements", "absent", "packages"):
        values[key] = tuple(values[key])
    return Built(folder=folder, python=str(interpreter(folder)), **values)


def write_facts(folder: Path, built: Built) -> None:
    """Mark an environment as complete.

    Raises: OSError: it cannot be written.
    """
    draft = folder / f".{FACTS}"
    with draft.open("w") as file:
        json.dump(built.facts(), file, indent=1)
        file.flush()
        os.fsync(file.fileno())
    draft.replace(folder / FACTS)


@dataclass(frozen=True, slots=True)
class Workplace:
    """A folder that one builder works in.

    Args:
        lock: descriptor that holds it; processes that inherit it hold it too.
    """

    folder: Path
    lock: int


class Store:
    """The folder `envs` below the home folder. Several processes use it at the same time."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def get(self, name: str) -> Built | None:
        """Return a complete environment by name."""
        folder = self.folder(name)
        built = None if folder is None else read_facts(folder)
        return built if built is not None and built.name == name else None

    def folder(self, name: str) -> Path | None:
        """Return the folder of this name, complete or not; None: there is none."""
        if not name or name.startswith(".") or "/" in name or not (self.root / name).is_dir():
            return None
        return self.root / name

    def list(self) -> list[Built]:
        """Return the complete environments, by name."""
        return [built for name in self._names() if (built := self.get(name)) is not None]

    def incomplete(self) -> Sequence[str]:
        """Return the names of the other folders."""
        return [name for name in self._names() if self.folder(name) is not None and self.get(name) is None]

    def _names(self) -> Sequence[str]:
        try:
            return sorted(path.name for path in self.root.iterdir())
        except OSError:
            return []

    def find(self, key: str) -> Built | None:
        """Return the environment that a declaration led to, unless its interpreter is gone."""
        try:
            name = (self.root / ".index" / key).read_text().strip()
        except (OSError, UnicodeDecodeError):
            return None
        built = self.get(name)
        return built if built is not None and os.access(built.python, os.X_OK) else None

    def remember(self, key: str, name: str) -> None:
        """Keep what a declaration led to.

        Raises: OSError: it cannot be written.
        """
        folder = self.root / ".index"
        folder.mkdir(exist_ok=True)
        draft = folder / f".{key}.{secrets.token_hex(4)}"
        draft.write_text(f"{name}\n")
        draft.replace(folder / key)

    def place(self, folder: Path, name: str) -> None:
        """Move a complete environment to its place; one that is there and complete stays.

        Raises: OSError: it cannot be moved.
        """
        target = self.root / name
        try:
            os.rename(folder, target)
        except OSError:
            if not os.path.lexists(target):
                raise
            there = self.get(name)
            if there is not None and os.access(there.python, os.X_OK):
                return  # another declaration has led to the same, meanwhile
            self.discard(target)
            os.rename(folder, target)

    def discard(self, folder: Path) -> None:
        """Take a folder out of its place at once, and remove it; links to elsewhere are not followed.

        Raises: OSError: it cannot be moved.
        """
        away = self.root / f"{_REMOVING}{secrets.token_hex(6)}"
        with contextlib.suppress(FileNotFoundError):
            os.rename(folder, away)
        remove(away)

    def forget(self, name: str) -> None:
        """Remove what leads from declarations to an environment."""
        for path in self._index():
            with contextlib.suppress(OSError):
                if path.read_text().strip() == name:
                    path.unlink()

    def _index(self) -> Iterator[Path]:
        with contextlib.suppress(OSError):
            yield from [path for path in (self.root / ".index").iterdir() if not path.name.startswith(".")]

    def sweep(self) -> None:
        """Remove what builders have left behind that were killed; what one still works on stays."""
        with contextlib.suppress(OSError):
            names = {path.name.removesuffix(".lock") for path in self.root.iterdir()}
            for name in sorted(names):
                if name.startswith(_REMOVING):
                    remove(self.root / name)
                elif name.startswith(_BUILDING):
                    self._sweep(self.root / name)

    def _sweep(self, folder: Path) -> None:
        lock_path = folder.with_name(f"{folder.name}.lock")
        fd = _take(lock_path)
        if fd is None:
            return
        try:
            remove(folder)
            lock_path.unlink(missing_ok=True)
        finally:
            os.close(fd)

    @contextlib.asynccontextmanager
    async def workplace(self) -> AsyncIterator[Workplace]:
        """Give a builder a folder of its own; it is removed in the end, with all that is still in it.

        Raises: EnvironmentFailed: the folder cannot be made.
        """
        fd = None
        try:
            self.root.mkdir(mode=0o700, parents=True, exist_ok=True)
            while fd is None:  # one who sweeps may just look at the new name
                folder = self.root / f"{_BUILDING}{secrets.token_hex(6)}"
                lock_path = folder.with_name(f"{folder.name}.lock")
                fd = _take(lock_path)
            folder.mkdir(mode=0o700)
        except OSError as error:
            raise cannot_write(self.root, error) from error
        try:
            yield Workplace(folder, fd)
        finally:
            try:
                await to_the_end(asyncio.to_thread(remove, folder))
            finally:
                lock_path.unlink(missing_ok=True)
                os.close(fd)

    @contextlib.asynccontextmanager
    async def one_at_a_time(self, key: str, on_wait: Callable[[bytes], None]) -> AsyncIterator[Callable[[bytes], None]]:
        """Let one process and task after the other work on what a key stands for.

        Args:
            on_wait: is told what the one who is at it writes, as long as somebody is: at first, and when it changes.

        Yields: what writes for those who wait.
        Raises: EnvironmentFailed: the lock cannot be made.
        """
        folder = self.root / ".locks"
        path = folder / key
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            fd = _take(path)
        except OSError as error:
            raise cannot_write(self.root, error) from error
        heard: bytes | None = None
        while fd is None:
            said = _read(path)
            if said != heard:
                heard = said
                on_wait(said)
            await asyncio.sleep(_RETRY_S)
            fd = _take(path)
        held = fd
        try:
            os.truncate(held, 0)
            yield lambda content: _write(held, content)
        finally:
            path.unlink(missing_ok=True)
            os.close(held)


async def to_the_end(work: Awaitable[T]) -> T:
    """Wait for a thread's work, also when cancelled: nobody else may touch its files before."""
    task = asyncio.ensure_future(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        while not task.done():
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.wait([task])
        raise


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""


def _write(fd: int, content: bytes) -> None:
    """Replace what a lock file holds; a full disk is found out elsewhere."""
    with contextlib.suppress(OSError):
        os.truncate(fd, 0)
        os.pwrite(fd, content, 0)


def _take(path: Path) -> int | None:
    """Take a lock file for this process; None: somebody has it. Closing the descriptor gives it back.

    Raises: OSError: it cannot be made.
    """
    while True:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(fd)
            return None
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(fd), os.stat(path)):
                return fd
        os.close(fd)  # whoever had it has removed it meanwhile


def cannot_write(path: Path, error: OSError) -> EnvironmentFailed:
    """Return the error for a folder or file that cannot be written."""
    return EnvironmentFailed(
        f"{path} cannot be written: {error.strerror or error}.",
        remedy="Make room on the disk or set its permissions; environments lie below the home folder (MODELRACK_HOME).",
    )


def remove(folder: Path) -> None:
    """Remove a folder as far as possible, also one whose parts were made read-only."""
    if folder.is_symlink():
        folder.unlink(missing_ok=True)
        return

    def retry(function: Callable[[str], object], path: str, _: object) -> None:
        with contextlib.suppress(OSError):
            os.chmod(os.path.dirname(path), 0o700)
            os.chmod(path, 0o700)
            function(path)

    if sys.version_info >= (3, 12):
        shutil.rmtree(folder, onexc=retry)
    else:
        shutil.rmtree(folder, onerror=retry)


def now() -> float:
    """Return the time, in whole seconds since the epoch."""
    return float(int(time.time()))
