"""The home folder: who owns it, and where the files of its workers lie."""

import contextlib
import fcntl
import hashlib
import os
import shutil
import stat
import tempfile
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from ..errors import Conflict
from ..settings import Settings
from ..worker.contract import ResultFiles

__all__ = ["LOG_LIMIT_BYTES", "Home", "lock_home", "open_home", "trim_log"]

LOG_LIMIT_BYTES = 64 * 1024 * 1024
"""Size above which a worker's log loses its beginning."""

_LOG_KEPT_BYTES = 1024 * 1024
_SOCKET_PATH_BYTES = 90


@dataclass(frozen=True, slots=True)
class Home:
    """Where the files of this server's workers lie.

    Args:
        root: the home folder.
        sockets: a folder whose path is short enough for Unix sockets.
        owner: the tag that tells this home's processes from others'.
    """

    root: Path
    sockets: Path
    owner: str

    @property
    def lease(self) -> Path:
        """Return the file whose age tells the workers whether a server is there."""
        return self.root / "lease"

    def log(self, model_uid: str, replica_id: int) -> Path:
        """Return the log file of a replica."""
        return self.root / "logs" / f"{model_uid}-{replica_id}.log"

    def run(self, incarnation: str) -> Path:
        """Return the working directory of one start of a worker."""
        return self.root / "run" / incarnation

    def socket(self, incarnation: str) -> Path:
        """Return the socket of one start of a worker."""
        return self.sockets / f"{incarnation}.sock"

    def result_files(self, settings: Settings) -> ResultFiles:
        """Return where workers keep the files that they make for clients."""
        return ResultFiles(
            folder=str(self.root / "files"),
            key_file=str(self.root / "files.key"),
            ttl_s=settings.files_ttl_s,
            max_bytes=int(settings.files_max_mb * 1024 * 1024),
        )

    def make_folders(self) -> None:
        """Make the folders that are not there (any more).

        Raises: OSError: they cannot be made.
        """
        for folder in (self.root, self.root / "logs", self.root / "run", self.sockets):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)

    def sweep(self, kept: Collection[str]) -> None:
        """Remove what workers have left behind, but not what belongs to the `kept` incarnations."""
        for folder in {self.root / "run", self.sockets}:
            for path in folder.iterdir():
                if path.name.removesuffix(".sock") in kept:
                    continue
                with contextlib.suppress(OSError):
                    shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()


def open_home(root: Path) -> Home:
    """Make the home's folders, and find a place for sockets whose paths the system accepts.

    Raises: Conflict: somebody else has taken that place. OSError: a folder cannot be made.
    """
    root = root.resolve()
    owner = hashlib.sha256(str(root).encode()).hexdigest()[:16]
    sockets = root / "run"
    if len(os.fsencode(sockets)) + 24 > _SOCKET_PATH_BYTES:
        base = Path(os.environ.get("XDG_RUNTIME_DIR") or tempfile.gettempdir())
        sockets = base / f"modelrack-{os.getuid()}-{owner[:8]}"
    home = Home(root, sockets, owner)
    home.make_folders()
    found = sockets.lstat()  # everybody may write to the folder above: a link could lead anywhere
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid():
        raise Conflict(f"{sockets} belongs to another user.", remedy="Set MODELRACK_HOME to a shorter path.")
    sockets.chmod(0o700)
    return home


def lock_home(root: Path) -> int:
    """Take the home for this process, and return the descriptor that holds it.

    Raises: Conflict: another server has it. OSError: the folder cannot be made.
    """
    root.mkdir(mode=0o700, parents=True, exist_ok=True)
    fd = os.open(root / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(fd)
        raise Conflict(
            f"Another modelrack server uses the home folder {root}.",
            remedy="Stop it, or give this one its own folder: modelrack serve --home DIR (or MODELRACK_HOME).",
        ) from None
    return fd


def trim_log(path: Path, limit_bytes: int = LOG_LIMIT_BYTES) -> None:
    """Cut a log that has grown over its limit down to its end; its writer appends, and goes on after that.

    Raises: OSError: it is not there, or cannot be written.
    """
    if path.stat().st_size <= limit_bytes:
        return
    with path.open("r+b") as file:
        file.seek(-min(_LOG_KEPT_BYTES, limit_bytes), os.SEEK_END)
        end = file.read(_LOG_KEPT_BYTES)
        file.truncate(0)
    with path.open("ab") as file:
        file.write(b"[the beginning of this log was cut off]\n" + end)
