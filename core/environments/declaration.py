"""What is to be in an environment: an engine's declaration, for one kind of device, with what modelrack adds."""

import hashlib
import json
import platform
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace

from packaging.requirements import InvalidRequirement, Requirement
from packaging.specifiers import InvalidSpecifier, SpecifierSet
from packaging.utils import canonicalize_name

from ..errors import BadRequest
from ..hooks.types import Engine, Machine
from .errors import EnvironmentFailed

__all__ = [
    "ADDED_PARAM",
    "DEVICES",
    "WORKER_REQUIREMENTS",
    "Declaration",
    "declare",
    "device_kind",
    "own_tag",
    "platform_tag",
]

ADDED_PARAM = "virtual_env_packages"
"""The field of a launch that adds requirements."""

DEVICES = ("cpu", "cuda", "rocm", "mps", "xpu")
"""Kinds of devices that environments are made for."""

WORKER_REQUIREMENTS = (
    "httptools>=0.6",
    "jinja2>=3.1.6",
    "orjson>=3.9",
    "pluggy>=1.5",
    "pydantic>=2.10",
    "python-multipart>=0.0.20",
    "uvloop>=0.19; sys_platform != 'win32'",
)
"""What modelrack's worker half imports: it is in every environment, whatever the engine requires."""


@dataclass(frozen=True, slots=True)
class Declaration:
    """What an environment is made from.

    Args:
        requirements: PEP 508 requirements, in a fixed order.
        own: those of them that the engine and modelrack have, without what a user has added.
        absent: canonical names of distributions that must not be there.
        python: PEP 440 specifier of the interpreters that will do.
    """

    engine: str
    device: str
    requirements: tuple[str, ...]
    absent: tuple[str, ...]
    python: str
    own: tuple[str, ...] = ()

    @property
    def added(self) -> tuple[str, ...]:
        """Return the requirements that a user has added."""
        return tuple(text for text in self.requirements if text not in self.own)

    def without_added(self) -> "Declaration":
        """Return what the engine and modelrack require alone."""
        return replace(self, requirements=self.own)

    @property
    def key(self) -> str:
        """Return the hash under which the environment that was made from it on such a machine is found again."""
        tag = own_tag() if self.takes_own_python else ""
        parts = [self.engine, self.device, self.requirements, self.absent, self.python, tag, platform_tag()]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:32]

    @property
    def takes_own_python(self) -> bool:
        """Return whether the interpreter that runs this process will do."""
        return SpecifierSet(self.python).contains(platform.python_version(), prereleases=True)


def declare(engine: Engine, device: str, extra: Sequence[str] = ()) -> Declaration:
    """Return what an engine's environment must hold.

    Args:
        device: one of `DEVICES`.
        extra: further requirements of the user's.

    Raises: BadRequest: the engine declares no environment, there is no such device, or an `extra` is no requirement.
        EnvironmentFailed: the plugin's own declaration is wrong.
    """
    declared = engine.environment
    if declared is None:
        raise BadRequest(f"Engine '{engine.name}' declares no environment of its own.", remedy=engine.remedy or None)
    if device not in DEVICES:
        raise BadRequest(f"There is no kind of device '{device}'; there is: {', '.join(DEVICES)}.", param="device")
    own = (*declared.requirements, *declared.by_device.get(device, ()))
    absent = (*declared.absent, *declared.absent_by_device.get(device, ()))
    try:
        wanted = [Requirement(text) for text in (*WORKER_REQUIREMENTS, *own)]
        SpecifierSet(declared.python)
    except (InvalidRequirement, InvalidSpecifier) as error:
        raise EnvironmentFailed(
            f"The environment that engine '{engine.name}' declares is wrong: {_one_line(error)}",
            remedy="Report it to the authors of the plugin.",
        ) from error
    added = []
    for text in extra:
        try:
            added.append(Requirement(text))
        except InvalidRequirement as error:
            raise BadRequest(
                f"'{text}' is no requirement of a package: {_one_line(error)}", param=ADDED_PARAM
            ) from error
    return Declaration(
        engine=engine.name,
        device=device,
        requirements=_in_order(*wanted, *added),
        own=_in_order(*wanted),
        absent=tuple(sorted({canonicalize_name(name) for name in absent})),
        python=declared.python,
    )


def _in_order(*requirements: Requirement) -> tuple[str, ...]:
    return tuple(sorted({str(requirement) for requirement in requirements}, key=str.lower))


def device_kind(machine: Machine, accelerators: Sequence[int] | None = None) -> str:
    """Return the kind of device that an environment is made for.

    Args:
        accelerators: indices of the devices that a worker will have; empty: the CPU alone. None: the machine's first.
    """
    found = [device for device in machine.accelerators if accelerators is None or device.index in accelerators]
    return found[0].kind if found else "cpu"


def own_tag() -> str:
    """Return implementation and version of the interpreter that runs this process (`cpython-3.11`)."""
    version = sys.version_info
    return f"{sys.implementation.name}-{version.major}.{version.minor}"


def platform_tag() -> str:
    """Return system and architecture (`linux-x86_64`): an environment works on no other."""
    return f"{sys.platform}-{platform.machine().lower()}"


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
