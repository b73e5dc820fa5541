"""Where the running replicas are: written by the lifecycle, read by the gateway on every request."""

from collections.abc import Callable
from dataclasses import dataclass, field

from ..errors import BadRequest, ModelNotFound, ModelrackError, TooManyRequests

__all__ = ["Directory", "Endpoint", "Target"]


@dataclass(slots=True, eq=False)
class Endpoint:
    """One ready replica.

    Args:
        socket: path of the worker's Unix socket.
        routes: public paths it answers.
        active: requests under way; the gateway counts them.
        limit: requests that may be under way at once; None is no limit.
        draining: no new request is sent to it.
        is_foreign: its worker is a server that may have errors of its own shape.
    """

    replica_id: int
    socket: str
    routes: frozenset[str]
    limit: int | None = None
    active: int = 0
    draining: bool = False
    is_foreign: bool = False


@dataclass(slots=True, eq=False)
class Target:
    """One launched instance, ready or not.

    Args:
        unavailable: makes the error for "known but not ready", with progress and `Retry-After`.
        engine: name of the engine, for errors.
    """

    model_uid: str
    engine: str
    unavailable: Callable[[], ModelrackError]
    endpoints: list[Endpoint] = field(default_factory=list)


class Directory:
    """Find a replica for a request. Used from the event loop only; nothing here waits."""

    def __init__(self) -> None:
        self._targets: dict[str, Target] = {}

    def put(self, target: Target) -> None:
        """Add an instance, or replace it."""
        self._targets[target.model_uid] = target

    def remove(self, model_uid: str) -> None:
        """Forget an instance."""
        self._targets.pop(model_uid, None)

    def get(self, model_uid: str) -> Target | None:
        """Return the instance, or None."""
        return self._targets.get(model_uid)

    def choose(self, model_uid: str, path: str) -> Endpoint:
        """Choose the least busy ready replica; the caller adds one to its `active`, and takes it off when done.

        Raises: ModelNotFound, BadRequest (its engine does not serve this path), NotReady, TooManyRequests.
        """
        target = self._targets.get(model_uid)
        if target is None:
            raise ModelNotFound(
                f"Model '{model_uid}' is not running.",
                param="model",
                remedy="Launch it first (modelrack launch --model-name NAME), or see what runs with: modelrack list.",
            )
        best: Endpoint | None = None
        ready = False
        for endpoint in target.endpoints:
            if endpoint.draining:
                continue
            ready = True
            if path in endpoint.routes and (best is None or endpoint.active < best.active):
                best = endpoint
        if best is None:
            if not ready:
                raise target.unavailable()
            raise BadRequest(f"Model '{model_uid}' on engine '{target.engine}' does not serve {path}.", param="model")
        if best.limit is not None and best.active >= best.limit:
            raise TooManyRequests(
                f"Model '{model_uid}' is at its limit of {best.limit} concurrent requests per replica.",
                headers={"Retry-After": "1"},
            )
        return best
