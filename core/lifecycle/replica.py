"""One replica and the one task that changes its state."""

import asyncio
import contextlib
import logging
import os
import re
import secrets
import shutil
import signal
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ..environments import link_library
from ..errors import LaunchFailed, ModelrackError
from ..hooks.types import CommandWorker, Engine, LoadPlan, PythonWorker, Route
from ..settings import Settings
from ..worker.contract import Job
from ..worker.job import write_job
from . import process as processes
from .commands import make_command
from .directory import Endpoint, Target
from .home import Home, trim_log
from .interpreter import SERVER, Interpreter, needed_modules
from .memory import held_memory
from .plan import Expectation
from .policy import STABLE_S, StartLimits, restart_delay_s, start_verdict
from .process import Process, last_lines, spawn
from .state import State, can_move
from .store import Store, WorkerRecord
from .threads import in_thread

__all__ = ["Replica", "ReplicaSpec"]

log = logging.getLogger(__name__)

_NOISE = re.compile(r"^\s*(Traceback|File \"|\^+|~)")


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicaSpec:
    """What a replica runs.

    Args:
        routes: the routes of the model's type that it may be asked for.
        request_limit: requests at once; None is no limit.
        env: variables the launch asked for.
        interpreter: the Python that runs the worker.
        plugin: module of the plugin that brings the engine.
        expected: memory that it is expected to need.
        retries: a first start that fails is tried again (the model has run before).
    """

    model_uid: str
    replica_id: int
    engine: Engine
    plan: LoadPlan
    routes: tuple[Route, ...]
    request_limit: int | None = None
    env: Mapping[str, str] = field(default_factory=dict)
    interpreter: Interpreter = SERVER
    plugin: str = ""
    expected: Expectation = field(default_factory=Expectation)
    retries: bool = False


class Replica:
    """Keep one worker running until told to stop.

    Only its own task changes the state; `changed` is called after each change. `reason` tells why it is `failed`.
    """

    def __init__(
        self,
        spec: ReplicaSpec,
        home: Home,
        settings: Settings,
        store: Store,
        target: Target,
        changed: Callable[["Replica"], None],
    ) -> None:
        self.spec = spec
        self.state = State.QUEUED
        self.reason = ""
        self.remedy: str | None = None
        self.retry_at: float | None = None
        self.progress = 0.0
        self.stage = "queued"
        self.facts: Mapping[str, Any] = {}
        self.created_ts = time.time()
        self.restarts = 0
        self._home = home
        self._settings = settings
        self._store = store
        self._target = target
        self._changed = changed
        self._stop = asyncio.Event()
        self._drain_s = settings.drain_s
        self._process: Process | None = None
        self._record: WorkerRecord | None = None
        self._log_start = 0
        self._reports = 0
        self._served: tuple[str, ...] = ()
        self._endpoint: Endpoint | None = None
        self._task: asyncio.Task[None] | None = None
        self._is_fresh = False

    @property
    def pid(self) -> int | None:
        """Return the worker's process id, if it runs."""
        return self._process.pid if self._process and self._process.is_running else None

    def start(self, adopted: WorkerRecord | None = None) -> None:
        """Begin; with a record, take over the worker that an earlier server started, if it is still the same."""
        self._task = asyncio.get_running_loop().create_task(self._own(adopted), name=f"replica {self._name}")

    async def stop(self, drain_s: float | None = None) -> None:
        """Stop the worker and wait until it is gone.

        Args:
            drain_s: seconds that requests under way may take; None is the setting.
        """
        if drain_s is not None:
            self._drain_s = drain_s
        self._stop.set()
        if self._task is not None:
            await asyncio.shield(self._task)

    def kill(self) -> None:
        """Kill the worker's group at once, whatever it is doing."""
        if self._process is not None:
            self._process.signal(signal.SIGKILL)

    def memory_bytes(self) -> int | None:
        """Return the resident memory of the worker and its children, in bytes; None if it does not run."""
        return self._process.memory_bytes() if self._process and self._process.is_running else None

    def held_bytes(self) -> tuple[int, int]:
        """Return the bytes that the worker holds of main memory and of its accelerators; blocks for milliseconds."""
        process = self._process
        return held_memory(process) if process is not None and process.is_running else (0, 0)

    def check_files(self) -> None:
        """Keep the log within its bounds, and end an idle worker whose socket somebody has deleted: none can reach it.

        Its restart then makes a new one.
        """
        with contextlib.suppress(OSError):
            trim_log(self.log)
        if self.state is not State.READY or self._record is None or self._process is None or self._endpoint is None:
            return
        if not self._endpoint.active and not Path(self._record.socket).exists():
            log.warning("%s: the socket %s was deleted; starting anew", self._name, self._record.socket)
            self._process.signal(signal.SIGTERM)

    @property
    def log(self) -> Path:
        """Return the file that the worker writes to."""
        return self._home.log(self.spec.model_uid, self.spec.replica_id)

    @property
    def _name(self) -> str:
        return f"{self.spec.model_uid}-{self.spec.replica_id}"

    def _move(self, state: State, reason: str = "") -> None:
        if state is self.state:
            return
        assert can_move(self.state, state), f"{self._name}: {self.state} cannot become {state}"
        self.state = state
        self.reason = reason
        level = logging.WARNING if state is State.FAILED else logging.INFO
        log.log(level, "%s is %s%s", self._name, state, f": {reason}" if reason else "")
        self._changed(self)

    async def _own(self, adopted: WorkerRecord | None) -> None:
        """Run, and leave neither a worker nor a waiter behind if this code itself fails."""
        try:
            await self._run(adopted)
        except Exception as error:
            log.exception("%s: the replica's task failed", self._name)
            await self._end_process(0)
            self.state, self.reason = State.FAILED, f"internal error: {error}"
            self._changed(self)

    async def _run(self, adopted: WorkerRecord | None) -> None:
        failures = 0
        has_been_ready = self.spec.retries
        while not self._stop.is_set():
            self.retry_at = None
            self._move(State.STARTING)
            try:
                await self._start(adopted)
            except ModelrackError as error:
                failures += 1
                self.remedy = error.remedy
                await self._end_process(0)
                if self._stop.is_set():
                    break
                if not has_been_ready or failures > self._settings.restart_limit:
                    self._move(State.FAILED, error.message)
                    await self._stop.wait()
                    break
                await self._back_off(failures, error.message)
                continue
            finally:
                adopted = None
            if self._stop.is_set():
                break
            has_been_ready = True
            if await self._serve() > STABLE_S:
                failures = 0
            if self._stop.is_set():
                break
            failures += 1
            reason = self._death()
            await self._end_process(0)
            self.restarts += 1
            if failures > self._settings.restart_limit:
                self._move(State.FAILED, f"{reason}; given up after {failures} failures in a row")
                await self._stop.wait()
                break
            await self._back_off(failures, reason)
        await self._finish()

    async def _finish(self) -> None:
        if self.state is State.READY:
            self._move(State.DRAINING)
            await self._drain()
        if self.state in (State.STARTING, State.DRAINING):
            self._move(State.STOPPING)
        await self._end_process(self._settings.stop_s)
        if self.state is not State.FAILED:  # what failed stays failed, with its reason
            self._move(State.STOPPED)

    async def _back_off(self, failures: int, reason: str) -> None:
        delay = restart_delay_s(failures)
        self.retry_at = time.time() + delay
        self._move(State.FAILED, reason)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._stop.wait(), delay)

    async def _start(self, adopted: WorkerRecord | None) -> None:
        """Start a worker, or adopt one, and wait until it is ready.

        Raises: LaunchFailed: with the reason.
        """
        self._is_fresh = adopted is None or not self._adopt(adopted)
        if self._is_fresh:
            await self._spawn()
        if self._process is not None:
            await self._until_ready(self._process)

    def _adopt(self, record: WorkerRecord) -> bool:
        process = None
        if record.pid is not None and record.pid_created is not None:
            process = Process.adopt(record.pid, record.pid_created)
        if process is None:
            self._forget(record)
            return False
        self._process, self._record = process, record
        log.info("%s: adopted the worker with pid %d", self._name, process.pid)
        return True

    async def _spawn(self) -> None:
        """Start a worker, unless it is to stop before that.

        Raises: LaunchFailed: with the reason.
        """
        incarnation = secrets.token_hex(8)
        run_dir = self._home.run(incarnation)
        job_path = run_dir / "job.json"
        log_path = self.log
        self._record = WorkerRecord(
            incarnation=incarnation,
            model_uid=self.spec.model_uid,
            replica_id=self.spec.replica_id,
            socket=str(self._home.socket(incarnation)),
            log=str(log_path),
            job=str(job_path),
        )
        try:
            self._home.make_folders()
            run_dir.mkdir(mode=0o700)
            job = await self._job(incarnation)
            if self._stop.is_set():
                return
            write_job(job_path, job)
            self._log_start = log_path.stat().st_size if log_path.exists() else 0
            self._store.put_worker(self._record)
            env = self._environment(incarnation, run_dir)
            # The guard of a command imports the standard library only, so the server's own Python will always do.
            module, python = "modelrack.worker", self.spec.interpreter.python
            if job.command:
                module, python = "modelrack.worker.guard", SERVER.python
            process = spawn(module, job_path, run_dir, log_path, env, python)
        except (OSError, ValueError) as error:  # ValueError: text that cannot be written as UTF-8
            raise LaunchFailed(f"the worker could not be started: {error}") from error
        self._process = process
        self._record = replace(self._record, pid=process.pid, pid_created=process.created)
        self._store.put_worker(self._record)

    async def _job(self, incarnation: str) -> Job:
        spec = self.spec
        socket = str(self._home.socket(incarnation))
        job = Job(
            incarnation=incarnation,
            replica_id=spec.replica_id,
            socket=socket,
            lease=str(self._home.lease),
            lease_s=self._settings.lease_s,
            plan=spec.plan,
            routes=spec.routes,
            max_body_bytes=int(self._settings.max_body_mb * 1024 * 1024),
            files=self._home.result_files(self._settings),
        )
        worker = spec.engine.worker
        if isinstance(worker, PythonWorker):
            return replace(job, loader=worker.loader)
        limit_s = self._settings.start_stall_s
        command = await make_command(worker, spec.plan, socket, spec.engine.name, self._stop, limit_s)
        return job if command is None else replace(job, command=command)

    def _environment(self, incarnation: str, run_dir: Path) -> dict[str, str]:
        """Return the variables of the worker.

        Raises: OSError or ModelrackError: another Python cannot be given what it imports of ours.
        """
        env = {key: value for key, value in os.environ.items() if key != "MODELRACK_API_KEYS"}
        spec = self.spec
        if not spec.interpreter.is_server:
            modules = needed_modules(spec.engine.worker, spec.plugin, spec.plan, spec.routes)
            env = spec.interpreter.variables(env, link_library(run_dir / "lib", modules))
        env.update(self.spec.env)
        env[processes.OWNER_VARIABLE] = self._tag(incarnation)
        env["PYTHONUNBUFFERED"] = "1"
        # The indices of a plan count by bus, as NVML does. "-1" hides all; an empty value would show all to HIP.
        env["CUDA_DEVICE_ORDER"] = "PCI_BUS_ID"
        shown = ",".join(map(str, self.spec.plan.accelerators)) or "-1"
        env["CUDA_VISIBLE_DEVICES"] = env["HIP_VISIBLE_DEVICES"] = shown
        return env

    def _tag(self, incarnation: str) -> str:
        return f"{self._home.owner}:{incarnation}"

    async def _until_ready(self, process: Process) -> None:
        assert self._record is not None
        limits = StartLimits(self._settings.start_stall_s, self._settings.start_limit_s)
        started = last_progress = time.monotonic()
        signs: object = None
        delay = 0.01
        while not self._stop.is_set():
            if await self._is_ready():
                return
            if not process.is_running:
                raise LaunchFailed(self._death())
            now = time.monotonic()
            current = self._signs_of_life(process)
            if current != signs:
                signs, last_progress = current, now
            verdict = start_verdict(now, started, last_progress, limits)
            if verdict is not None:
                raise LaunchFailed(verdict)
            await self._pause(process, delay)
            delay = min(0.25, delay * 1.25)

    async def _pause(self, process: Process, delay: float) -> None:
        """Sleep, but no longer than until the worker ends or is to stop."""
        waits = {asyncio.ensure_future(process.wait()), asyncio.ensure_future(self._stop.wait())}
        await asyncio.wait(waits, timeout=delay, return_when=asyncio.FIRST_COMPLETED)
        for wait in waits:
            wait.cancel()

    async def _is_ready(self) -> bool:
        assert self._record is not None
        worker = self.spec.engine.worker
        if isinstance(worker, CommandWorker):
            try:
                code, body = await processes.ask(self._record.socket, self._ready_path, 2.0)
            except (OSError, TimeoutError, ValueError):
                return False
            if code != 200:
                return False
            tag = self._tag(self._record.incarnation)
            if self._process is not None and not processes.answers_for(self._record.socket, self._process, tag):
                raise LaunchFailed("another process answers on the worker's socket")
            self._served, self.facts = worker.routes, processes.told_facts(body)
            return True
        status = await processes.ask_status(self._record.socket)
        if status is None:
            return False
        if (status.model_uid, status.incarnation) != (self.spec.model_uid, self._record.incarnation):
            raise LaunchFailed("another process answers on the worker's socket")
        self.progress, self.stage, self._reports = status.progress, status.stage, status.reports
        if status.state == "failed":
            raise LaunchFailed(status.error or self._death(), remedy=status.remedy)
        self.facts, self._served = status.facts, status.routes
        return status.state == "ready"

    @property
    def _ready_path(self) -> str:
        from ..worker.job import read_job

        assert self._record is not None
        command = read_job(Path(self._record.job)).command
        return command.ready_path if command else "/health"

    def _signs_of_life(self, process: Process) -> object:
        """Return something that differs whenever the start gets on: what it reports, writes or computes."""
        log_path = self.log
        size = log_path.stat().st_size if log_path.exists() else 0
        return self.progress, self.stage, self._reports, size, int(process.cpu_seconds())

    async def _serve(self) -> float:
        """Take requests until the worker ends or is to stop; return the seconds it was ready."""
        assert self._process is not None and self._record is not None
        endpoint = Endpoint(
            self.spec.replica_id,
            self._record.socket,
            frozenset(self._served),
            self.spec.request_limit,
            is_foreign=isinstance(self.spec.engine.worker, CommandWorker),
        )
        began = time.monotonic()
        self.progress, self.stage = 1.0, "ready"
        self._target.endpoints.append(endpoint)
        self._endpoint = endpoint
        self._move(State.READY)
        measuring = asyncio.ensure_future(self._measure(self._process))
        exited = asyncio.ensure_future(self._process.wait())
        stopping = asyncio.ensure_future(self._stop.wait())
        try:
            await asyncio.wait({exited, stopping}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            measuring.cancel()
            exited.cancel()
            stopping.cancel()
            endpoint.draining = True
            if not self._stop.is_set():
                self._target.endpoints.remove(endpoint)
        return time.monotonic() - began

    async def _measure(self, process: Process) -> None:
        """Remember what the worker holds now that it is ready; one that was adopted has answered requests since."""
        expected = self.spec.expected
        if not self._is_fresh or expected.key is None:
            return
        host, device = await in_thread(lambda: held_memory(process), name=f"memory {self._name}")
        if host and process.is_running:
            self._store.put_measured(expected.key, host, device, expected.estimated_bytes)

    async def _drain(self) -> None:
        endpoint = self._endpoint
        assert endpoint is not None
        deadline = time.monotonic() + self._drain_s
        while endpoint.active and time.monotonic() < deadline and self._process and self._process.is_running:
            await asyncio.sleep(0.02)
        if endpoint in self._target.endpoints:
            self._target.endpoints.remove(endpoint)

    async def _end_process(self, grace_s: float) -> None:
        """Make sure that the worker is gone, and its files with it."""
        if self._process is not None:
            if self._process.is_running:
                await self._process.stop(grace_s)
            self._process = None
        if self._record is not None:
            self._forget(self._record)
            self._record = None

    def _forget(self, record: WorkerRecord) -> None:
        shutil.rmtree(self._home.run(record.incarnation), ignore_errors=True)
        Path(record.socket).unlink(missing_ok=True)
        self._store.remove_worker(record.incarnation)

    def _death(self) -> str:
        """Return why the worker ended: what it wrote last, and how it ended."""
        ending = self._process.ending() if self._process else "ended"
        log_path = self.log
        lines = [line for line in last_lines(log_path, self._log_start) if not _NOISE.match(line)]
        last = lines[-1].strip() if lines else ""
        return f"the worker {ending}" + (f": {last}" if last else "") + f" (log: {log_path})"
