"""Let environments that hold the same distribution hold its files only once."""

import csv
import filecmp
import os
import secrets
from collections.abc import Iterable, Iterator
from contextlib import suppress
from importlib.metadata import Distribution, distributions
from pathlib import Path

from .inspection import packages_folder

__all__ = ["share_files"]

_SMALLEST_BYTES = 4096


def share_files(folder: Path, others: Iterable[Path]) -> int:
    """Replace files of an environment by hard links to the same ones of others, and return how many bytes that saved.

    uv does so itself where its cache lies on the same file system. Only what lists of installed files name counts, of
    the same distribution and version, with the same content; small files are left as they are.
    """
    saved = 0
    known = {(item.name, item.version): item for other in others for item in _distributions(other)}
    for item in _distributions(folder):
        other = known.get((item.name, item.version))
        for path, size in _large_files(item) if other is not None else ():
            target = str(item.locate_file(path))
            with suppress(OSError):
                saved += _link(str(other.locate_file(path)) if other else "", target, size)
    return saved


def _distributions(folder: Path) -> Iterator[Distribution]:
    with suppress(OSError):
        yield from distributions(path=[str(packages_folder(folder))])


def _large_files(distribution: Distribution) -> Iterator[tuple[str, int]]:
    for row in csv.reader((distribution.read_text("RECORD") or "").splitlines()):
        if len(row) == 3 and row[2].isdigit() and int(row[2]) >= _SMALLEST_BYTES:
            yield row[0], int(row[2])


def _link(source: str, target: str, size: int) -> int:
    """Put a hard link to `source` in the place of `target` if both are the same files; return the bytes saved."""
    if os.path.islink(target) or os.path.samefile(source, target) or not filecmp.cmp(source, target, shallow=False):
        return 0
    if os.stat(source).st_mode != os.stat(target).st_mode:
        return 0
    draft = f"{target}.{secrets.token_hex(4)}"
    os.link(source, draft, follow_symlinks=False)
    os.replace(draft, target)
    return size
