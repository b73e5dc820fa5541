"""Resolve requirements into a lock, with a build of torch for the device at hand."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import unquote, urlparse

from packaging.utils import InvalidWheelFilename, parse_wheel_filename
from packaging.version import Version

from ..errors import BadRequest
from .declaration import ADDED_PARAM, Declaration
from .errors import EnvironmentFailed
from .lock import Locked, cuda_parts, read_lock
from .store import cannot_write
from .uv import Uv, UvFailed

__all__ = ["Resolved", "resolve"]

_BACKENDS: Mapping[str, str] = {"cpu": "cpu", "cuda": "auto", "rocm": "auto", "xpu": "xpu"}
"""uv's `--torch-backend` by kind of device; `auto` goes by the driver. Apple's devices need none."""

_CPU_REMEDY = (
    "Let uv find a build of torch for the CPU: put its wheel (torch-…+cpu-….whl) into a folder and name it in "
    "UV_FIND_LINKS or PIP_FIND_LINKS, or see that download.pytorch.org can be reached."
)
_TRIES = 3
_TORCH = re.compile(r"\btorch\b")


@dataclass(frozen=True, slots=True)
class Resolved:
    """What requirements have resolved to: the lock's text, and what it says."""

    text: str
    locked: tuple[Locked, ...]

    @property
    def size_bytes(self) -> int:
        """Return the size of all files, as far as it is known."""
        return sum(item.size_bytes for item in self.locked)


@dataclass(frozen=True, slots=True)
class _Resolver:
    """One resolution.

    Args:
        folder: where its files are written.
        markers: values of environment markers of the interpreter that it is for.
        is_fresh: ask the index anew, whatever uv remembers of it.
    """

    uv: Uv
    declaration: Declaration
    folder: Path
    python: str
    markers: Mapping[str, str]
    is_fresh: bool

    async def compile(self, constraint: str = "", backend: str = "") -> Resolved:
        """Resolve once.

        Args:
            constraint: of torch's version.
            backend: a value of `--torch-backend`.

        Raises: UvFailed: with the resolver's reason.
        """
        wanted = self._write("requirements.in", self.declaration.requirements)
        # A marker that is never true takes a distribution out of the resolution, whoever requires it.
        absent = self._write("absent.txt", [f"{name}; sys_platform == 'none'" for name in self.declaration.absent])
        arguments: list[str | Path] = ["compile", wanted, "--overrides", absent, "--python", self.python]
        arguments += ["--format", "pylock.toml", "--no-header"]
        if self.is_fresh:
            arguments.append("--refresh")
        if constraint:
            arguments += ["--constraints", self._write("constraints.txt", [constraint])]
        if backend:
            arguments += ["--torch-backend", backend]
        text = await self.uv.pip(*arguments)
        return Resolved(text, read_lock(text, self.markers))

    def _write(self, name: str, lines: Sequence[str]) -> Path:
        path = self.folder / name
        try:
            path.write_text("".join(f"{line}\n" for line in lines))
        except OSError as error:
            raise cannot_write(path, error) from error
        return path


async def resolve(
    uv: Uv, declaration: Declaration, folder: Path, python: str, markers: Mapping[str, str], *, is_fresh: bool = False
) -> Resolved:
    """Resolve a declaration.

    Args:
        folder: where files are written for uv.
        markers: values of environment markers of the interpreter `python`.
        is_fresh: ask the index anew, whatever uv remembers of it.

    Raises: BadRequest: what a user has added cannot be had, or not beside what the engine requires. EnvironmentFailed:
        nothing satisfies the requirements of the engine, the index cannot be reached, or an environment for the CPU
        would hold packages for CUDA.
    """
    resolver = _Resolver(uv, declaration, folder, python, markers, is_fresh)
    try:
        return await _resolve(resolver)
    except EnvironmentFailed as error:
        if not declaration.added or (isinstance(error, UvFailed) and (error.is_network or error.is_disk)):
            raise
        await _resolve(replace(resolver, declaration=declaration.without_added()))  # else it is not their fault
        raise BadRequest(
            f"{', '.join(declaration.added)} cannot be installed beside what engine '{declaration.engine}' requires: "
            f"{error.message}",
            param=ADDED_PARAM,
            remedy=error.remedy,
        ) from error


async def _resolve(resolver: _Resolver) -> Resolved:
    uv, declaration = resolver.uv, resolver.declaration
    if uv.variables.get("UV_TORCH_BACKEND"):  # the user knows better
        return _for_device(declaration, await resolver.compile())
    if declaration.device == "cpu":
        return await _resolve_for_cpu(resolver)
    return await _resolve_for_accelerator(resolver)


async def _resolve_for_cpu(resolver: _Resolver) -> Resolved:
    """Resolve as it stands; where that brings CUDA, or no build of torch that will do, look for one for the CPU."""
    failure: UvFailed | None = None
    plain: Resolved | None = None
    try:
        plain = await resolver.compile()
        if not cuda_parts(plain.locked):
            return plain
    except UvFailed as error:
        if error.is_network or error.is_disk or not _TORCH.search(error.message):
            raise
        failure = error
    builds = _local_builds(resolver.uv.variables.get("UV_FIND_LINKS", ""))
    tries = [(f"torch=={version}", "") for version in builds[:_TRIES]]
    if not resolver.uv.is_offline:
        tries.append(("", _BACKENDS["cpu"]))
    for constraint, backend in tries:
        try:
            found = await resolver.compile(constraint, backend)
        except UvFailed as error:
            if error.is_disk:
                raise
            if error.is_network:
                raise EnvironmentFailed(
                    f"A build of torch for the CPU could not be looked for: {error.message}", remedy=_CPU_REMEDY
                ) from error
            continue  # the first reason is the one that says what was asked for
        if not cuda_parts(found.locked):
            return found
    if plain is not None:
        return _for_device(resolver.declaration, plain)
    assert failure is not None
    raise EnvironmentFailed(failure.message, remedy=failure.remedy or _CPU_REMEDY) from failure


async def _resolve_for_accelerator(resolver: _Resolver) -> Resolved:
    """Resolve with torch's own index for the driver at hand, or without where that index does not help."""
    backend = _BACKENDS.get(resolver.declaration.device, "")
    if backend and not resolver.uv.is_offline:
        try:
            return await resolver.compile(backend=backend)
        except UvFailed as error:
            if error.is_disk:
                raise
            # Where only torch's own index cannot be reached, the user's may do; else its failure is the one told.
    plain = await resolver.compile()
    cpu = next((item for item in plain.locked if item.name == "torch" and item.version.endswith("+cpu")), None)
    if cpu is None:
        return plain
    try:
        return await resolver.compile(f"torch!={cpu.version}")
    except UvFailed as error:
        if error.is_disk or error.is_network:
            raise
        return plain  # then the requirements themselves want it


def _for_device(declaration: Declaration, resolved: Resolved) -> Resolved:
    """Return what was resolved, unless it is not for the device.

    Raises: EnvironmentFailed: it is for the CPU and would bring packages for CUDA.
    """
    found = cuda_parts(resolved.locked) if declaration.device == "cpu" else ()
    if not found:
        return resolved
    torch = next((f"torch {item.version} and " for item in resolved.locked if item.name == "torch"), "")
    names = [item.name for item in found if item.name != "torch"]
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    raise EnvironmentFailed(
        f"The environment of engine '{declaration.engine}' for the CPU would bring packages for CUDA: "
        f"{torch}{', '.join(names[:3])}{more} ({resolved.size_bytes / 1e9:.1f} GB in all).",
        remedy=_CPU_REMEDY,
    )


def _local_builds(find_links: str) -> list[Version]:
    """Return the versions of torch for the CPU that lie in folders the user has named, the newest first."""
    found: set[Version] = set()
    for location in find_links.split(","):
        parsed = urlparse(location)
        if not location or parsed.scheme not in ("", "file"):
            continue
        for path in Path(unquote(parsed.path)).glob("torch-*.whl"):
            try:
                name, version, _, _ = parse_wheel_filename(path.name)
            except InvalidWheelFilename:
                continue
            if name == "torch" and (version.local or "").startswith("cpu"):
                found.add(version)
    return sorted(found, reverse=True)
