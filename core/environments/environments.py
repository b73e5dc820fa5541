"""Make, find and remove the environments of engines."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ..errors import Conflict, NotFound
from ..hooks.types import Engine
from .builder import Builder, python_of
from .declaration import declare
from .inspection import find_faults
from .portable import pack
from .progress import Progress, Report, Tracker
from .store import Built, Package, Store, cannot_write
from .usage import users

__all__ = ["Environments", "Plan"]


@dataclass(frozen=True, slots=True)
class Plan:
    """What would be made.

    Args:
        built: it is there already; the rest then says what it holds.
        python_version: of the interpreter that it has or would have.
        download_bytes: size of the files of all packages, whether uv has some of them or not; 0: nothing to fetch.
    """

    engine: str
    device: str
    built: Built | None
    python_version: str
    packages: tuple[Package, ...]
    download_bytes: int


class Environments:
    """The environments below a home folder, shared by all processes that use it."""

    def __init__(self, home: Path) -> None:
        """Take the home folder; nothing is made until it is needed."""
        self._store = Store(home / "envs")
        self._builder = Builder(home, self._store)

    @property
    def root(self) -> Path:
        """Return the folder that they lie in."""
        return self._store.root

    def find(self, engine: Engine, device: str = "cpu", *, extra: Sequence[str] = ()) -> Built | None:
        """Return the environment of an engine if it is made already; asks no network and starts nothing.

        Raises: BadRequest or EnvironmentFailed: as `ensure` of what cannot be made at all.
        """
        return self._store.find(declare(engine, device, extra).key)

    async def ensure(
        self,
        engine: Engine,
        device: str = "cpu",
        *,
        extra: Sequence[str] = (),
        report: Report | None = None,
        upgrade: bool = False,
    ) -> Built:
        """Return the environment of an engine, made if need be.

        Whoever asks for the same at the same time, here or in another process, waits and gets the same one. A
        cancelled call ends uv and leaves nothing behind but what uv has in its cache.

        Args:
            device: kind of device that it is for.
            extra: further requirements.
            report: is told how far it is, in the event loop.
            upgrade: resolve the requirements anew; the environment of before stays, for those who use it.

        Raises: BadRequest: the engine declares none, there is no such device, or an `extra` is no requirement or cannot
            be had beside those of the engine. EnvironmentFailed: it cannot be made; the message has the reason.
        """
        declaration = declare(engine, device, extra)
        if not upgrade and (there := self._store.find(declaration.key)) is not None:
            return there
        tracker = Tracker(report)
        async with self._store.one_at_a_time(declaration.key, tracker.follow) as write:
            if not upgrade and (there := self._store.find(declaration.key)) is not None:
                return there
            tracker.share(write)
            await asyncio.to_thread(self._store.sweep)
            return await self._builder.build(declaration, tracker, is_fresh=upgrade)

    async def plan(self, engine: Engine, device: str = "cpu", *, extra: Sequence[str] = ()) -> Plan:
        """Return what `ensure` would make; asks the package index unless it is made already.

        Raises: as `ensure`.
        """
        declaration = declare(engine, device, extra)
        if (there := self._store.find(declaration.key)) is not None:
            return Plan(engine.name, device, there, there.python_version, there.packages, 0)
        async with self._builder.bench(python_of(declaration)) as bench:
            resolved = await bench.resolve(declaration)
        packages = tuple(Package(item.name, item.version) for item in resolved.locked)
        return Plan(engine.name, device, None, bench.python_version, packages, resolved.size_bytes)

    def list(self) -> list[Built]:
        """Return all environments, by name."""
        return self._store.list()

    def get(self, name: str) -> Built:
        """Return an environment by name.

        Raises: NotFound: there is none, or it is not complete.
        """
        built = self._store.get(name)
        if built is None:
            raise self._no_such(name)
        return built

    def _no_such(self, name: str) -> NotFound:
        known = ", ".join(item.name for item in self._store.list()) or "none"
        what = "is not complete" if self._store.folder(name) else "does not exist"
        return NotFound(f"The environment '{name}' {what}; there is: {known}.")

    def incomplete(self) -> Sequence[str]:
        """Return the names of folders that are no complete environments; they are never used, and may be removed."""
        return self._store.incomplete()

    async def check(self, name: str, *, full: bool = False) -> Sequence[str]:
        """Return what is wrong with an environment, one clause for each fault; empty: nothing.

        Files that no distribution in it lists are a fault too: nothing is added to an environment once it is made.

        Args:
            full: compare the content of every file with its hash too, instead of its size alone.

        Raises: NotFound: there is none.
        """
        if self._store.get(name) is None and self._store.folder(name):
            return ["it has no mark of being complete: it is never used"]
        return await find_faults(self.get(name), full=full, unlisted=True)

    def users(self, name: str) -> Sequence[int]:
        """Return the pids of the processes that run in an environment.

        Raises: NotFound: there is none.
        """
        folder = self._store.folder(name)
        if folder is None:
            raise self._no_such(name)
        return users(folder)

    async def remove(self, name: str, *, keep_cache: bool = False) -> None:
        """Remove an environment, and from uv's cache below the home folder what no other environment has.

        Raises: NotFound: there is none. Conflict: a process runs in it. EnvironmentFailed: it cannot be removed.
        """
        pids = await asyncio.to_thread(self.users, name)
        if pids:
            raise Conflict(
                f"The environment '{name}' is in use by process {', '.join(map(str, pids[:5]))}.",
                remedy="Terminate the models that run in it (modelrack list), and try again.",
            )
        built = self._store.get(name)
        try:
            self._store.forget(name)
            await asyncio.to_thread(self._store.discard, self._store.root / name)
        except OSError as error:
            raise cannot_write(self._store.root, error) from error
        if built is not None and not keep_cache:
            kept = {package.name for other in self._store.list() for package in other.packages}
            await self._builder.clean_cache([item.name for item in built.packages if item.name not in kept])

    async def export(self, name: str, file: Path, *, report: Report | None = None) -> None:
        """Write an environment to a file that `import_` reads on a machine of the same kind, without a network.

        The file's name decides: `.tar.gz` and `.tgz` are compressed.

        Raises: NotFound: there is none. Conflict: it is damaged. AlreadyExists: the file is there. EnvironmentFailed:
            it cannot be written.
        """
        built = self.get(name)
        faults = await find_faults(built)
        if faults:
            raise Conflict(f"The environment '{name}' is damaged: {'; '.join(faults[:5])}.")
        loop = asyncio.get_running_loop()

        def tell(done: int) -> None:
            if report is not None:
                share = min(1.0, done / max(1, built.size_bytes))
                loop.call_soon_threadsafe(report, Progress(share, "writing the file", done, built.size_bytes))

        try:
            await asyncio.to_thread(pack, built, file, tell)
        except OSError as error:
            raise cannot_write(file, error) from error

    async def import_(self, file: Path, *, report: Report | None = None) -> Built:
        """Make an environment from a file that `export` has written; it is what its engine gets from then on.

        Raises: BadRequest: the file is none, is damaged, or is for another machine. EnvironmentFailed: it cannot be
            made.
        """
        await asyncio.to_thread(self._store.sweep)
        return await self._builder.take_in(file, Tracker(report))
