"""Read what a distribution says of itself and its files; nothing that is read is taken for true."""

import csv
import io
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from email.parser import HeaderParser
from pathlib import Path

from packaging.utils import canonicalize_name

__all__ = ["Damaged", "Found", "Place", "Row", "find_distributions", "identify", "read_record"]

_INFO = (".dist-info", ".egg-info")


class Damaged(Exception):
    """A distribution's own files cannot be used; the text is the reason, as a clause."""


@dataclass(frozen=True, slots=True)
class Found:
    """The folder in which a distribution describes itself.

    Args:
        name: by the folder's name.
    """

    name: str
    info: Path


@dataclass(frozen=True, slots=True)
class Row:
    """One line of a list of files: path, hash and size as they stand there; a size of None is not given."""

    path: str
    hash: str
    size: int | None


def find_distributions(packages: Path) -> list[Found]:
    """Return the distributions in a folder `site-packages`, by the names of their folders.

    Raises: OSError: it cannot be read.
    """
    names = sorted(entry for entry in os.listdir(packages) if entry.endswith(_INFO))
    return [Found(canonicalize_name(name.rpartition(".")[0].partition("-")[0]), packages / name) for name in names]


def identify(found: Found) -> tuple[str, str]:
    """Return name and version of a distribution, as its metadata has them.

    Raises: Damaged: there are none.
    """
    if found.info.suffix == ".egg-info":
        path = found.info / "PKG-INFO" if found.info.is_dir() else found.info
    else:
        path = found.info / "METADATA"
    headers = HeaderParser().parsestr(_read(path).decode(errors="replace"))
    name, version = str(headers.get("Name", "")).strip(), str(headers.get("Version", "")).strip()
    if not name or not version:
        raise Damaged(f"its {path.name} has no name and version")
    return canonicalize_name(name), version


def read_record(found: Found) -> Iterator[Row]:
    """Return the lines of the list of files.

    Raises: Damaged: there is none, or a line is none.
    """
    try:
        text = _read(found.info / "RECORD").decode()
    except UnicodeDecodeError as error:
        raise Damaged("its RECORD is damaged: it is no UTF-8") from error
    if "\0" in text:
        raise Damaged("its RECORD is damaged: it holds a NUL")
    reader = csv.reader(io.StringIO(text, newline=""))
    try:
        for row in reader:
            yield _parse(row, reader.line_num)
    except csv.Error as error:
        raise Damaged(f"its RECORD is damaged: line {reader.line_num}: {error}") from error


def _parse(row: list[str], number: int) -> Row:
    path, hash_, size = (*row, "", "", "")[:3]
    if not path:
        raise Damaged(f"its RECORD is damaged: line {number} names no file")
    if size and not (size.isascii() and size.isdigit() and len(size) < 20):
        raise Damaged(f"its RECORD is damaged: line {number} has the size {size[:20]!r}")
    return Row(path, hash_, int(size) if size else None)


def _read(path: Path) -> bytes:
    try:
        if not stat.S_ISREG(path.lstat().st_mode):
            raise Damaged(f"its {path.name} is no regular file")
        return path.read_bytes()
    except FileNotFoundError as error:
        raise Damaged(f"its {path.name} is gone") from error
    except OSError as error:
        raise Damaged(f"its {path.name} cannot be read: {error.strerror or error}") from error


class Place:
    """Where the files of an environment lie: below its folder, whatever a list says."""

    def __init__(self, folder: Path, packages: Path) -> None:
        self._root = os.path.realpath(folder)
        self._packages = os.path.realpath(packages)
        self._parents: dict[str, str] = {}

    def locate(self, path: str) -> str | None:
        """Return where a listed file lies, with no link on the way to it; None: outside of the environment.

        The file itself may be a link, or not be there.
        """
        parent, name = os.path.split(os.path.join(self._packages, path))
        if parent not in self._parents:
            self._parents[parent] = os.path.realpath(parent)
        real = self._parents[parent]
        if name in ("", ".", "..") or not f"{real}/".startswith(f"{self._root}/"):
            return None
        return os.path.join(real, name)
