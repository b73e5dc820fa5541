"""What a launch would do: engine, environment, download, memory, and what could be launched instead."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from ..api.launch import LaunchRequest
from ..api.plan import (
    PlanAnswer,
    PlanChoice,
    PlanDevice,
    PlanDownload,
    PlanEnvironment,
    PlanMemory,
    PlanRelief,
    PlanRoom,
)
from ..hooks.types import Engine, Machine
from .choosing import Option, devices_for, why_later
from .memory import total_bytes
from .names import format_size
from .resolution import Choices

__all__ = ["FindBuilt", "Running", "make_plan", "make_room"]

_ALTERNATIVES = 20

FindBuilt: TypeAlias = Callable[[Engine], tuple[str, int] | None]
"""Finds an engine's own environment: its name, and the bytes of its files; None: it is not made yet."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Running:
    """A running model and what it holds.

    Args:
        device_bytes: by index of the accelerator.
    """

    model_uid: str
    host_bytes: int
    device_bytes: Mapping[int, int] = field(default_factory=dict)


def make_plan(
    choices: Choices,
    request: LaunchRequest,
    machine: Machine,
    running: Sequence[Running] = (),
    download_bytes: int | None = None,
    built: FindBuilt = lambda engine: None,
) -> PlanAnswer:
    """Describe what would be launched, and what instead; pure.

    Args:
        download_bytes: of the first choice; None if that is not known.
        built: finds an engine's own environment.
    """
    first = choices.options[0]
    _, used = devices_for(request, machine)
    kind = next((device.kind for device in machine.accelerators if device.index in used), "cpu")
    return PlanAnswer(
        model_name=choices.subject.family.name,
        model_type=choices.model_type.name,
        replica=request.replica,
        choice=_describe(first, request, kind, built, _why_first(choices.options), download_bytes),
        refused=choices.refused,
        devices=_devices(machine, used),
        room=make_room(first, running, used),
        alternatives=[
            _describe(option, request, kind, built, why_later(first, option), None)
            for option in choices.options[1 : _ALTERNATIVES + 1]
        ],
    )


def _why_first(options: Sequence[Option]) -> str:
    if len(options) == 1:
        return "nothing else runs here in the form that is asked for"
    return f"best of {len(options)}: {why_later(options[0], options[1])}"


def _environment(option: Option, request: LaunchRequest, kind: str, built: FindBuilt) -> PlanEnvironment:
    verdict, declared = option.verdict, option.engine.environment
    found = built(option.engine) if verdict.where == "isolated" and verdict.is_built else None
    requirements: list[str] = []
    if declared is not None and verdict.where == "isolated" and not verdict.is_built:
        requirements = [*declared.requirements, *declared.by_device.get(kind, ())]
        requirements += request.virtual_env_packages or []
    return PlanEnvironment(
        where=verdict.where,
        is_built=verdict.is_built,
        path=request.wanted_environment if verdict.where == "path" else None,
        name=found[0] if found else None,
        size_bytes=found[1] if found else None,
        requirements=requirements,
    )


def _describe(
    option: Option, request: LaunchRequest, kind: str, built: FindBuilt, reason: str, download_bytes: int | None
) -> PlanChoice:
    form, reckoned = option.form, option.fit.reckoned
    memory = reckoned.memory
    needed = memory and PlanMemory(
        weights_bytes=memory.weights_bytes,
        cache_bytes=memory.cache_bytes,
        overhead_bytes=memory.overhead_bytes,
        host_bytes=memory.host_bytes,
        total_bytes=total_bytes(memory),
        basis=reckoned.basis,
    )
    source = form.source if form.found is None else None
    return PlanChoice(
        model_engine=option.engine.name,
        model_format=form.variant.format,
        model_size_in_billions=format_size(form.variant.size_b),
        quantization=form.quantization,
        rank=option.rank,
        environment=_environment(option, request, kind, built),
        download=PlanDownload(
            bytes=0 if form.found else download_bytes,
            path=form.found.files.path or None if form.found else None,
            hub=source.hub if source else None,
            repo=source.repo if source else None,
        ),
        memory=needed,
        fits=option.fit.fits,
        fit_reason=option.fit.reason,
        reason=reason,
    )


def _devices(machine: Machine, used: Sequence[int]) -> list[PlanDevice]:
    main = PlanDevice(
        kind="cpu",
        index=None,
        name=f"{machine.architecture}, {machine.cores} cores",
        memory_total_bytes=machine.memory_total_bytes,
        memory_free_bytes=machine.memory_free_bytes,
        is_used=not used,
    )
    return [main] + [
        PlanDevice(
            kind=device.kind,
            index=device.index,
            name=device.name,
            memory_total_bytes=device.memory_total_bytes,
            memory_free_bytes=device.memory_free_bytes,
            is_used=device.index in used,
        )
        for device in machine.accelerators
    ]


def make_room(option: Option, running: Sequence[Running], used: Sequence[int]) -> PlanRoom:
    """Tell which running models would have to go for an option to fit: the one that helps most first; pure.

    Args:
        used: indices of the accelerators that it would use.
    """
    lacking = [option.fit.lacking_host_bytes, option.fit.lacking_device_bytes]
    whole = sum(lacking)
    left = list(running)
    chosen: list[PlanRelief] = []
    while any(lacking) and left:
        best = max(left, key=lambda model: sum(_help(model, used, lacking)))
        helps = _help(best, used, lacking)
        if not any(helps):
            break
        left.remove(best)
        chosen.append(PlanRelief(model_uid=best.model_uid, frees_bytes=sum(_held(best, used))))
        lacking = [need - helped for need, helped in zip(lacking, helps, strict=True)]
    is_enough = option.fit.fits is not False or (whole > 0 and not any(lacking))
    return PlanRoom(lacking_bytes=whole, models=chosen if is_enough else [], is_enough=is_enough)


def _held(model: Running, used: Sequence[int]) -> tuple[int, int]:
    return model.host_bytes, sum(held for index, held in model.device_bytes.items() if index in used)


def _help(model: Running, used: Sequence[int], lacking: Sequence[int]) -> list[int]:
    return [min(held, need) for held, need in zip(_held(model, used), lacking, strict=True)]
