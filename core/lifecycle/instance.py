"""One launched model: its files are made ready, then its replicas run."""

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..api.launch import LaunchRequest
from ..catalog.download import FetchProgress, fetch
from ..catalog.names import expand_home
from ..catalog.resolution import Resolved, complete
from ..errors import LaunchCancelled, LaunchFailed, ModelrackError, NotReady
from ..hooks.loader import Plugins
from ..hooks.types import LoadPlan, Machine, ModelFiles
from ..settings import Settings
from .directory import Target
from .home import Home
from .policy import overall_progress, place
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
    """What all instances share."""

    settings: Settings
    store: Store
    home: Home
    plugins: Plugins
    machine: Callable[[], Machine]
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
        self.outcome: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.failure: ModelrackError | None = None
        self.is_stopping = False
        self._context = context
        self._files: ModelFiles | None = resolved.files
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
        """Return progress, 0 to 1, and stage of the launch: `pending`, `downloading`, `launching` or `loading`."""
        if self.state is State.READY:
            return 1.0, "loading"
        download = self.fetched.fraction if self.fetched else None
        if self._prepare is not None and not self._prepare.done() and self._files is None:
            return overall_progress(download or 0.0, 0.0), "downloading"
        load = min((replica.progress for replica in self.replicas.values()), default=0.0)
        if not self.replicas:
            return overall_progress(download, 0.0), "pending"
        return min(0.99, overall_progress(download, load)), "loading" if load else "launching"

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
            if self._files is None:
                self._context.changed(self, None)
                files = await self._fetch()
                model_type = self._context.plugins.model_types[self.resolved.family.model_type]
                self.resolved = await asyncio.to_thread(complete, self.resolved, files, model_type)
                self._files = self.resolved.files
            self._start_replicas(self.record.replicas)
        except asyncio.CancelledError:
            raise
        except ModelrackError as error:
            self.fail(error)
        except Exception as error:
            log.exception("%s could not be prepared", self.model_uid)
            self.fail(LaunchFailed(f"Model '{self.model_uid}' could not be prepared: {error}"))

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

    def _start_replicas(self, replica_ids: Sequence[int]) -> None:
        """Start what is not there yet; each replica takes over its worker of an earlier server, if there is one."""
        assert self._files is not None
        for replica_id in replica_ids:
            if replica_id not in self.replicas:
                replica = self._replica(replica_id, self._files)
                self.replicas[replica_id] = replica
                replica.start(self._adopted.pop(replica_id, None))

    def _replica(self, replica_id: int, files: ModelFiles) -> Replica:
        request, resolved, context = self.request, self.resolved, self._context
        plugins, model_type = context.plugins, context.plugins.model_types[self.resolved.family.model_type]
        chats = any(route.ability == "chat" for route in model_type.routes)
        adapters = request.peft_model_config.lora_list if request.peft_model_config else []
        plan = LoadPlan(
            model_uid=self.model_uid,
            family=resolved.family,
            variant=resolved.variant,
            quantization=resolved.quantization,
            files=files,
            options=resolved.options,
            accelerators=place(context.machine(), request.n_gpu, request.gpu_indices),
            request_defaults={} if request.enable_thinking is None else {"enable_thinking": request.enable_thinking},
            lora=tuple((adapter.lora_name, str(expand_home(adapter.local_path))) for adapter in adapters),
            output_formats=tuple(plugins.output_formats.values()) if chats else (),
            feature_engines=plugins.feature_engines(model_type.name, resolved.engine.name),
        )
        spec = ReplicaSpec(
            model_uid=self.model_uid,
            replica_id=replica_id,
            engine=resolved.engine,
            plan=plan,
            routes=model_type.routes,
            request_limit=request.request_limits,
            env=request.envs or {},
            retries=self.record.was_ready,
        )
        return Replica(spec, context.home, context.settings, context.store, self.target, self._on_change)

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
