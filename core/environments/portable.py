"""An environment as one file: a tar archive of all but the interpreter, with the facts and the lock in front."""

import os
import re
import secrets
import stat
import tarfile
from collections.abc import Callable
from pathlib import Path, PurePosixPath

from ..errors import AlreadyExists, BadRequest
from .errors import EnvironmentFailed
from .store import FACTS, LOCK, Built, parse_facts

__all__ = ["is_left_out", "pack", "peek", "unpack"]

_STEP_BYTES = 1 << 20
_HEAD = (FACTS, LOCK)
_OF_THE_INTERPRETER = re.compile(
    r"(pyvenv\.cfg|\.gitignore|\.lock|CACHEDIR\.TAG|lib64|bin/(python[\d.]*|activate(\..*|_this\.py)?|deactivate\.bat|pydoc\.bat))$"
)
"""What `uv venv` makes: an import makes it anew, for the interpreter that is there."""

_BESIDE_PACKAGES = re.compile(r"lib/python[\d.]+t?/site-packages/_virtualenv\.(py|pth)$")
"""What `uv venv` puts among the packages; files of older versions have it."""


def is_left_out(path: str) -> bool:
    """Return whether a path below an environment is of what `uv venv` or the interpreter makes."""
    if "__pycache__" in PurePosixPath(path).parts:
        return True
    return bool(_OF_THE_INTERPRETER.match(path) or _BESIDE_PACKAGES.match(path))


def pack(built: Built, target: Path, on_bytes: Callable[[int], None]) -> None:
    """Write an environment to a file; compressed if its name ends with `.gz` or `.tgz`.

    Args:
        on_bytes: is told how much has been read so far.

    Raises: AlreadyExists: the file is there. OSError: it cannot be written.
    """
    if target.exists() or target.is_symlink():
        raise AlreadyExists(f"{target} is there already.", remedy="Name another file, or remove it.")
    draft = target.with_name(f".{target.name}.{secrets.token_hex(4)}")
    try:
        with _open_draft(draft, is_compressed=target.name.endswith((".gz", ".tgz"))) as archive:
            done = told = 0
            for path in _members(built.folder):
                archive.add(built.folder / path, path, recursive=False, filter=_anonymous)
                done += (built.folder / path).lstat().st_size
                if done - told >= _STEP_BYTES:
                    told = done
                    on_bytes(done)
        os.replace(draft, target)
    finally:
        draft.unlink(missing_ok=True)


def _open_draft(path: Path, *, is_compressed: bool) -> tarfile.TarFile:
    # Libraries are hard to compress: more effort takes minutes for gigabytes, and saves little.
    return tarfile.open(path, "w:gz", compresslevel=1) if is_compressed else tarfile.open(path, "w")


def _members(folder: Path) -> list[str]:
    """Return what is packed, by paths below the environment: facts and lock first."""
    found = []
    for root, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if name != "__pycache__")
        base = os.path.relpath(root, folder)
        links = [name for name in folders if os.path.islink(os.path.join(root, name))]
        for name in sorted([*names, *links]):
            path = os.path.normpath(os.path.join(base, name))
            if path not in _HEAD and not is_left_out(path) and not name.endswith(".pyc"):
                found.append(path)
    return [*_HEAD, *found]


def _anonymous(member: tarfile.TarInfo) -> tarfile.TarInfo:
    """Take out whose the files are here."""
    member.uid = member.gid = 0
    member.uname = member.gname = ""
    return member


def peek(source: Path) -> tuple[Built, str]:
    """Read the facts and the lock of a packed environment.

    Raises: BadRequest: the file cannot be read, or is none.
    """
    try:
        if not stat.S_ISREG(source.stat().st_mode):
            raise BadRequest(f"{source} cannot be read: it is no regular file.")
        with tarfile.open(source, "r:*") as archive:
            head: list[bytes] = []
            for name in _HEAD:
                member = archive.next()
                if member is None or member.name != name or not member.isfile() or member.size > 16 << 20:
                    raise _is_none(source)
                content = archive.extractfile(member)
                head.append(content.read() if content else b"")
    except (tarfile.TarError, EOFError, ValueError) as error:
        raise _is_none(source) from error
    except OSError as error:
        raise BadRequest(f"{source} cannot be read: {error.strerror or error}.") from error
    built = parse_facts(head[0], Path())
    if built is None:
        raise _is_none(source)
    return built, head[1].decode(errors="replace")


def _is_none(source: Path) -> BadRequest:
    return BadRequest(
        f"{source} is no environment that this version of modelrack has exported.",
        remedy="Make one with: modelrack env export NAME FILE",
    )


def unpack(source: Path, folder: Path, on_bytes: Callable[[int], None]) -> None:
    """Write the files of a packed environment into a fresh one; the facts are left out.

    Args:
        on_bytes: is told how much has been written so far.

    Raises: BadRequest: the file is damaged, or holds what does not belong into an environment. OSError: a file cannot
        be written.
    """
    if not hasattr(tarfile, "data_filter"):
        raise EnvironmentFailed("Files can be imported safely from Python 3.11.4 on, and the server's is older.")
    done = told = 0
    taken: set[str] = set()
    try:
        with tarfile.open(source, "r:*") as archive:
            for given in archive:
                member = _vet(given, folder, taken, source)
                if member is None:
                    continue
                # The filter refuses paths and links that lead out of the folder, devices, and bits of privilege.
                archive.extract(member, folder, filter="data")
                taken.add(member.name)
                done += member.size
                if done - told >= _STEP_BYTES:
                    told = done
                    on_bytes(done)
    except (tarfile.TarError, EOFError, ValueError) as error:
        raise BadRequest(f"{source} is damaged: {error}.") from error


def _vet(given: tarfile.TarInfo, folder: Path, taken: set[str], source: Path) -> tarfile.TarInfo | None:
    """Return a member as it is to be unpacked, its name in the plainest form; None: it is left out.

    Args:
        taken: names of what is unpacked already.

    Raises: BadRequest: it does not belong into an environment.
    """
    name = os.path.normpath(given.name)
    refused = BadRequest(f"{source} holds {given.name}, which an environment does not take from a file.")
    if name.startswith(("/", "../")) or name == ".." or _OF_THE_INTERPRETER.match(name):
        raise refused
    if name == FACTS or is_left_out(name):
        return None
    if given.isdir():
        return given.replace(name=name, deep=False)
    # A link may stand in the way of what comes later, and what comes later must not change what is there.
    if not given.isreg() and not given.islnk():
        raise refused
    if os.path.lexists(folder / name):
        raise refused
    if not given.islnk():
        return given.replace(name=name, deep=False)
    target = os.path.normpath(given.linkname)
    if target not in taken:
        raise refused
    return given.replace(name=name, linkname=target, deep=False)
