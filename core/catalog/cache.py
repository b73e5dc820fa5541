"""The downloaded models: hubs keep their files in their own layout, and one small record says what belongs to a model.

Layout below the cache folder: `<hub>/` as the hub's client lays it out, `records/<model version>.<hash>.json`.
"""

import hashlib
import json
import os
import re
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from ..errors import BadRequest
from ..hooks.types import Family, ModelFiles, Source, Variant
from .names import format_size, model_version, rank_quantization, same_quantization

__all__ = [
    "Record",
    "by_version",
    "cached_files",
    "find_cached",
    "find_cached_repository",
    "list_cached",
    "read_records",
    "remove_cached",
    "write_record",
]

_SCHEMA = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """One downloaded form of a model. Paths are relative to the cache folder.

    Args:
        folder: the hub's folder of this snapshot.
        path: what an engine loads.
        files: sizes of all files, by path.
        file: the template of the file's name that the source gives.
        commit: the revision that was downloaded, as the hub calls it.
    """

    model_version: str
    model_name: str
    model_type: str
    format: str
    size_b: float | None
    quantization: str
    hub: str
    repo: str
    revision: str | None
    file: str | None
    commit: str
    folder: str
    path: str
    projector: str | None = None
    files: Mapping[str, int] = field(default_factory=dict)
    created_ts: int = 0

    def is_complete(self, cache_dir: Path) -> bool:
        """Tell whether every file is there with its size."""
        try:
            return bool(self.files) and all(
                os.stat(cache_dir / name).st_size == size for name, size in self.files.items()
            )
        except (OSError, ValueError):
            return False

    def model_files(self, cache_dir: Path) -> ModelFiles:
        """Return what an engine loads."""
        return ModelFiles(
            path=str(cache_dir / self.path),
            format=self.format,
            projector=str(cache_dir / self.projector) if self.projector else None,
        )


def read_records(cache_dir: Path) -> list[Record]:
    """Read all records, by version; those that cannot be read, or that point outside of the cache, are left out."""
    folder = cache_dir / "records"
    try:
        return list(_read_unchanged(cache_dir, folder.stat().st_mtime_ns, tuple(sorted(os.listdir(folder)))))
    except OSError:
        return []


@lru_cache(maxsize=4)
def _read_unchanged(cache_dir: Path, _modified_ns: int, names: tuple[str, ...]) -> tuple[Record, ...]:
    records = []
    for file in (cache_dir / "records" / name for name in names if name.endswith(".json")):
        try:
            data = json.loads(file.read_text(encoding="utf-8"))
            if data.pop("schema") != _SCHEMA:
                continue
            record = Record(**data)
            paths = [record.folder, record.path, *record.files, *([record.projector] if record.projector else [])]
            if all(_is_inside(path) for path in paths):
                records.append(record)
        except (OSError, ValueError, TypeError, AttributeError, KeyError):
            continue
    return tuple(sorted(records, key=lambda record: record.model_version.lower()))


def by_version(records: Iterable[Record]) -> dict[str, list[Record]]:
    """Return records by model version."""
    index: dict[str, list[Record]] = {}
    for record in records:
        index.setdefault(record.model_version, []).append(record)
    return index


def find_cached(
    index: Mapping[str, Sequence[Record]], cache_dir: Path, family: Family, variant: Variant, quantization: str
) -> tuple[Source, ModelFiles] | None:
    """Return the files of a variant, with their source, if they were downloaded completely."""
    if not index:
        return None
    for record in index.get(model_version(family.name, variant, quantization), ()):
        if record.model_type != family.model_type:
            continue
        for source in variant.sources:
            if (source.hub, source.repo, source.revision) == (record.hub, record.repo, record.revision):
                if record.is_complete(cache_dir):
                    return source, record.model_files(cache_dir)
                break
    return None


def find_cached_repository(
    records: Iterable[Record], cache_dir: Path, family: Family, source: Source, form: str, quantization: str
) -> ModelFiles | None:
    """Return downloaded files of a repository that no family describes: of a quantization, or (`none`) the best one."""
    found = [
        record
        for record in records
        if (record.model_name, record.model_type, record.format) == (family.name, family.model_type, form)
        and (record.hub, record.repo, record.revision) == (source.hub, source.repo, source.revision)
        and record.file == source.file
        and (quantization == "none" or same_quantization(record.quantization, quantization))
        and record.is_complete(cache_dir)
    ]
    best = min(found, key=lambda record: rank_quantization(record.quantization), default=None)
    return best.model_files(cache_dir) if best else None


def write_record(
    cache_dir: Path,
    *,
    family: Family,
    variant: Variant,
    quantization: str,
    source: Source,
    commit: str,
    folder: Path,
    path: Path,
    projector: Path | None,
    files: Iterable[Path],
) -> Record:
    """Record a complete download; replaces the record of an earlier one.

    Raises: OSError; ValueError: a path lies outside of the cache.
    """
    record = Record(
        model_version=model_version(family.name, variant, quantization),
        model_name=family.name,
        model_type=family.model_type,
        format=variant.format,
        size_b=variant.size_b,
        quantization=quantization,
        hub=source.hub,
        repo=source.repo,
        revision=source.revision,
        file=source.file,
        commit=commit,
        folder=str(folder.relative_to(cache_dir)),
        path=str(path.relative_to(cache_dir)),
        projector=str(projector.relative_to(cache_dir)) if projector else None,
        files={str(file.relative_to(cache_dir)): file.stat().st_size for file in files},
        created_ts=int(time.time()),
    )
    target = _record_file(cache_dir, record)
    target.parent.mkdir(parents=True, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(dir=target.parent, suffix=".tmp")
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
            json.dump({"schema": _SCHEMA, **asdict(record)}, stream, ensure_ascii=False)
        os.replace(temporary, target)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    return record


def list_cached(cache_dir: Path, model_name: str | None = None) -> list[dict[str, Any]]:
    """Return the complete downloads, in the shape of GET /v1/cache/models."""
    rows = []
    for record in read_records(cache_dir):
        if model_name is not None and record.model_name != model_name:
            continue
        if not record.is_complete(cache_dir):
            continue
        path = cache_dir / record.path
        rows.append(
            {
                "model_name": record.model_name,
                "model_type": record.model_type,
                "model_version": record.model_version,
                "model_format": record.format,
                "model_size_in_billions": format_size(record.size_b),
                "quantization": record.quantization,
                "hub": record.hub,
                "repo": record.repo,
                "revision": record.commit,
                "path": str(path),
                "real_path": os.path.realpath(path),
                "size_bytes": sum(record.files.values()),
                "created_ts": record.created_ts,
                "actor_ip_address": None,
            }
        )
    return rows


def cached_files(cache_dir: Path, model_version: str) -> list[str]:
    """Return the absolute paths of the files of a downloaded model; empty if there is none of this version."""
    paths: dict[str, None] = {}
    for record in read_records(cache_dir):
        if record.model_version == model_version:
            for name in record.files:
                link = cache_dir / name
                paths[str(link)] = None
                paths[os.path.realpath(link)] = None
    return list(paths)


def remove_cached(cache_dir: Path, model_version: str) -> bool:
    """Remove a downloaded model, but for the files that another one shares; False if there is none of this version.

    Raises: BadRequest: a file cannot be removed.
    """
    records = read_records(cache_dir)
    doomed = [record for record in records if record.model_version == model_version]
    if not doomed:
        return False
    kept = [record for record in records if record.model_version != model_version]
    shared = {name for record in kept for name in record.files}
    shared_blobs = {os.path.realpath(cache_dir / name) for name in shared}
    try:
        for record in doomed:
            for name in record.files:
                if name not in shared:
                    _remove_file(cache_dir, name, shared_blobs)
            _record_file(cache_dir, record).unlink(missing_ok=True)
    except OSError as error:
        raise BadRequest(f"{error.filename} cannot be removed: {error.strerror}.") from error
    return True


def _remove_file(cache_dir: Path, name: str, shared_blobs: set[str]) -> None:
    """Remove a file, what it links to within the cache, and the folders that are empty then."""
    link = cache_dir / name
    target = Path(os.path.realpath(link))
    link.unlink(missing_ok=True)
    if target != link and str(target) not in shared_blobs and target.is_relative_to(os.path.realpath(cache_dir)):
        target.unlink(missing_ok=True)
    for folder in link.parents:
        if folder == cache_dir or not folder.is_relative_to(cache_dir):
            break
        try:
            folder.rmdir()
        except OSError:
            break


def _record_file(cache_dir: Path, record: Record) -> Path:
    identity = "\n".join((record.model_type, record.model_version, record.hub, record.repo, record.revision or ""))
    digest = hashlib.sha256(identity.encode()).hexdigest()[:12]
    name = re.sub(r"[^A-Za-z0-9._-]", "_", record.model_version)[:150]
    return cache_dir / "records" / f"{name}.{digest}.json"


def _is_inside(path: str) -> bool:
    return bool(path) and not os.path.isabs(path) and ".." not in Path(path).parts
