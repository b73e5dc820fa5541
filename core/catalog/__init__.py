"""What can be launched: families and variants, and the way from a launch request to files and an engine.

Names are loaded when they are first used: a worker's process imports `modelrack.catalog.gguf` alone.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .cache import cached_files, list_cached, remove_cached
    from .catalog import Catalog
    from .describe import describe_family, engines_for
    from .download import FetchProgress, fetch
    from .gguf import GgufMetadata, read_metadata
    from .resolution import Resolved, complete, resolve

_HOMES = {
    "Catalog": "catalog",
    "FetchProgress": "download",
    "GgufMetadata": "gguf",
    "Resolved": "resolution",
    "cached_files": "cache",
    "complete": "resolution",
    "describe_family": "describe",
    "engines_for": "describe",
    "fetch": "download",
    "list_cached": "cache",
    "read_metadata": "gguf",
    "remove_cached": "cache",
    "resolve": "resolution",
}

__all__ = [
    "Catalog",
    "FetchProgress",
    "GgufMetadata",
    "Resolved",
    "cached_files",
    "complete",
    "describe_family",
    "engines_for",
    "fetch",
    "list_cached",
    "read_metadata",
    "remove_cached",
    "resolve",
]


def __getattr__(name: str) -> Any:
    """Load a public name from the module it lives in."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f".{_HOMES[name]}", __name__), name)
    globals()[name] = value
    return value
