"""Look at an environment that somebody else has made."""

import os
import re
from collections.abc import Iterable
from pathlib import Path

from packaging.requirements import Requirement

from ..errors import BadRequest
from .declaration import WORKER_REQUIREMENTS
from .interpreter import InterpreterFailed, ask_interpreter

__all__ = ["check_interpreter"]

_NAME = re.compile(r"(python|pypy)[\d.]*(\.exe)?")
"""Nothing else is started, whatever a request names."""
_SCRIPT = """
import json, sys
from importlib.util import find_spec
def is_there(name):
    try:
        return find_spec(name) is not None
    except (ImportError, ValueError):
        return False
print(json.dumps([sys.version_info[:2], [name for name in sys.argv[1:] if not is_there(name)]]))
"""


async def check_interpreter(path: Path, modules: Iterable[str]) -> str:
    """Return the interpreter of an environment in which a worker can run.

    Args:
        path: the folder of the environment, or its interpreter.
        modules: what the engine imports; they are looked up without importing them.

    Raises: BadRequest: there is none, it does not run, is too old, or a module is missing.
    """
    python = path / "bin" / "python" if os.path.isdir(path) else path  # of what cannot be looked at, both say no
    if not os.path.isfile(python) or not _NAME.fullmatch(python.name):
        raise _refuse(f"There is no interpreter at {python}.", "Name the folder of an environment, or its interpreter.")
    needed = [requirement.name for requirement in map(Requirement, WORKER_REQUIREMENTS) if _is_meant(requirement)]
    names = dict.fromkeys([*needed, *modules])
    try:
        version, missing = await ask_interpreter(python, _SCRIPT, *names)
    except InterpreterFailed as error:
        raise _refuse(f"The interpreter {python} cannot be used: {error}.") from error
    if tuple(version) < (3, 11):
        raise _refuse(f"The interpreter {python} is Python {version[0]}.{version[1]}; workers need 3.11 or newer.")
    if missing:
        wanted = " ".join(f'"{text}"' for text in WORKER_REQUIREMENTS if Requirement(text).name in missing)
        remedy = f"Install what is missing into it; what modelrack itself needs there: {wanted}" if wanted else None
        raise _refuse(
            f"The environment of {python} lacks {', '.join(missing)}.", remedy or "Install what is missing into it."
        )
    return str(python)


def _is_meant(requirement: Requirement) -> bool:
    return requirement.marker is None or requirement.marker.evaluate()


def _refuse(message: str, remedy: str | None = None) -> BadRequest:
    return BadRequest(message, param="environment", remedy=remedy)
