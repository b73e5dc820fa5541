"""Look into an environment: what is installed, how large it is, and what is wrong with it."""

import asyncio
import base64
import contextlib
import csv
import hashlib
import os
from collections.abc import Iterator
from importlib.metadata import Distribution, distributions
from pathlib import Path

from packaging.utils import canonicalize_name

from .errors import EnvironmentFailed
from .interpreter import InterpreterFailed, ask_interpreter
from .lock import read_lock
from .store import LOCK, Built, Package, interpreter

__all__ = ["find_faults", "installed", "measure", "packages_folder"]

_PROBE = "import json,platform,sys;print(json.dumps([platform.python_version(),sys.prefix]))"


def packages_folder(folder: Path) -> Path:
    """Return the folder `site-packages` of an environment.

    Raises: OSError: it has none.
    """
    for path in sorted((folder / "lib").glob("python*/site-packages")):
        return path
    raise FileNotFoundError(f"{folder} has no folder site-packages")


def _distributions(folder: Path) -> Iterator[Distribution]:
    return iter(distributions(path=[str(packages_folder(folder))]))


def installed(folder: Path) -> tuple[Package, ...]:
    """Return the distributions in an environment, by name.

    Raises: OSError: it has no packages.
    """
    found = {Package(canonicalize_name(item.name), item.version) for item in _distributions(folder)}
    return tuple(sorted(found, key=lambda package: package.name))


def measure(folder: Path) -> int:
    """Return the size of all files below a folder, in bytes; some may come and go meanwhile."""
    total = 0
    for root, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(FileNotFoundError):
                total += os.lstat(os.path.join(root, name)).st_size
    return total


async def find_faults(built: Built, *, full: bool = False) -> list[str]:
    """Return what is wrong with an environment: its interpreter, its distributions and their files.

    Args:
        full: compare the content of every file with its hash, not only its size.
    """
    running = await _try_interpreter(built)
    return [*running, *await asyncio.to_thread(_find_faults, built, full)]


async def _try_interpreter(built: Built) -> list[str]:
    """Start the interpreter."""
    try:
        version, prefix = await ask_interpreter(interpreter(built.folder), _PROBE)
    except InterpreterFailed as error:
        return [f"its interpreter {interpreter(built.folder)} cannot be used: {error}"]
    faults = []
    if version.split(".")[:2] != built.python_version.split(".")[:2]:
        faults.append(f"its interpreter is Python {version}, and it was made for {built.python_version}")
    if os.path.realpath(prefix) != os.path.realpath(built.folder):
        faults.append(f"its interpreter belongs to {prefix}")
    return faults


def _find_faults(built: Built, full: bool) -> list[str]:
    try:
        there = {str(canonicalize_name(item.name)): item for item in _distributions(built.folder)}
    except OSError as error:
        return [str(error)]
    try:
        major, minor, *_ = built.python_version.split(".")
        markers = {"python_version": f"{major}.{minor}", "python_full_version": built.python_version}
        locked = read_lock((built.folder / LOCK).read_text(), markers)
    except OSError:
        return ["its lock is gone"]
    except EnvironmentFailed as error:
        return [f"its lock is damaged: {error.message}"]
    faults = []
    for item in locked:
        found = there.get(item.name)
        if found is None:
            faults.append(f"{item.name} is missing")
        elif item.version and found.version != item.version:
            faults.append(f"{item.name} is of version {found.version}, and {item.version} is locked")
        else:
            faults += _file_faults(found, item.name, full)
    faults += [f"{name} is there, and must not be" for name in built.absent if name in there]
    strangers = sorted(set(there) - {item.name for item in locked} - set(built.absent))
    faults += [f"{name} was added" for name in strangers]
    return faults


def _file_faults(distribution: Distribution, name: str, full: bool) -> list[str]:
    record = distribution.read_text("RECORD")
    if record is None:
        return [f"{name} has no list of its files"]
    gone, changed = [], []
    for row in csv.reader(record.splitlines()):
        path, hash_, size = (*row, "", "")[:3]
        target = str(distribution.locate_file(path))
        try:
            length = os.stat(target).st_size
        except OSError:
            gone.append(path)
            continue
        if (size and length != int(size)) or (full and hash_ and not _has_hash(target, hash_)):
            changed.append(path)
    return [
        f"{name}: {len(paths)} {'file is' if len(paths) == 1 else 'files are'} {what}: {', '.join(paths[:3])}"
        for paths, what in ((gone, "gone"), (changed, "changed"))
        if paths
    ]


def _has_hash(path: str, expected: str) -> bool:
    name, _, value = expected.partition("=")
    try:
        with open(path, "rb") as file:
            digest = hashlib.file_digest(file, name).digest()
    except (OSError, ValueError):
        return False
    return base64.urlsafe_b64encode(digest).rstrip(b"=").decode() == value
