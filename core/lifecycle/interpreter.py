"""The Python that runs a worker: the server's own, or that of another environment."""

import os
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from ..hooks.types import LoadPlan, PythonWorker, Route

__all__ = ["SERVER", "Interpreter", "needed_modules"]

_OTHER_PYTHON = ("PYTHONHOME", "PYTHONPATH", "PYTHONSTARTUP", "PYTHONUSERBASE", "__PYVENV_LAUNCHER__", "VIRTUAL_ENV")
"""Variables that say which code the server's own Python runs, and that another one must not see."""


@dataclass(frozen=True, slots=True)
class Interpreter:
    """What runs a worker.

    Args:
        environment: `server`, the name of an environment that was made, or the path that the launch gave.
        python: path of the interpreter.
    """

    environment: str
    python: str

    @property
    def is_server(self) -> bool:
        """Return whether it is the server's own."""
        return self.environment == SERVER.environment

    def variables(self, env: Mapping[str, str], library: Path) -> dict[str, str]:
        """Return the variables under which this interpreter finds our library, and programs of its own environment."""
        if self.is_server:
            return dict(env)
        changed = {name: value for name, value in env.items() if name not in _OTHER_PYTHON}
        programs = Path(self.python).parent
        changed["PYTHONPATH"] = str(library)
        changed["PATH"] = os.pathsep.join((str(programs), env.get("PATH") or os.defpath))
        if (programs.parent / "pyvenv.cfg").exists():
            changed["VIRTUAL_ENV"] = str(programs.parent)
        return changed


SERVER = Interpreter("server", sys.executable)


def needed_modules(worker: object, plugin: str, plan: LoadPlan, routes: tuple[Route, ...]) -> Iterator[str]:
    """Yield the dotted paths of what a worker imports of plugins, its own first.

    Args:
        plugin: module of the plugin that brings the engine.
    """
    yield plugin
    if isinstance(worker, PythonWorker):
        yield worker.loader
        yield from (form.parser for form in plan.output_formats)
        for route in routes:
            yield from (path for path in (route.request, route.response, route.chunk) if path)
