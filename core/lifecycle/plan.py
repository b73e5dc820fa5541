"""What a replica is going to be: its plan, the Python that runs it, and the memory it is expected to need."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass

from ..api.launch import LaunchRequest
from ..catalog.fit import expected
from ..catalog.memory import measure_key, total_bytes
from ..catalog.names import expand_home
from ..catalog.resolution import Resolved
from ..environments import check_interpreter, declare, device_kind
from ..hooks.loader import Plugins
from ..hooks.types import Engine, LoadPlan, Machine, MemoryEstimate, ModelFiles
from .interpreter import Interpreter
from .store import Store

__all__ = ["Expectation", "expect", "inspect_path", "make_plan"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Expectation:
    """The memory of a replica as it is known before it runs.

    Args:
        memory: corrected by what was measured before; None if nobody knows.
        estimated_bytes: the engine's estimate alone.
        key: what the memory of such a replica is remembered under.
    """

    memory: MemoryEstimate | None = None
    estimated_bytes: int | None = None
    key: str | None = None


def make_plan(
    request: LaunchRequest,
    resolved: Resolved,
    plugins: Plugins,
    model_uid: str,
    files: ModelFiles,
    accelerators: Sequence[int],
    python: str = sys.executable,
    fetch_hosts: tuple[str, ...] = (),
) -> LoadPlan:
    """Return what a worker is told."""
    model_type = plugins.model_types[resolved.family.model_type]
    chats = any(route.ability == "chat" for route in model_type.routes)
    adapters = request.peft_model_config.lora_list if request.peft_model_config else []
    return LoadPlan(
        model_uid=model_uid,
        family=resolved.family,
        variant=resolved.variant,
        quantization=resolved.quantization,
        files=files,
        options=resolved.options,
        accelerators=tuple(accelerators),
        request_defaults={} if request.enable_thinking is None else {"enable_thinking": request.enable_thinking},
        lora=tuple((adapter.lora_name, str(expand_home(adapter.local_path))) for adapter in adapters),
        output_formats=tuple(plugins.output_formats.values()) if chats else (),
        feature_engines=plugins.feature_engines(model_type.name, resolved.engine.name),
        python=python,
        fetch_hosts=fetch_hosts,
    )


def expect(engine: Engine, plan: LoadPlan, machine: Machine, store: Store) -> Expectation:
    """Ask the engine, and remember what replicas of the same kind took; blocks for as long as files are read."""
    key = measure_key(engine.name, plan, machine)
    raw = expected(engine, plan, machine)
    measured = store.measured(key)
    memory = raw if measured is None else expected(engine, plan, machine, measured)
    return Expectation(memory=memory, estimated_bytes=total_bytes(raw) if raw else None, key=key)


async def inspect_path(path: str, engine: Engine, machine: Machine, accelerators: Sequence[int]) -> Interpreter:
    """Return the interpreter at a path, or of the environment whose folder it is, once it has shown what it has.

    Args:
        accelerators: indices of the devices that a worker will have: requirements may depend on their kind.

    Raises: BadRequest: there is none, it is too old, or lacks what the engine or our worker half imports, or has it in
        another version than they require.
    """
    place = expand_home(path).absolute()
    declared = engine.environment and declare(engine, device_kind(machine, accelerators))
    requirements = declared.requirements if declared else ()
    return Interpreter(str(place), await check_interpreter(place, engine.requires, requirements))
