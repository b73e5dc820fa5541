"""Look into an environment: what is installed, how large it is, and what is wrong with it."""

import asyncio
import base64
import contextlib
import hashlib
import os
import stat
from pathlib import Path

from .errors import EnvironmentFailed
from .interpreter import InterpreterFailed, ask_interpreter
from .lock import Locked, read_lock
from .portable import is_left_out
from .records import Damaged, Found, Place, find_distributions, identify, read_record
from .store import FACTS, LOCK, Built, Package, interpreter

__all__ = ["find_faults", "installed", "measure", "packages_folder"]

_CODE = (".py", ".pyc", ".pyo", ".pth", ".so", ".dylib", ".egg-link")
"""Ends of names of what an interpreter loads."""

_PROBE = "import json,platform,sys;print(json.dumps([platform.python_version(),sys.prefix]))"


def packages_folder(folder: Path) -> Path:
    """Return the folder `site-packages` of an environment.

    Raises: OSError: it has none.
    """
    for path in sorted((folder / "lib").glob("python*/site-packages")):
        return path
    raise FileNotFoundError(f"{folder} has no folder site-packages")


def installed(folder: Path) -> tuple[Package, ...]:
    """Return the distributions in an environment, by name.

    Raises: OSError: it has no packages. EnvironmentFailed: one of them does not say what it is.
    """
    packages = set()
    for found in find_distributions(packages_folder(folder)):
        try:
            packages.add(Package(*identify(found)))
        except Damaged as error:
            raise EnvironmentFailed(f"The distribution {found.name} is damaged: {error}.") from error
    return tuple(sorted(packages, key=lambda package: package.name))


def measure(folder: Path) -> int:
    """Return the size of all files below a folder, in bytes; some may come and go meanwhile."""
    total = 0
    for root, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(FileNotFoundError):
                total += os.lstat(os.path.join(root, name)).st_size
    return total


async def find_faults(built: Built, *, full: bool = False, strict: bool = False, unlisted: bool = False) -> list[str]:
    """Return what is wrong with an environment: its interpreter, its distributions and their files.

    Args:
        full: compare the content of every file with its hash, not only its size.
        strict: code that belongs to no distribution is a fault too, and the interpreter is started only where there
            is no fault: it runs such code.
        unlisted: every file that belongs to no distribution is a fault, code or not.
    """
    faults = await asyncio.to_thread(_find_faults, built, full, strict, unlisted)
    return faults if strict and faults else [*await _try_interpreter(built), *faults]


async def _try_interpreter(built: Built) -> list[str]:
    """Start the interpreter."""
    try:
        version, prefix = map(str, await ask_interpreter(interpreter(built.folder), _PROBE))
    except InterpreterFailed as error:
        return [f"its interpreter {interpreter(built.folder)} cannot be used: {error}"]
    except (TypeError, ValueError):
        return [f"its interpreter {interpreter(built.folder)} does not say what it is"]
    faults = []
    if version.split(".")[:2] != built.python_version.split(".")[:2]:
        faults.append(f"its interpreter is Python {version}, and it was made for {built.python_version}")
    if os.path.realpath(prefix) != os.path.realpath(built.folder):
        faults.append(f"its interpreter belongs to {prefix}")
    return faults


def _find_faults(built: Built, full: bool, strict: bool, unlisted: bool) -> list[str]:
    try:
        packages = packages_folder(built.folder)
        there = find_distributions(packages)
        locked = _read_lock(built)
    except (OSError, Damaged) as error:
        return [str(error)]
    inspector = _Inspector(Place(built.folder, packages), full)
    faults: list[str] = []
    names: dict[str, str] = {}
    meant = {item.name: item for item in locked}
    for found in there:
        try:
            name, version = identify(found)
            if name in names:
                faults.append(f"{name} is there twice")
                continue
            names[name] = version
            if name in meant and meant[name].version in ("", version):
                faults += inspector.check(found, name)
            else:  # that it is there at all is the fault that is told
                inspector.is_complete = False
        except Damaged as error:
            inspector.is_complete = False
            faults.append(f"{found.name}: {error}")
            names.setdefault(found.name, "")
    faults += _name_faults(meant, names, built.absent)
    if (strict and not faults) or (unlisted and inspector.is_complete):
        faults += _stray_faults(built.folder, packages, inspector.listed, is_data_too=unlisted)
    return faults


def _read_lock(built: Built) -> tuple[Locked, ...]:
    major, minor, *_ = built.python_version.split(".")
    markers = {"python_version": f"{major}.{minor}", "python_full_version": built.python_version}
    try:
        return read_lock((built.folder / LOCK).read_text(), markers)
    except OSError as error:
        raise Damaged("its lock is gone") from error
    except UnicodeDecodeError as error:
        raise Damaged("its lock is damaged: it is no UTF-8") from error
    except EnvironmentFailed as error:
        raise Damaged(f"its lock is damaged: {error.message}") from error


def _name_faults(meant: dict[str, Locked], there: dict[str, str], absent: tuple[str, ...]) -> list[str]:
    """Compare which distributions there are with those of the lock; a version that is empty was told already."""
    faults = []
    for name, item in meant.items():
        version = there.get(name)
        if version is None:
            faults.append(f"{name} is missing")
        elif version and item.version and version != item.version:
            faults.append(f"{name} is of version {version}, and {item.version} is locked")
    faults += [f"{name} is there, and must not be" for name in absent if name in there]
    return faults + [f"{name} was added" for name in sorted(set(there) - set(meant) - set(absent))]


class _Inspector:
    """Compares files with what the lists of their distributions say.

    Attributes:
        listed: the files that are named by some list.
        is_complete: the lists of all distributions could be read.
    """

    def __init__(self, place: Place, full: bool) -> None:
        self._place = place
        self._full = full
        self.listed: set[str] = set()
        self.is_complete = True

    def check(self, found: Found, name: str) -> list[str]:
        """Return what is wrong with the files of a distribution.

        Raises: Damaged: its list cannot be used.
        """
        faults: dict[str, list[str]] = {}
        for row in read_record(found):
            target = self._place.locate(row.path)
            what = "outside of the environment"
            if target is not None:
                self.listed.add(target)
                what = self._compare(target, row.hash, row.size)
            if what:
                faults.setdefault(what, []).append(row.path)
        return [
            f"{name}: {len(paths)} {'file is' if len(paths) == 1 else 'files are'} {what}: {', '.join(paths[:3])}"
            for what, paths in sorted(faults.items(), key=lambda item: item[0] != "gone")
        ]

    def _compare(self, target: str, hash_: str, size: int | None) -> str:
        """Return what has become of a file; empty: nothing."""
        try:
            status = os.lstat(target)
        except OSError:
            return "gone"
        if not stat.S_ISREG(status.st_mode):  # a device may have no end, and a pipe nobody who writes
            return "not regular"
        is_changed = size not in (None, status.st_size) or (self._full and hash_ and not _has_hash(target, hash_))
        return "changed" if is_changed else ""


def _stray_faults(folder: Path, packages: Path, listed: set[str], *, is_data_too: bool) -> list[str]:
    """Return what no distribution lists and may be run all the same.

    Args:
        is_data_too: also data below a listed package, which no interpreter runs.
    """
    root, inside = os.path.realpath(folder), f"{os.path.realpath(packages)}/"
    tops = {path.removeprefix(inside).partition("/")[0] for path in listed if path.startswith(inside)}
    found = []
    for base, folders, names in os.walk(root):
        links = [name for name in folders if os.path.islink(os.path.join(base, name))]
        for name in sorted([*names, *links]):
            path = os.path.join(base, name)
            below = os.path.relpath(path, root)
            if path in listed or below in (FACTS, LOCK) or is_left_out(below):
                continue
            top, slash, _ = path.removeprefix(inside).partition("/")
            is_below = path.startswith(inside) and slash and top in tops
            if is_data_too or not is_below or os.path.islink(path) or name.endswith(_CODE):
                found.append(below)
    more = f" and {len(found) - 3} more" if len(found) > 3 else ""
    return [f"no distribution lists {', '.join(found[:3])}{more}"] if found else []


def _has_hash(path: str, expected: str) -> bool:
    name, _, value = expected.partition("=")
    try:
        with open(path, "rb") as file:
            digest = hashlib.file_digest(file, name).digest()
    except (OSError, TypeError, ValueError):  # a TypeError: an algorithm without a length of its own
        return False
    return base64.urlsafe_b64encode(digest).rstrip(b"=").decode() == value
