"""The lock: what the requirements resolve to on this machine, as a PEP 751 file (`pylock.toml`)."""

import hashlib
import re
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlparse

from packaging.markers import Marker
from packaging.utils import canonicalize_name

from .errors import EnvironmentFailed

__all__ = ["Locked", "cuda_parts", "lock_hash", "read_lock"]

_CUDA_NAME = re.compile(r"(nvidia|cuda)-(?!ml-py$)")
_CUDA_VERSION = re.compile(r"\+(cu\d|rocm)")
_VERSION_IN_NAME = re.compile(r"^[^-]+-([^-]+)(?:-|\.tar|\.zip)")


@dataclass(frozen=True, slots=True)
class Locked:
    """One distribution of a lock.

    Args:
        version: empty where the source does not tell it (a folder, a repository).
        source: address or path of the file that is installed, else of its sources.
        sha256: of that file, where it is known.
        size_bytes: of that file; 0 where it is not known.
    """

    name: str
    version: str
    source: str
    sha256: str
    size_bytes: int


def read_lock(text: str, environment: Mapping[str, str] | None = None) -> tuple[Locked, ...]:
    """Return the distributions of a lock that are for this machine, sorted by name.

    Args:
        environment: values of environment markers that differ from this process's (`python_full_version`).

    Raises: EnvironmentFailed: it is no lock.
    """
    try:
        packages = tomllib.loads(text).get("packages", [])
        found = [_read(package) for package in packages if _is_meant(package, environment)]
    except (tomllib.TOMLDecodeError, KeyError, TypeError, ValueError, AttributeError) as error:
        raise EnvironmentFailed(f"The lock of the environment cannot be read: {error}") from error
    return tuple(sorted(found, key=lambda locked: locked.name))


def _is_meant(package: Mapping[str, Any], environment: Mapping[str, str] | None) -> bool:
    marker = package.get("marker")
    return marker is None or Marker(marker).evaluate(dict(environment or {}))


def _read(package: Mapping[str, Any]) -> Locked:
    files = [*package.get("wheels", []), *(package[key] for key in ("sdist", "archive") if key in package)]
    file: Mapping[str, Any] = files[0] if files else package.get("vcs") or package.get("directory") or {}
    source = str(file.get("url") or file.get("path") or "")
    version = str(package.get("version", ""))
    if not version and (found := _VERSION_IN_NAME.match(unquote(source.rpartition("/")[2]))):
        version = found[1]
    return Locked(
        name=canonicalize_name(package["name"]),
        version=version,
        source=source,
        sha256=str(file.get("hashes", {}).get("sha256", "") or file.get("commit-id", "")),
        size_bytes=int(file.get("size") or _local_size(source)),
    )


def _local_size(source: str) -> int:
    """Return the size of a file on this machine: a lock has none for them."""
    parsed = urlparse(source)
    if parsed.scheme not in ("", "file"):
        return 0
    try:
        return Path(unquote(parsed.path)).stat().st_size
    except OSError:
        return 0


def lock_hash(locked: Iterable[Locked], *facts: str) -> str:
    """Return the hash that names an environment: of what is in it, and of `facts` that tell it from others."""
    digest = hashlib.sha256("\n".join(facts).encode())
    for item in locked:
        digest.update(f"\n{item.name}=={item.version} {item.sha256 or item.source}".encode())
    return digest.hexdigest()[:12]


def cuda_parts(locked: Iterable[Locked]) -> tuple[Locked, ...]:
    """Return the distributions that are of use only with CUDA or ROCm.

    `triton` alone is none of them: what computes on the CPU requires it too (xgrammar, by version 0.2).
    """
    return tuple(item for item in locked if _CUDA_NAME.match(item.name) or _CUDA_VERSION.search(item.version))
