"""The process of a download: `python -P -m modelrack.catalog.fetcher`, a job on stdin, JSON lines on stdout.

It ends when stdin is closed, so that none outlives the server.
"""

import contextlib
import errno
import json
import os
import shutil
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, cast

from ..errors import LaunchFailed, ModelrackError
from ..hooks.types import Family, ModelFiles, Source, Variant
from .cache import write_record
from .gguf import read_metadata
from .hubs import Fetch, FetchRequest, Snapshot, folder_bytes
from .selection import Selection, expand, select

__all__ = ["main", "measure", "run"]

_INTERVAL_S = 0.2
_COPY_BYTES = 4 << 20


class _Progress:
    """Says how far it is, a few times a second."""

    def __init__(self) -> None:
        self.total = 0
        self._done = 0
        self._last = 0.0

    def say(self, file: str, count: int) -> None:
        """Count bytes of a file that are here now."""
        self._done += count
        now = time.monotonic()
        if now - self._last >= _INTERVAL_S or self._done >= self.total:
            self._last = now
            _tell({"progress": {"downloaded_bytes": self._done, "total_bytes": self.total, "file": file}})


def main() -> int:
    """Run one download; returns the exit status."""
    job = json.loads(sys.stdin.buffer.readline())
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        if job.get("measures"):
            _tell({"result": {"bytes": measure(job)}})
            return 0
        files = run(job)
    except ModelrackError as error:
        return _fail(error)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        return _fail(_no_space(Path(job["cache_dir"]), 0))
    _tell({"result": {"path": files.path, "format": files.format, "projector": files.projector}})
    return 0


def _fail(error: ModelrackError) -> int:
    _tell({"error": {"message": error.message, "remedy": error.remedy}})
    return 1


def run(job: Mapping[str, Any]) -> ModelFiles:
    """Fetch what a job asks for, and record it in the cache.

    Raises: LaunchFailed; OSError.
    """
    source = _source(job["source"])
    quantization = str(job["quantization"])
    folder = Path(job["cache_dir"]) / source.hub
    folder.mkdir(parents=True, exist_ok=True)
    progress = _Progress()
    chosen: list[Selection] = []

    def choose(files: Mapping[str, int | None]) -> Sequence[str]:
        selection = select(source, job["format"], quantization, files)
        chosen.append(selection)
        progress.total = sum(files.get(name) or 0 for name in selection.files)
        if progress.total > shutil.disk_usage(folder).free + folder_bytes(folder):
            raise _no_space(folder, progress.total)
        progress.say("", 0)
        return selection.files

    request = FetchRequest(repo=expand(source.repo, quantization), revision=source.revision, folder=folder)
    snapshot = _load(str(job["fetch"]))(request, choose, progress.say)
    return _record(job, source, snapshot, chosen[-1])


class _Measured(BaseException):
    """Leaves a hub's function once the files are listed; none of them shall take it for a failure of its own."""


def measure(job: Mapping[str, Any]) -> int | None:
    """Return how many bytes a job would download; None if the hub does not say how large files are.

    Raises: LaunchFailed: the hub cannot be reached, or does not have the files.
    """
    source = _source(job["source"])
    quantization = str(job["quantization"])
    sizes: list[int | None] = []

    def choose(files: Mapping[str, int | None]) -> Sequence[str]:
        sizes.extend(files[name] for name in select(source, job["format"], quantization, files).files)
        raise _Measured

    folder = Path(job["cache_dir"]) / source.hub
    request = FetchRequest(repo=expand(source.repo, quantization), revision=source.revision, folder=folder)
    with contextlib.suppress(_Measured):
        _load(str(job["fetch"]))(request, choose, lambda file, count: None)
    known = [size for size in sizes if size is not None]
    return sum(known) if known and len(known) == len(sizes) else None


def _record(job: Mapping[str, Any], source: Source, snapshot: Snapshot, selection: Selection) -> ModelFiles:
    cache_dir = Path(job["cache_dir"])
    files = [snapshot.folder / name for name in selection.files]
    path = snapshot.folder / selection.entry if selection.entry else snapshot.folder
    if selection.joined:
        path = _join([snapshot.folder / name for name in selection.joined])
        files = [path, *(snapshot.folder / name for name in selection.files if name not in selection.joined)]
    quantization, form = str(job["quantization"]), str(job["format"])
    if job["is_adhoc"] and quantization == "none" and form == "gguf":
        quantization = selection.quantization or read_metadata(path).quantization
    record = write_record(
        cache_dir,
        family=Family(name=job["model_name"], model_type=job["model_type"]),
        variant=Variant(format=form, size_b=job["size_b"]),
        quantization=quantization,
        source=source,
        commit=snapshot.commit,
        folder=snapshot.folder,
        path=path,
        projector=snapshot.folder / selection.projector if selection.projector else None,
        files=files,
    )
    return record.model_files(cache_dir)


def _join(parts: Sequence[Path]) -> Path:
    """Lay parts end to end into one file, and remove them: engines read whole files, or parts in GGUF's own way."""
    name = parts[0].name
    target = parts[0].with_name(f"{name[: name.lower().index('.gguf')]}.gguf")
    temporary = target.with_name(f"{target.name}.incomplete")
    with temporary.open("wb") as stream:
        for part in parts:
            with part.open("rb") as piece:
                shutil.copyfileobj(piece, stream, _COPY_BYTES)
        stream.flush()
        os.fsync(stream.fileno())
    os.replace(temporary, target)
    for part in parts:
        blob = Path(os.path.realpath(part))
        part.unlink()
        if blob != part:
            blob.unlink(missing_ok=True)
    return target


def _source(data: Mapping[str, Any]) -> Source:
    lists = {name: tuple(data[name]) for name in ("quantizations", "projectors")}
    parts = {name: tuple(value) if isinstance(value, list) else value for name, value in data["parts"].items()}
    return Source(**{**data, **lists, "parts": parts})


def _load(path: str) -> Fetch:
    module, _, name = path.partition(":")
    return cast(Fetch, getattr(import_module(module), name))


def _no_space(folder: Path, needed: int) -> LaunchFailed:
    free = shutil.disk_usage(folder).free
    amount = f"{needed / 1e9:.1f} GB are to be downloaded, and " if needed else ""
    return LaunchFailed(
        f"The disk of {folder} is too full: {amount}{free / 1e9:.1f} GB are free.",
        remedy="Remove models (modelrack cached lists them), or put the cache elsewhere with MODELRACK_CACHE.",
    )


def _tell(message: Mapping[str, Any]) -> None:
    sys.stdout.write(json.dumps(message) + "\n")
    sys.stdout.flush()


def _end_with_parent() -> None:
    # Not through sys.stdin: a thread that waits inside of it keeps the interpreter from ending.
    while os.read(0, 4096):
        pass
    os._exit(130)


if __name__ == "__main__":
    sys.exit(main())
