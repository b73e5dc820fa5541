"""All launched models: the desired state in the store, and the one loop that makes it so."""

import asyncio
import contextlib
import logging
import os
import re
import secrets
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

from ..api.launch import UID_PATTERN, LaunchRequest
from ..catalog.catalog import Catalog
from ..catalog.memory import measure_key
from ..catalog.resolution import Choices, Resolved, settle, survey
from ..environments import Environments, device_kind
from ..errors import AlreadyExists, BadRequest, ModelNotFound, ModelrackError, NotFound
from ..hooks.loader import Plugins
from ..hooks.types import Engine, InstanceEvent, LoadPlan, Machine, ModelFiles
from ..settings import Settings
from .checks import check_adapters, check_request
from .directory import Directory
from .home import lock_home, open_home
from .instance import Context, Instance
from .plan import expect, inspect_path, make_plan
from .policy import Reserved, check_room, less_reserved, place, reserve
from .process import Process, is_running, kill_stray
from .replica import Replica
from .state import State
from .store import InstanceRecord, Measured, Store, StoreFailed, WorkerRecord

__all__ = ["Rack"]

log = logging.getLogger(__name__)

RECONCILE_S = 5.0
"""Seconds after which wishes are compared with what is there even if nothing has happened."""

FAILED_KEPT = 100
"""Failed launches that are still listed."""


class Rack:
    """Launch, list and terminate models.

    Every wish is written to the store first; the reconcile loop is the only thing that starts and stops workers.
    """

    def __init__(
        self,
        settings: Settings,
        plugins: Plugins,
        catalog: Catalog,
        directory: Directory,
        machine: Callable[[], Machine],
    ) -> None:
        self.settings = settings
        self.plugins = plugins
        self.catalog = catalog
        self.directory = directory
        self.machine = machine
        self.started_ts = time.time()
        self._restored = asyncio.Event()
        self._instances: dict[str, Instance] = {}
        self._failed: dict[str, Instance] = {}
        self._stopping: dict[str, asyncio.Task[None]] = {}
        self._wake = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self._telling = ThreadPoolExecutor(max_workers=1, thread_name_prefix="events")
        self._lock = lock_home(settings.home)
        self.home = open_home(settings.home)
        self.store = Store(settings.home / "state.db")
        self.environments = Environments(settings.home)
        self._context = Context(
            settings, self.store, self.home, plugins, self.environments, machine, self._reserved, self._on_change
        )

    # --- life of the server ---------------------------------------------------------------------------------------

    async def start(self, restore: bool = True) -> None:
        """Take over or restart what an earlier server ran, and begin to reconcile.

        Args:
            restore: if False, models of an earlier server are stopped and forgotten.
        """
        self._touch_lease()
        loop = asyncio.get_running_loop()
        self._tasks = [loop.create_task(self._keep_lease()), loop.create_task(self._run(restore))]

    @property
    def is_restored(self) -> bool:
        """Return whether the models of an earlier server have been taken up again."""
        return self._restored.is_set()

    async def close(self, drain_s: float | None = None) -> None:
        """Stop all workers; what was launched stays in the store and comes back with the next server."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        stops = [instance.stop(drain_s) for instance in self._instances.values()]
        await asyncio.gather(*stops, *self._stopping.values())
        self._telling.shutdown(wait=True, cancel_futures=True)
        self.store.close()
        os.close(self._lock)

    def release_waiters(self, error: ModelrackError) -> None:
        """Answer whoever waits for a launch with an error; the launches themselves go on."""
        for instance in self._instances.values():
            if not instance.outcome.done():
                instance.outcome.set_exception(error)

    def kill(self) -> None:
        """End all workers at once; `close` then returns soon."""
        for instance in self._instances.values():
            for replica in instance.replicas.values():
                replica.kill()

    async def _run(self, restore: bool) -> None:
        try:
            await self._restore(restore)
        except Exception:
            log.exception("models of an earlier server could not be restored")
        self._restored.set()
        while True:
            try:
                self._reconcile()
            except StoreFailed as error:
                log.error("%s", error.message)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._wake.wait(), RECONCILE_S)
            self._wake.clear()

    async def _restore(self, restore: bool) -> None:
        records = self.store.instances()
        for record in records:
            if not record.is_wanted or not restore:
                self.store.remove_instance(record.model_uid)
        kept = [record for record in records if record.is_wanted and restore]
        adoptable = await self._settle_workers({(r.model_uid, replica) for r in kept for replica in r.replicas})
        for record in kept:
            await self._restore_instance(record, [w for w in adoptable if w.model_uid == record.model_uid])

    async def _settle_workers(self, wanted: set[tuple[str, int]]) -> list[WorkerRecord]:
        """End what an earlier server left behind, and return one running worker for each replica that has any."""
        adoptable: dict[tuple[str, int], WorkerRecord] = {}
        for worker in self.store.workers():
            key = (worker.model_uid, worker.replica_id)
            if key in wanted and key not in adoptable and is_running(worker.pid, worker.pid_created):
                adoptable[key] = worker
            else:
                await self._end_worker(worker)
        known = [worker.pid for worker in adoptable.values() if worker.pid is not None]
        killed = await asyncio.to_thread(kill_stray, self.home.owner, known)
        if killed:
            log.warning("killed %d stray processes of an earlier server: %s", len(killed), killed)
        self.home.sweep({worker.incarnation for worker in adoptable.values()})
        return list(adoptable.values())

    async def _restore_instance(self, record: InstanceRecord, workers: list[WorkerRecord]) -> None:
        try:
            request = LaunchRequest.model_validate(record.request)
            resolved = await self._resolve(request)
        except (ModelrackError, ValueError) as error:
            # The wish stays: a plugin may be back, or a disk mounted, when the server starts the next time.
            log.error("%s cannot be restored now, and is tried at the next start again: %s", record.model_uid, error)
            self.store.add_event(record.model_uid, "failed", f"cannot be restored: {error}")
            for worker in workers:
                await self._end_worker(worker)
            return
        log.info("restoring %s", record.model_uid)
        self._add(record, request, resolved, workers)

    async def _end_worker(self, worker: WorkerRecord) -> None:
        if worker.pid is not None and worker.pid_created is not None:
            process = Process.adopt(worker.pid, worker.pid_created)
            if process is not None:
                await process.stop(self.settings.stop_s)
        self.store.remove_worker(worker.incarnation)

    def _touch_lease(self) -> None:
        try:
            self.home.make_folders()
            self.home.lease.touch()
            os.utime(self.home.lease)
        except OSError as error:
            log.error("The lease cannot be renewed, workers will end themselves: %s", error)

    async def _keep_lease(self) -> None:
        while True:
            await asyncio.sleep(self.settings.lease_s / 10)
            self._touch_lease()
            for instance in self._instances.values():
                for replica in instance.replicas.values():
                    replica.check_files()

    # --- wishes ---------------------------------------------------------------------------------------------------

    async def launch(self, request: LaunchRequest) -> Instance:
        """Launch a model; returns once the wish is stored, before it is ready.

        Raises: BadRequest, NoEngine, ModelNotFound: it can be told at once that this cannot work.
        """
        check_request(request)
        await self._restored.wait()
        if request.model_uid is not None:
            await self._refuse_taken(request.model_uid)
        resolved = await self._resolve(request)
        check_adapters(request, resolved)
        await self._check_path(request, resolved)
        await asyncio.to_thread(self._check_room, request, resolved)
        uid = request.model_uid or self._free_uid(resolved.family.name)
        await self._refuse_taken(uid)
        settled = request.model_copy(
            update={
                "model_uid": uid,
                "model_engine": resolved.engine.name,
                "model_format": resolved.variant.format,
                "model_size_in_billions": resolved.variant.size_b,
                "quantization": resolved.quantization,
            }
        )
        record = InstanceRecord(
            model_uid=uid,
            request=settled.model_dump(mode="json"),
            replicas=tuple(range(request.replica)),
            created_ts=time.time(),
        )
        self._failed.pop(uid, None)
        self.store.put_instance(record)
        self.store.add_event(uid, "launched", f"{resolved.family.name} on {resolved.engine.name}")
        instance = self._add(record, settled, resolved, [])
        self._reconcile()
        return instance

    async def wait_ready(self, model_uid: str) -> None:
        """Wait until a launch has ended well.

        Raises: LaunchFailed, LaunchCancelled: it has not; the reason is in the message. ModelNotFound: unknown uid.
        """
        await asyncio.shield(self.get(model_uid).outcome)

    async def terminate(self, model_uid: str) -> None:
        """End a model, ready or not, and wait until its workers are gone.

        Raises: ModelNotFound: no such model.
        """
        await self._restored.wait()
        if self._failed.pop(model_uid, None) is not None:
            self.store.add_event(model_uid, "terminated", "")
            return
        if model_uid not in self._instances and any(r.model_uid == model_uid for r in self.store.instances()):
            self.store.remove_instance(model_uid)  # one that could not be restored
            self.store.add_event(model_uid, "terminated", "")
            return
        self.get(model_uid)
        self.store.set_unwanted(model_uid)
        self._reconcile()
        await asyncio.shield(self._stopping[model_uid])
        self._failed.pop(model_uid, None)

    async def cancel(self, model_uid: str) -> None:
        """Cancel a launch that is under way.

        Raises: ModelNotFound: no such model. BadRequest: it is ready by now.
        """
        instance = self.get(model_uid)
        if instance.outcome.done():
            raise BadRequest(
                f"Model '{model_uid}' is not being launched any more.", remedy="Terminate it: modelrack terminate."
            )
        await self.terminate(model_uid)

    def add_replica(self, model_uid: str) -> Replica:
        """Want one more replica; returns it, not yet ready.

        Raises: ModelNotFound: no such model. BadRequest: it is not running, or there is much too little memory.
        """
        instance = self.get(model_uid)
        if not instance.outcome.done() or instance.failure is not None or model_uid in self._stopping:
            raise BadRequest(f"Model '{model_uid}' is not running.")
        instance.check_room()
        replica_id = max(instance.record.replicas, default=-1) + 1
        self._want_replicas(instance, (*instance.record.replicas, replica_id))
        self._reconcile()
        return instance.replicas[replica_id]

    async def remove_replica(self, model_uid: str, replica_id: int) -> int:
        """Stop one replica; returns how many remain.

        Raises: NotFound: no such model or replica. BadRequest: it is the last one.
        """
        instance = self.get(model_uid)
        if replica_id not in instance.replicas:
            raise NotFound(f"Model '{model_uid}' has no replica {replica_id}.", param="replica_id")
        remaining = tuple(each for each in instance.record.replicas if each != replica_id)
        if not remaining:
            raise BadRequest(f"Replica {replica_id} is the last one of '{model_uid}'.", remedy="Terminate the model.")
        self._want_replicas(instance, remaining)
        await instance.remove_replica(replica_id)
        return len(remaining)

    def _want_replicas(self, instance: Instance, replicas: tuple[int, ...]) -> None:
        self.store.set_replicas(instance.model_uid, replicas)
        instance.record = InstanceRecord(
            model_uid=instance.model_uid,
            request={**instance.record.request, "replica": len(replicas)},
            replicas=replicas,
            was_ready=instance.record.was_ready,
            created_ts=instance.record.created_ts,
        )

    # --- questions ------------------------------------------------------------------------------------------------

    def get(self, model_uid: str) -> Instance:
        """Return a launched model, also one that failed to launch.

        Raises: ModelNotFound: no such model.
        """
        instance = self._instances.get(model_uid) or self._failed.get(model_uid)
        if instance is None:
            reason = f"Model '{model_uid}' is not running."
            raise ModelNotFound(reason, param="model_uid", remedy="See: modelrack list.")
        return instance

    def instances(self) -> list[Instance]:
        """Return all launched models, oldest first, failed launches last."""
        return [*self._instances.values(), *self._failed.values()]

    # --- making it so ---------------------------------------------------------------------------------------------

    def _reconcile(self) -> None:
        """Compare what is wanted with what is there, and start what makes them equal."""
        wanted = {record.model_uid: record for record in self.store.instances() if record.is_wanted}
        for uid, instance in list(self._instances.items()):
            if uid not in wanted and uid not in self._stopping:
                self._stopping[uid] = asyncio.get_running_loop().create_task(self._end(instance))
            elif uid in wanted:
                instance.begin()
                try:
                    instance.scale(wanted[uid].replicas)
                except ModelrackError as error:
                    log.error("%s: a replica cannot be started: %s", uid, error.message)

    async def _end(self, instance: Instance) -> None:
        uid = instance.model_uid
        try:
            await instance.stop()
            for worker in instance.unclaimed:  # it was told to end before a replica had taken its worker over
                await self._end_worker(worker)
        finally:
            self._instances.pop(uid, None)
            self._stopping.pop(uid, None)
            self.directory.remove(uid)
            self.store.remove_instance(uid)
            if instance.failure is not None:
                self._failed[uid] = instance
                while len(self._failed) > FAILED_KEPT:
                    self._failed.pop(next(iter(self._failed)))
            else:
                self.store.add_event(uid, "terminated", "")

    def _add(
        self, record: InstanceRecord, request: LaunchRequest, resolved: Resolved, workers: list[WorkerRecord]
    ) -> Instance:
        instance = Instance(record, request, resolved, self._context, workers)
        self._instances[record.model_uid] = instance
        self.directory.put(instance.target)
        return instance

    async def examine(self, request: LaunchRequest) -> tuple[Machine, Choices, Resolved]:
        """Return the machine, what could be launched on it, and what would be; nothing is changed.

        Raises: as `launch`, but for memory that is lacking.
        """
        check_request(request)
        machine, choices = await asyncio.to_thread(self.survey, request)
        resolved = await asyncio.to_thread(settle, choices)
        await self._check_path(request, resolved)
        check_adapters(request, resolved)
        return machine, choices, resolved

    def survey(self, request: LaunchRequest) -> tuple[Machine, Choices]:
        """Return the machine as it is now, and what could be launched on it, the best first; blocks for milliseconds.

        Memory that replicas are about to take that are still loading does not count as free.

        Raises: BadRequest, NoEngine, ModelNotFound, EngineUnavailable: nothing can be.
        """
        machine = self.free_machine()
        # What is not there is refused before anything starts.
        device = device_kind(machine, place(machine, request.n_gpu, request.gpu_indices))
        hub = request.download_hub or self.settings.hub
        is_built = self.is_built(device, request.virtual_env_packages or ())

        def recall(engine: Engine, plan: LoadPlan) -> Measured | None:
            return self.store.measured(measure_key(engine.name, plan, machine))

        cache_dir = self.settings.cache_dir
        return machine, survey(request, self.catalog, self.plugins, machine, hub, cache_dir, is_built, recall)

    def free_machine(self) -> Machine:
        """Return the machine as it is now, less the memory that replicas are about to take that are still loading."""
        return less_reserved(self.machine(), self._reserved())

    def is_built(self, device: str, extra: Sequence[str] = ()) -> Callable[[Engine], bool]:
        """Return what tells whether the environment of an engine is on this machine; arguments as for `built`."""
        find = self.built(device, extra)
        return lambda engine: find(engine) is not None

    def built(self, device: str, extra: Sequence[str] = ()) -> Callable[[Engine], tuple[str, int] | None]:
        """Return what finds the environment of an engine on this machine: its name, and the bytes of its files.

        Args:
            device: kind of the device that it is for.
            extra: further requirements.
        """

        def find(engine: Engine) -> tuple[str, int] | None:
            try:
                found = self.environments.find(engine, device, extra=extra)
            except ModelrackError:  # a declaration that is wrong is told once it is needed
                return None
            return None if found is None else (found.name, found.size_bytes)

        return find

    async def _resolve(self, request: LaunchRequest) -> Resolved:
        return await asyncio.to_thread(lambda: settle(self.survey(request)[1]))

    async def _check_path(self, request: LaunchRequest, resolved: Resolved) -> None:
        """Refuse the path of an environment in which the engine cannot run.

        Raises: BadRequest.
        """
        if resolved.where == "path" and request.environment is not None:
            machine = await asyncio.to_thread(self.machine)
            chosen = place(machine, request.n_gpu, request.gpu_indices)
            await inspect_path(request.environment, resolved.engine, machine, chosen)

    def _check_room(self, request: LaunchRequest, resolved: Resolved) -> None:
        """Refuse what cannot fit on the accelerators it would have, before anything is downloaded or made for it.

        Raises: InsufficientMemory.
        """
        machine, reserved = self.machine(), self._reserved()
        chosen = place(machine, request.n_gpu, request.gpu_indices, reserved)
        if chosen:
            files = resolved.files or ModelFiles(path="", format=resolved.variant.format)
            plan = make_plan(request, resolved, self.plugins, request.model_uid or "", files, chosen)
            needed = expect(resolved.engine, plan, less_reserved(machine, reserved), self.store).memory
            check_room(machine, chosen, needed, reserved)

    def _reserved(self) -> Reserved:
        """Return the memory that replicas will take that have not loaded yet."""
        loading = [
            (replica.spec.plan.accelerators, replica.spec.expected.memory)
            for instance in list(self._instances.values())
            for replica in list(instance.replicas.values())
            if replica.state in (State.QUEUED, State.STARTING)
        ]
        return reserve((chosen, memory) for chosen, memory in loading if memory is not None)

    def _on_change(self, instance: Instance, replica: Replica | None) -> None:
        uid = instance.model_uid
        if instance.failure is not None and uid in self._instances and not instance.is_stopping:
            self.store.add_event(uid, State.FAILED.value, instance.reason)
            if not instance.record.was_ready:  # else it stays wanted, and the next server tries again
                with contextlib.suppress(StoreFailed):  # it stays listed as failed, until it is terminated
                    self.store.set_unwanted(uid)
            self._wake.set()
        elif replica is not None:
            self.store.add_event(uid, replica.state.value, replica.reason or f"replica {replica.spec.replica_id}")
            if replica.state is State.READY and not instance.record.was_ready:
                self.store.mark_ready(uid)
        if replica is not None and self.plugins.listens():
            event = InstanceEvent(
                model_uid=uid, replica_id=replica.spec.replica_id, state=replica.state.value, reason=replica.reason
            )
            with contextlib.suppress(RuntimeError):
                self._telling.submit(self.plugins.emit, event)

    async def _refuse_taken(self, model_uid: str) -> None:
        """Raise AlreadyExists if the uid is in use; one that is just ending is waited for."""
        if model_uid in self._stopping:
            await asyncio.shield(self._stopping[model_uid])
        if self._is_taken(model_uid):
            raise AlreadyExists(f"Model uid '{model_uid}' is already in use.", param="model_uid")

    def _is_taken(self, model_uid: str) -> bool:
        return model_uid in self._instances

    def _free_uid(self, name: str) -> str:
        uid = name
        if not re.fullmatch(UID_PATTERN, name):
            uid = re.sub(r"[^A-Za-z0-9._:@+-]+", "-", name).strip("-._:@+")[:100] or "model"
        return f"{uid}-{secrets.token_hex(4)}" if self._is_taken(uid) else uid
