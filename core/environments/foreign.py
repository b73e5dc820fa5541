"""Look at an environment that somebody else has made."""

import json
import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from packaging.requirements import Requirement
from packaging.version import InvalidVersion

from ..errors import BadRequest
from .declaration import WORKER_REQUIREMENTS
from .interpreter import InterpreterFailed, ask_interpreter

__all__ = ["check_interpreter"]

_NAME = re.compile(r"(python|pypy)[\d.]*(\.exe)?")
"""Nothing else is started, whatever a request names."""
_SCRIPT = """
import json, platform, sys
from importlib import metadata
from importlib.util import find_spec
modules, names = map(json.loads, sys.argv[1:])
def version(name):
    try:
        return metadata.version(name)
    except Exception:  # not there, or damaged
        return None
def is_there(name):
    try:
        return find_spec(name) is not None
    except (ImportError, ValueError):
        return False
missing = [name for name in modules if not is_there(name)]
print(json.dumps([platform.python_version(), missing, {name: version(name) for name in names}]))
"""


async def check_interpreter(path: Path, modules: Iterable[str], requirements: Iterable[str] = ()) -> str:
    """Return the interpreter of an environment in which a worker can run.

    Args:
        path: the folder of the environment, or its interpreter.
        modules: what the engine imports; they are looked up without importing them.
        requirements: what the engine declares: a distribution of these that is there must be of a version that will do.
            One that is not there is none of this check: what is needed may come under another name.

    Raises: BadRequest: there is none, it does not run, is too old, or a module is missing or a version wrong.
    """
    python = path / "bin" / "python" if os.path.isdir(path) else path  # of what cannot be looked at, both say no
    if not os.path.isfile(python) or not _NAME.fullmatch(python.name):
        raise _refuse(f"There is no interpreter at {python}.", "Name the folder of an environment, or its interpreter.")
    ours = [Requirement(text) for text in WORKER_REQUIREMENTS]
    needed = dict.fromkeys([*(_module(requirement) for requirement in ours if _is_meant(requirement)), *modules])
    wanted = [*ours, *map(Requirement, requirements)]
    names = dict.fromkeys(requirement.name for requirement in wanted)
    try:
        told = await ask_interpreter(python, _SCRIPT, json.dumps([*needed]), json.dumps([*names]))
        version, missing, versions = str(told[0]), list(told[1]), dict(told[2])
        major, minor = map(int, version.split(".")[:2])
    except InterpreterFailed as error:
        raise _refuse(f"The interpreter {python} cannot be used: {error}.") from error
    except (TypeError, ValueError, LookupError) as error:
        raise _refuse(f"The interpreter {python} cannot be used: it does not say what it is.") from error
    if (major, minor) < (3, 11):
        raise _refuse(f"The interpreter {python} is Python {major}.{minor}; workers need 3.11 or newer.")
    if missing:
        lacking = " ".join(f'"{text}"' for text in WORKER_REQUIREMENTS if _module(Requirement(text)) in missing)
        remedy = f"Install what is missing into it; what modelrack itself needs there: {lacking}" if lacking else None
        raise _refuse(
            f"The environment of {python} lacks {', '.join(missing)}.", remedy or "Install what is missing into it."
        )
    markers = {"python_version": f"{major}.{minor}", "python_full_version": version}
    wrong = [each for each in wanted if _is_meant(each, markers) and not _is_satisfied(each, versions.get(each.name))]
    if wrong:
        found = ", ".join(f"{each.name} {versions[each.name]}, and {_plain(each)} is required" for each in wrong[:3])
        raise _refuse(
            f"The environment of {python} has {found}.",
            f"Install what will do into it: {' '.join(_quoted(each) for each in wrong)}",
        )
    return str(python)


def _is_satisfied(requirement: Requirement, version: str | None) -> bool:
    try:
        return version is None or requirement.specifier.contains(version, prereleases=True)
    except InvalidVersion:  # what that is compared with nobody knows
        return True


def _module(requirement: Requirement) -> str:
    """Return the module of one of our own requirements: they have the names of their distributions."""
    return requirement.name.replace("-", "_")


def _plain(requirement: Requirement) -> str:
    return f"{requirement.name}{requirement.specifier}"


def _quoted(requirement: Requirement) -> str:
    return f'"{_plain(requirement)}"'


def _is_meant(requirement: Requirement, markers: Mapping[str, str] | None = None) -> bool:
    return requirement.marker is None or requirement.marker.evaluate(dict(markers or {}))


def _refuse(message: str, remedy: str | None = None) -> BadRequest:
    return BadRequest(message, param="environment", remedy=remedy)
