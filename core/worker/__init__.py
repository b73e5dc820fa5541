"""What runs inside an engine's own process: the contract of a plugin's worker half and the host that serves it.

The names load on first use: a worker's process binds its socket before it pays for importing them.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .contract import Call, Event, Handler, Job, Loader, Raw, Reply, Report, ResultFiles

__all__ = ["Call", "Event", "Handler", "Job", "Loader", "Raw", "Reply", "Report", "ResultFiles"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(".contract", __name__), name)
    globals()[name] = value
    return value
