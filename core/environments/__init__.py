"""Python environments of engines: made once with uv from what a plugin declares, and never changed."""

from .declaration import DEVICES, WORKER_REQUIREMENTS, declare, device_kind
from .environments import Environments, Plan
from .errors import EnvironmentFailed
from .foreign import check_interpreter
from .library import link_library
from .progress import Progress
from .store import Built, Package

__all__ = [
    "DEVICES",
    "WORKER_REQUIREMENTS",
    "Built",
    "EnvironmentFailed",
    "Environments",
    "Package",
    "Plan",
    "Progress",
    "check_interpreter",
    "declare",
    "device_kind",
    "link_library",
]
