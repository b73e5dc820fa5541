"""Put modelrack and a plugin on the path of a worker that runs in another environment."""

import importlib.util
import os
from collections.abc import Iterable
from pathlib import Path

from .errors import EnvironmentFailed

__all__ = ["link_library"]

_CORE = Path(__file__).resolve().parents[1]


def link_library(folder: Path, modules: Iterable[str]) -> Path:
    """Make a folder for PYTHONPATH with links to modelrack and to each module's top-level package, and return it.

    Nothing is imported. What stands beside these packages on the server's path is not seen through them.

    Args:
        folder: is made; links of an earlier call are replaced.
        modules: dotted paths, such as an entry point's (`modelrack_echo.plugin`); a module may be a single file.

    Raises: EnvironmentFailed: a module cannot be found. OSError: the folder cannot be written.
    """
    targets = {"modelrack": _CORE}
    for module in modules:
        name = module.partition(":")[0].partition(".")[0]
        if name != "modelrack":
            target = _find(name)
            targets[name if target.is_dir() else target.name] = target
    folder.mkdir(parents=True, exist_ok=True)
    for name, target in targets.items():
        draft = folder / f".{name}.{os.getpid()}"
        draft.unlink(missing_ok=True)
        draft.symlink_to(target)
        draft.replace(folder / name)
    return folder


def _find(name: str) -> Path:
    """Return the folder of a top-level package, or the file of a top-level module."""
    try:
        spec = importlib.util.find_spec(name)
    except (ImportError, ValueError):
        spec = None
    folders = list(spec.submodule_search_locations or ()) if spec is not None else []
    files = [spec.origin] if spec is not None and spec.has_location and spec.origin else []
    for path in map(Path, folders or files):
        if path.is_dir() or (path.is_file() and path.suffix == ".py"):
            return path.resolve()
    raise EnvironmentFailed(
        f"The package '{name}' of a plugin was not found as a folder or file on this machine.",
        remedy="Reinstall the plugin; packages inside of zip files cannot be used in other environments.",
    )
