"""One launched model: its files are made ready, then its replicas run."""

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..api.launch import LaunchRequest
from ..catalog.download import FetchProgress, fetch
from ..catalog.resolution import Resolved, complete
from ..environments import EnvironmentFailed, Environments, Progress, device_kind
from ..errors import InsufficientMemory, LaunchCancelled, LaunchFailed, ModelrackError, NotReady
from ..hooks.loader import Plugins
from ..hooks.types import Machine, ModelFiles
from ..settings import Settings
from ..worker.job import read_job
from .directory import Target
from .home import Home
from .interpreter import SERVER, Interpreter
from .plan import Expectation, expect, inspect_path, make_plan
from .policy import Reserved, check_room, less_reserved, overall_progress, place
from .replica import Replica, ReplicaSpec
from .state import State
from .store import InstanceRecord, Store, WorkerRecord

__all__ = ["Context", "Instance"]

log = logging.getLogger(__name__)

_ORDER = (
    State.READY,
    State.STARTING,
    State.PREPARING,
    State.QUEUED,
    State.FAILED,
    State.DRAINING,
    State.STOPPING,
    State.STOPPED,
)


@dataclass(frozen=True, slots=True)
class Context:
    """What all instances share. `reserved` tells what replicas are about to take that are still loading."""

    settings: Settings
    store: Store
    home: Home
    plugins: Plugins
    environments: Environments
    machine: Callable[[], Machine]
    reserved: Callable[[], Reserved]
    changed: Callable[["Instance", Replica | None], None]


class Instance:
    """One launched model, known by its uid.

    `outcome` is done once the launch has ended: ready for the first time, failed, or cancelled.

    Args:
        adopted: workers of an earlier server, which the replicas take over.
    """

    def __init__(
        self,
        record: InstanceRecord,
        request: LaunchRequest,
        resolved: Resolved,
        context: Context,
        adopted: Sequence[WorkerRecord] = (),
    ) -> None:
        self.record = record
        self.request = request
        self.resolved = resolved
        self.replicas: dict[int, Replica] = {}
        self.target = Target(record.model_uid, resolved.engine.name, self.unavailable)
        self.fetched: FetchProgress | None = None
        self.building: Progress | None = None
        self.interpreter: Interpreter | None = None
        self.outcome: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.failure: ModelrackError | None = None
        self.is_stopping = False
        self._context = context
        self._files: ModelFiles | None = resolved.files
        self._needs_files = resolved.files is None
        self._expected = Expectation()
        self._adopted = {worker.replica_id: worker for worker in adopted}
        self._prepare: asyncio.Task[None] | None = None
        # A waiter is not obliged to exist: the failure also stays with the record.
        self.outcome.add_done_callback(lambda outcome: outcome.cancelled() or outcome.exception())

    @property
    def model_uid(self) -> str:
        """Return the uid."""
        return self.record.model_uid

    @property
    def state(self) -> State:
        """Return the state of the best replica, or of the preparation."""
        if self.failure is not None:
            return State.FAILED
        if self._prepare is not None and not self._prepare.done():
            return State.STOPPING if self.is_stopping else State.PREPARING
        if not self.replicas:
            return State.STOPPED if self.is_stopping else State.QUEUED
        return min((replica.state for replica in self.replicas.values()), key=_ORDER.index)

    @property
    def reason(self) -> str:
        """Return why it failed, or an empty string."""
        if self.failure is not None:
            return self.failure.message
        return next((replica.reason for replica in self.replicas.values() if replica.reason), "")

    @property
    def facts(self) -> Mapping[str, Any]:
        """Return what a replica found out when it loaded."""
        return next((replica.facts for replica in self.replicas.values() if replica.facts), {})

    @property
    def accelerators(self) -> list[str]:
        """Return the indices of the devices in use, as strings."""
        used = {index for replica in self.replicas.values() for index in replica.spec.plan.accelerators}
        return [str(index) for index in sorted(used)]

    def progress(self) -> tuple[float, str]:
        """Return progress, 0 to 1, and stage: `pending`, `environment`, `downloading`, `launching` or `loading`."""
        if self.state is State.READY:
            return 1.0, "loading"
        environment = self.building.fraction if self.building else None
        download = None
        if self._needs_files:
            download = 1.0 if self._files else self.fetched.fraction if self.fetched else 0.0
        if self._prepare is not None and not self._prepare.done():
            if self.building is not None and self.interpreter is None:
                return overall_progress(download, 0.0, environment), "environment"
            if self._files is None:
                return overall_progress(download, 0.0, environment), "downloading"
        if not self.replicas:
            return overall_progress(download, 0.0, environment), "pending"
        load = min(replica.progress for replica in self.replicas.values())
        return min(0.99, overall_progress(download, load, environment)), "loading" if load else "launching"

    @property
    def unclaimed(self) -> list[WorkerRecord]:
        """Return the workers of an earlier server that no replica has taken over."""
        return list(self._adopted.values())

    def unavailable(self) -> ModelrackError:
        """Return the error that answers a request while no replica is ready."""
        state = self.state
        progress, stage = self.progress()
        if state is State.FAILED:
            text = f"Model '{self.model_uid}' has failed: {self.reason}."
            return NotReady(text, headers={"Retry-After": "5"}, details={"state": state.value})
        return NotReady(
            f"Model '{self.model_uid}' is not ready yet: {state.value} ({stage}, {progress:.0%}).",
            headers={"Retry-After": "1"},
            details={"state": state.value, "progress": round(progress, 4), "stage": stage},
        )

    def begin(self) -> None:
        """Make the files ready and start the replicas; does nothing the second time."""
        if self._prepare is None:
            self._prepare = asyncio.get_running_loop().create_task(self._begin(), name=f"launch {self.model_uid}")

    async def _begin(self) -> None:
        try:
            self.interpreter = await self._interpreter()
            if self._files is None:
                self._context.changed(self, None)
                files = await self._fetch()
                model_type = self._context.plugins.model_types[self.resolved.family.model_type]
                self.resolved = await asyncio.to_thread(complete, self.resolved, files, model_type)
                self._files = self.resolved.files
            machine, self._expected = await asyncio.to_thread(self._expect)
            self._start_replicas(self.record.replicas, machine)
        except asyncio.CancelledError:
            raise
        except EnvironmentFailed as error:
            reason = f"Model '{self.model_uid}' could not be launched: {error.message}"
            self.fail(LaunchFailed(reason, remedy=error.remedy))
        except ModelrackError as error:
            self.fail(error)
        except Exception as error:
            log.exception("%s could not be prepared", self.model_uid)
            self.fail(LaunchFailed(f"Model '{self.model_uid}' could not be prepared: {error}"))

    async def _interpreter(self) -> Interpreter:
        """Return the Python that runs the workers; its environment is made first, if need be.

        Raises: BadRequest: the path that the launch gave will not do. EnvironmentFailed: with the reason.
        """
        request, engine, context = self.request, self.resolved.engine, self._context
        if self.resolved.where == "server":
            return SERVER
        machine = await asyncio.to_thread(context.machine)
        accelerators = self._place(machine)
        if self.resolved.where == "path":
            assert request.wanted_environment is not None
            return await inspect_path(request.wanted_environment, engine, machine, accelerators)
        device = device_kind(machine, accelerators)
        extra = request.virtual_env_packages or ()
        built = await asyncio.to_thread(context.environments.find, engine, device, extra=extra)
        if built is None:
            self.building = Progress(0.0, "preparing")
            self._note("environment", f"the environment of {engine.name} for {device} is being made")
            self._context.changed(self, None)
            built = await context.environments.ensure(engine, device, extra=extra, report=self._report_building)
            self._note("environment", f"{built.name} is made")
        return Interpreter(built.name, built.python)

    def _report_building(self, progress: Progress) -> None:
        self.building = progress

    def _note(self, kind: str, text: str) -> None:
        self._context.store.add_event(self.model_uid, kind, text)

    def _place(self, machine: Machine) -> tuple[int, ...]:
        return place(machine, self.request.n_gpu, self.request.gpu_indices, self._context.reserved())

    def _expect(self) -> tuple[Machine, Expectation]:
        assert self._files is not None
        context, resolved = self._context, self.resolved
        machine = context.machine()
        chosen = self._place(machine)
        plan = make_plan(self.request, resolved, context.plugins, self.model_uid, self._files, chosen)
        return machine, expect(resolved.engine, plan, less_reserved(machine, context.reserved()), context.store)

    async def _fetch(self) -> ModelFiles:
        def report(progress: FetchProgress) -> None:
            self.fetched = progress

        return await fetch(self.resolved, self._context.plugins.hubs, self._context.settings.cache_dir, report)

    def scale(self, replica_ids: Sequence[int]) -> None:
        """Start the replicas that are wanted and not there yet, once the files are ready.

        Raises: BadRequest: the accelerators that were there at the launch are not any more.
        """
        if self._prepare is not None and self._prepare.done() and not self.is_stopping and self.failure is None:
            self._start_replicas(replica_ids)

    def _start_replicas(self, replica_ids: Sequence[int], machine: Machine | None = None) -> None:
        """Start what is not there yet; each replica takes over its worker of an earlier server, if there is one."""
        for replica_id in [each for each in replica_ids if each not in self.replicas]:
            machine = machine or self._context.machine()
            adopted = self._adopted.get(replica_id)
            accelerators = _given_to(adopted) if adopted else None
            if accelerators is None:
                accelerators = self._place(machine)
                is_refused = not (self.record.was_ready or self.outcome.done())
                self.check_room(machine, accelerators, is_refused=is_refused)
            replica = self._replica(replica_id, accelerators)
            self._adopted.pop(replica_id, None)
            self.replicas[replica_id] = replica
            replica.start(adopted)

    def _replica(self, replica_id: int, accelerators: Sequence[int]) -> Replica:
        assert self._files is not None
        request, resolved, context, plugins = self.request, self.resolved, self._context, self._context.plugins
        interpreter = self.interpreter or SERVER
        spec = ReplicaSpec(
            model_uid=self.model_uid,
            replica_id=replica_id,
            engine=resolved.engine,
            plan=make_plan(
                request,
                resolved,
                plugins,
                self.model_uid,
                self._files,
                accelerators,
                interpreter.python,
                context.settings.fetch_hosts,
            ),
            routes=plugins.model_types[resolved.family.model_type].routes,
            request_limit=request.request_limits,
            env=request.envs or {},
            interpreter=interpreter,
            plugin=plugins.module_of(resolved.engine.name),
            expected=self._expected,
            retries=self.record.was_ready,
        )
        return Replica(spec, context.home, context.settings, context.store, self.target, self._on_change)

    def check_room(
        self, machine: Machine | None = None, accelerators: Sequence[int] | None = None, *, is_refused: bool = True
    ) -> None:
        """Compare what a replica needs with what is free where it would run; too little is noted among the events.

        Args:
            machine: as it is now, if it was looked at just before.
            accelerators: those it would have; None: those it would be given now.
            is_refused: raise where it lacks much on accelerators.

        Raises: InsufficientMemory.
        """
        machine = machine or self._context.machine()
        chosen = self._place(machine) if accelerators is None else accelerators
        try:
            warning = check_room(machine, chosen, self._expected.memory, self._context.reserved())
        except InsufficientMemory as error:
            if is_refused:
                raise
            warning = error.message
        if warning:
            self._note("warning", warning)

    def _on_change(self, replica: Replica) -> None:
        if replica.state is State.FAILED and replica.retry_at is None and not self.outcome.done():
            reason = f"Model '{self.model_uid}' could not be launched: {replica.reason}"
            error = LaunchFailed(reason, remedy=replica.remedy)
            if self.record.was_ready:  # it ran before: it stays wanted, and the next server tries again
                self.outcome.set_exception(error)
            else:
                self.fail(error)
        elif not self.outcome.done() and self._is_complete():
            self.outcome.set_result(None)
        self._context.changed(self, replica)

    def _is_complete(self) -> bool:
        ready = [replica for replica in self.replicas.values() if replica.state is State.READY]
        return len(ready) == len(self.replicas) >= len(self.record.replicas)

    def fail(self, error: ModelrackError) -> None:
        """End the launch with an error; waiters are answered."""
        self.failure = error
        if not self.outcome.done():
            self.outcome.set_exception(error)
        self._context.changed(self, None)

    async def remove_replica(self, replica_id: int) -> None:
        """Stop one replica and forget it."""
        replica = self.replicas[replica_id]
        await replica.stop()
        self.replicas.pop(replica_id, None)

    async def stop(self, drain_s: float | None = None) -> None:
        """Cancel what is being prepared, stop all replicas, and answer waiters."""
        self.is_stopping = True
        if self._prepare is not None and not self._prepare.done():
            self._prepare.cancel()
            await asyncio.wait({self._prepare})
        if not self.outcome.done():
            self.outcome.set_exception(LaunchCancelled(f"The launch of '{self.model_uid}' was cancelled."))
        await asyncio.gather(*(replica.stop(drain_s) for replica in self.replicas.values()))


def _given_to(worker: WorkerRecord) -> tuple[int, ...] | None:
    """Return the accelerators that a running worker was started with; None if its job cannot be read any more."""
    try:
        return read_job(worker.job).plan.accelerators
    except ModelrackError:
        return None
