"""The clients: the same methods, blocking in `Client`, coroutines in `AsyncClient`."""

from typing import TYPE_CHECKING, Any

from . import management
from .bind import asynchronous, blocking
from .endpoint import find_api_key, find_endpoint
from .handles import AsyncModelHandle, ModelHandle, choose_handle

if TYPE_CHECKING:
    from .transport import AsyncTransport, Connection, Transport

__all__ = ["AsyncClient", "Client"]


class _Settings:
    """What both clients are made from.

    Args:
        base_url: root of the server; default: `MODELRACK_ENDPOINT`, else http://127.0.0.1:9997.
        api_key: key to send; default: `MODELRACK_API_KEY`.
        timeout: seconds without a byte from the server before a request is given up; None waits for ever. Launching
            and terminating have no such limit.
        connect_timeout: seconds to reach the server.
        stall_timeout: seconds a launch may go without progress before the client stops waiting for it.
    """

    def __init__(
        self,
        base_url: str | None = None,
        api_key: str | None = None,
        *,
        timeout: float | None = 600.0,
        connect_timeout: float = 5.0,
        stall_timeout: float | None = 600.0,
    ) -> None:
        self.base_url = find_endpoint(base_url)
        self.timeout = timeout
        self.stall_timeout = stall_timeout
        self._api_key = find_api_key(api_key)
        self._connect_timeout = connect_timeout

    def _connection(self) -> "Connection":
        from .transport import Connection

        return Connection(self.base_url, self._api_key, self.timeout, self._connect_timeout)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.base_url!r})"


class Client(_Settings):
    """A blocking client; safe to use from several threads. Use it as a context manager, or close it."""

    _transport: "Transport | None" = None

    def _run(self, work: Any) -> Any:
        transport = self._transport
        if transport is None:
            from .transport import Transport

            transport = self._transport = Transport(self._connection())
        return transport.run(work)

    def get_model(self, model_uid: str) -> Any:
        """Return the handle of a launched model; which one depends on its type and abilities."""
        description = self.describe_model(model_uid)
        handle: ModelHandle = choose_handle(description)[0](model_uid, self._run, description)
        return handle

    def close(self) -> None:
        """Close all connections; a later call opens new ones."""
        transport, self._transport = self._transport, None
        if transport is not None:
            transport.close()

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __del__(self) -> None:
        self.close()

    list_models = blocking(management.list_models)
    describe_model = blocking(management.describe_model)
    launch_model = blocking(management.launch_model)
    plan = blocking(management.plan)
    wait_until_ready = blocking(management.wait_until_ready)
    terminate_model = blocking(management.terminate_model)
    get_launch_model_progress = blocking(management.get_launch_model_progress)
    cancel_launch_model = blocking(management.cancel_launch_model)
    get_instance_info = blocking(management.get_instance_info)
    list_model_replicas = blocking(management.list_model_replicas)
    add_model_replica = blocking(management.add_model_replica)
    terminate_model_replica = blocking(management.terminate_model_replica)
    get_model_events = blocking(management.get_model_events)
    register_model = blocking(management.register_model)
    unregister_model = blocking(management.unregister_model)
    list_model_registrations = blocking(management.list_model_registrations)
    get_model_registration = blocking(management.get_model_registration)
    query_engine_by_model_name = blocking(management.query_engine_by_model_name)
    list_cached_models = blocking(management.list_cached_models)
    list_deletable_models = blocking(management.list_deletable_models)
    confirm_and_remove_model = blocking(management.confirm_and_remove_model)
    abort_request = blocking(management.abort_request)
    get_progress = blocking(management.get_progress)
    get_workers_info = blocking(management.get_workers_info)
    get_supervisor_info = blocking(management.get_supervisor_info)
    get_version = blocking(management.get_version)
    vllm_models = blocking(management.vllm_models)


class AsyncClient(_Settings):
    """A client for an event loop. Use it as an async context manager, or close it."""

    _transport: "AsyncTransport | None" = None

    async def _run(self, work: Any) -> Any:
        transport = self._transport
        if transport is None:
            from .transport import AsyncTransport

            transport = self._transport = AsyncTransport(self._connection())
        return await transport.run(work)

    async def get_model(self, model_uid: str) -> Any:
        """Return the handle of a launched model; which one depends on its type and abilities."""
        description = await self.describe_model(model_uid)
        handle: AsyncModelHandle = choose_handle(description)[1](model_uid, self._run, description)
        return handle

    async def close(self) -> None:
        """Close all connections; a later call opens new ones."""
        transport, self._transport = self._transport, None
        if transport is not None:
            await transport.close()

    async def __aenter__(self) -> "AsyncClient":
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    list_models = asynchronous(management.list_models)
    describe_model = asynchronous(management.describe_model)
    launch_model = asynchronous(management.launch_model)
    plan = asynchronous(management.plan)
    wait_until_ready = asynchronous(management.wait_until_ready)
    terminate_model = asynchronous(management.terminate_model)
    get_launch_model_progress = asynchronous(management.get_launch_model_progress)
    cancel_launch_model = asynchronous(management.cancel_launch_model)
    get_instance_info = asynchronous(management.get_instance_info)
    list_model_replicas = asynchronous(management.list_model_replicas)
    add_model_replica = asynchronous(management.add_model_replica)
    terminate_model_replica = asynchronous(management.terminate_model_replica)
    get_model_events = asynchronous(management.get_model_events)
    register_model = asynchronous(management.register_model)
    unregister_model = asynchronous(management.unregister_model)
    list_model_registrations = asynchronous(management.list_model_registrations)
    get_model_registration = asynchronous(management.get_model_registration)
    query_engine_by_model_name = asynchronous(management.query_engine_by_model_name)
    list_cached_models = asynchronous(management.list_cached_models)
    list_deletable_models = asynchronous(management.list_deletable_models)
    confirm_and_remove_model = asynchronous(management.confirm_and_remove_model)
    abort_request = asynchronous(management.abort_request)
    get_progress = asynchronous(management.get_progress)
    get_workers_info = asynchronous(management.get_workers_info)
    get_supervisor_info = asynchronous(management.get_supervisor_info)
    get_version = asynchronous(management.get_version)
    vllm_models = asynchronous(management.vllm_models)
