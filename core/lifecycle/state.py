"""States of a replica and the moves between them; nothing here does anything."""

from enum import StrEnum

__all__ = ["MOVES", "State", "can_move", "xinference_status"]


class State(StrEnum):
    """Where a replica is in its life."""

    QUEUED = "queued"
    PREPARING = "preparing"
    STARTING = "starting"
    READY = "ready"
    DRAINING = "draining"
    STOPPING = "stopping"
    STOPPED = "stopped"
    FAILED = "failed"


MOVES: dict[State, frozenset[State]] = {
    State.QUEUED: frozenset({State.PREPARING, State.STARTING, State.STOPPED, State.FAILED}),
    State.PREPARING: frozenset({State.STARTING, State.STOPPED, State.FAILED}),
    State.STARTING: frozenset({State.READY, State.STOPPING, State.FAILED}),
    State.READY: frozenset({State.DRAINING, State.FAILED}),
    State.DRAINING: frozenset({State.STOPPING}),
    State.STOPPING: frozenset({State.STOPPED}),
    State.STOPPED: frozenset({State.QUEUED}),
    State.FAILED: frozenset({State.STARTING}),
}

_XINFERENCE = {
    State.QUEUED: "CREATING",
    State.PREPARING: "CREATING",
    State.STARTING: "LOADING",
    State.READY: "READY",
    State.DRAINING: "TERMINATING",
    State.STOPPING: "TERMINATING",
    State.STOPPED: "TERMINATED",
    State.FAILED: "ERROR",
}


def can_move(source: State, target: State) -> bool:
    """Return whether a replica in `source` may go to `target`."""
    return target in MOVES[source]


def xinference_status(state: State) -> str:
    """Return the status that Xinference's clients know for a state."""
    return _XINFERENCE[state]
