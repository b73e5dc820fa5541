"""Make an environment in a place of its own, and move it to where it is found."""

import asyncio
import contextlib
import os
import re
import sys
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from ..errors import BadRequest
from .declaration import Declaration, own_tag, platform_tag
from .errors import EnvironmentFailed
from .inspection import find_faults, installed, measure
from .interpreter import InterpreterFailed, ask_interpreter
from .lock import lock_hash, read_lock
from .portable import peek, unpack
from .progress import Tracker
from .resolve import Resolved, resolve
from .sharing import share_files
from .store import LOCK, Built, Store, Workplace, cannot_write, interpreter, now, to_the_end, write_facts
from .uv import Uv, find_uv, uv_variables

__all__ = ["Bench", "Builder"]

_PROBE = "import json,platform,sys;print(json.dumps([platform.python_version(),sys.implementation.name]))"
_NAME = re.compile(r"[^a-z0-9._]+")
_WATCH_S = 0.5


@dataclass(frozen=True, slots=True)
class Bench:
    """A workplace with a fresh environment in it, and uv ready to fill it.

    Args:
        scratch: where files are written that are needed for the making only.
        folder: the environment.
        python_version, implementation: of its interpreter.
    """

    scratch: Path
    uv: Uv
    folder: Path
    python_version: str
    implementation: str

    @property
    def markers(self) -> dict[str, str]:
        """Return the environment markers whose values the interpreter decides."""
        major, minor, *_ = self.python_version.split(".")
        return {"python_version": f"{major}.{minor}", "python_full_version": self.python_version}

    @property
    def tag(self) -> str:
        """Return the interpreter's tag, as `own_tag` does."""
        return f"{self.implementation}-{self.markers['python_version']}"

    async def resolve(self, declaration: Declaration, *, is_fresh: bool = False) -> Resolved:
        """Resolve a declaration for this interpreter.

        Raises: EnvironmentFailed: as `resolve`.
        """
        python = str(interpreter(self.folder))
        return await resolve(self.uv, declaration, self.scratch, python, self.markers, is_fresh=is_fresh)


class Builder:
    """What fills the folder of environments."""

    def __init__(self, home: Path, store: Store) -> None:
        self.home = home
        self.store = store

    @asynccontextmanager
    async def bench(self, python: str) -> AsyncIterator[Bench]:
        """Make a fresh environment.

        Args:
            python: path of an interpreter, or a specifier of those that will do.

        Raises: EnvironmentFailed: there is no uv or no such interpreter, or nothing can be written.
        """
        program = find_uv()
        async with self.store.workplace() as place:
            uv = self._uv(program, place)
            folder = place.folder / "env"
            await uv.run("venv", "--relocatable", "--no-project", "--python", python, folder)
            python_version, implementation = await _probe(folder)
            yield Bench(place.folder, uv, folder, python_version, implementation)

    def _uv(self, program: str, place: Workplace) -> Uv:
        return Uv(program, uv_variables(self.home), held=(place.lock,))

    async def build(self, declaration: Declaration, tracker: Tracker, *, is_fresh: bool) -> Built:
        """Make the environment of a declaration; what its requirements resolve to may be there already.

        Args:
            is_fresh: ask the index anew, whatever uv remembers of it.

        Raises: EnvironmentFailed: it cannot be made.
        """
        tracker.tell("resolving requirements")
        async with self.bench(python_of(declaration)) as bench:
            resolved = await bench.resolve(declaration, is_fresh=is_fresh)
            hash_ = lock_hash(resolved.locked, declaration.device, bench.tag, platform_tag())
            name = f"{_NAME.sub('-', declaration.engine.lower()).strip('-._') or 'engine'}-{hash_}"
            there = self.store.get(name)
            if there is None or not os.access(there.python, os.X_OK):
                tracker.resolved(resolved.locked)
                await self._install(declaration, bench, resolved, name, hash_, tracker)
        return self._remember(declaration.key, name)

    async def _install(
        self, declaration: Declaration, bench: Bench, resolved: Resolved, name: str, hash_: str, tracker: Tracker
    ) -> None:
        """Fill the fresh environment with what was resolved, check it, and move it to its place."""
        folder = bench.folder
        try:
            (folder / LOCK).write_text(resolved.text)
        except OSError as error:
            raise cannot_write(folder, error) from error
        target = ("--python", interpreter(folder), "--requirements", folder / LOCK)
        cache = Path(bench.uv.variables["UV_CACHE_DIR"])
        installing = bench.uv.pip("install", "--no-deps", *target, on_line=tracker.on_line)
        await _watched(installing, cache, tracker)
        if not _is_same_disk(cache, folder):
            await to_the_end(asyncio.to_thread(share_files, folder, self._others(name)))
        built = Built(
            name=name,
            engine=declaration.engine,
            device=declaration.device,
            folder=folder,
            python=str(interpreter(folder)),
            python_version=bench.python_version,
            python_tag=bench.tag,
            platform=platform_tag(),
            hash=hash_,
            key=declaration.key,
            requirements=declaration.requirements,
            absent=declaration.absent,
            packages=await asyncio.to_thread(installed, folder),
            size_bytes=await asyncio.to_thread(measure, folder),
            created=now(),
        )
        await self._finish(built)

    async def take_in(self, source: Path, tracker: Tracker) -> Built:
        """Make an environment from a file that `pack` has written.

        Raises: BadRequest: it is none, is damaged, or is for another machine. EnvironmentFailed: it cannot be made.
        """
        packed, lock = await asyncio.to_thread(peek, source)
        if packed.platform != platform_tag():
            raise BadRequest(f"{source} is for {packed.platform}, and this machine is {platform_tag()}.")
        tracker.tell("reading the file")
        total = max(1, packed.size_bytes)
        python = sys.executable if packed.python_tag == own_tag() else packed.python_tag.replace("-", "@")
        async with self.bench(python) as bench:
            locked = read_lock(lock, bench.markers)
            hash_ = lock_hash(locked, packed.device, bench.tag, packed.platform)
            if hash_ != packed.hash or not packed.name.endswith(f"-{hash_}"):
                raise BadRequest(f"{source} is damaged: its lock is not the one that it was made from.")

            loop = asyncio.get_running_loop()

            def tell(done: int) -> None:
                loop.call_soon_threadsafe(tracker.tell, "unpacking", 0.9 * min(1.0, done / total))

            try:
                await to_the_end(asyncio.to_thread(unpack, source, bench.folder, tell))
                await to_the_end(asyncio.to_thread(share_files, bench.folder, self._others(packed.name)))
            except OSError as error:
                raise cannot_write(bench.folder, error) from error
            tracker.tell("checking", 0.9)
            built = replace(
                packed,
                folder=bench.folder,
                python=str(interpreter(bench.folder)),
                python_version=bench.python_version,
                created=now(),
            )
            await self._finish(built, source)
        return self._remember(packed.key, packed.name)

    async def _finish(self, built: Built, source: Path | None = None) -> None:
        """Check an environment that is whole, mark it, and move it to its place.

        Args:
            source: the file that it comes from: every file is then compared with its hash, and none may be beside them.
        """
        faults = await find_faults(built, full=source is not None, strict=source is not None)
        if faults and source is not None:
            raise BadRequest(f"{source} is damaged: {'; '.join(faults[:5])}.")
        if faults:
            raise EnvironmentFailed(
                f"The environment that was made is not whole: {'; '.join(faults[:5])}.",
                remedy="Empty uv's cache and try again: uv cache clean",
            )
        try:
            await asyncio.to_thread(write_facts, built.folder, built)
            await asyncio.to_thread(self.store.place, built.folder, built.name)
        except OSError as error:
            raise cannot_write(self.store.root, error) from error

    def _remember(self, key: str, name: str) -> Built:
        try:
            self.store.remember(key, name)
        except OSError as error:
            raise cannot_write(self.store.root, error) from error
        built = self.store.get(name)
        if built is None:
            raise EnvironmentFailed(f"The environment '{name}' was removed while it was made.")
        return built

    def _others(self, name: str) -> list[Path]:
        return [built.folder for built in self.store.list() if built.name != name]

    async def clean_cache(self, names: list[str]) -> None:
        """Let uv forget the files of distributions; does nothing where the cache is not below the home folder.

        Raises: EnvironmentFailed: there is no uv, or it fails.
        """
        variables = uv_variables(self.home)
        if names and Path(variables["UV_CACHE_DIR"]).is_relative_to(self.home):
            await Uv(find_uv(), variables).run("cache", "clean", *names)


def python_of(declaration: Declaration) -> str:
    """Return which interpreter uv is to take: this process's if that will do."""
    return sys.executable if declaration.takes_own_python else declaration.python


async def _watched(installing: Awaitable[str], cache: Path, tracker: Tracker) -> None:
    """Wait for uv, and watch meanwhile what it unpacks into its cache: it says nothing during a long download."""
    task = asyncio.ensure_future(installing)
    before = set(_drafts(cache))
    try:
        while not task.done():
            await asyncio.wait([task], timeout=_WATCH_S)
            drafts = [path for path in _drafts(cache) if path not in before]
            tracker.unpacked(sum([await asyncio.to_thread(measure, path) for path in drafts]))
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


def _drafts(cache: Path) -> list[Path]:
    """Return the folders in which uv unpacks what it fetches (`.tmp…` in its cache, as of uv 0.13)."""
    with contextlib.suppress(OSError):
        return [path for path in cache.iterdir() if path.name.startswith(".tmp")]
    return []


def _is_same_disk(cache: Path, folder: Path) -> bool:
    try:
        return cache.stat().st_dev == folder.stat().st_dev
    except OSError:
        return False


async def _probe(folder: Path) -> tuple[str, str]:
    """Ask the interpreter of an environment for its version and implementation."""
    try:
        python_version, implementation = await ask_interpreter(interpreter(folder), _PROBE)
    except InterpreterFailed as error:
        raise EnvironmentFailed(f"The interpreter of the new environment cannot be used: {error}.") from error
    return str(python_version), str(implementation)
