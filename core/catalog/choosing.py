"""Choose among the forms of a model and the engines that take them: one ranked list, whose first is launched."""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..api.launch import LaunchRequest
from ..errors import BadRequest, ModelrackError
from ..hooks.types import Engine, LoadPlan, Machine, ModelFiles
from ..lifecycle.policy import place
from .engines import Verdict, check_options
from .finder import Form, Subject
from .fit import Fit, Recall, fit_into, reckon
from .memory import total_bytes
from .names import expand_home, format_size, rank_quantization
from .weights import bits_of

__all__ = ["Option", "adapters_of", "devices_for", "list_options", "load_plan", "rank_options", "why_later"]

_COARSE_BITS = 4
"""Fewer bits of a parameter than this are taken only where nothing else fits."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Option:
    """One form of a model on one engine.

    Args:
        verdict: of the engine.
        form: what it would load.
        place: of the form among those of the model.
        options: of the engine, validated, with defaults.
        problem: why it cannot be launched as the request asks: options that the engine does not take, broken files,
            files that cannot be had.
        is_out: whatever its options, it cannot be launched: it takes no adapters, or no hub has its files.
        fit: whether it fits into the memory at hand.
    """

    verdict: Verdict
    form: Form
    place: int
    options: Mapping[str, Any] = field(default_factory=dict)
    problem: ModelrackError | None = None
    is_out: bool = False
    fit: Fit = field(default_factory=Fit)

    @property
    def engine(self) -> Engine:
        """Return the engine."""
        return self.verdict.engine

    @property
    def rank(self) -> int:
        """Return the engine's rank for this form."""
        return self.verdict.ranks[self.place]


def rank_options(options: Sequence[Option]) -> list[Option]:
    """Order what could be launched, the best first; pure.

    What can be launched at all; then what is on this machine; then what fits into memory; then the engine that ranks
    highest, one whose environment is there before one whose has to be built; then the largest size, and of it the
    quantization that ranks highest. Quantizations of fewer than four bits come last: a smaller size that is not so
    coarse goes before. Of what does not fit, the smallest comes first.
    """
    return sorted(options, key=lambda option: tuple(value for _, value in _criteria(option)))


def why_later(first: Option, other: Option) -> str:
    """Return why an option is not preferred to another that comes before it: one clause."""
    mine, theirs = dict(_criteria(first)), dict(_criteria(other))
    for name, value in mine.items():
        if theirs[name] != value:
            return _REASONS[name].format_map(_words(first, other))
    return "it is the same"


_REASONS = {
    "problem": "{problem}",
    "away": "its files are not on this machine",
    "unfit": "{engine} would not fit with {quantization}: it {fit}",
    "rank": "{engine} ranks lower for it ({rank}) than {first_engine} ({first_rank})",
    "unbuilt": "the environment of {engine} has to be built",
    "engine": "{engine} ranks as high as {first_engine}, which comes first by name",
    "coarse": "{quantization} costs quality",
    "need": "it needs more memory",
    "sizeless": "its size is known",
    "size": "{size} is smaller than {first_size}",
    "quantization": "{first_quantization} is preferred to {quantization}",
    "place": "the model's description names it later",
}


def _words(first: Option, other: Option) -> dict[str, Any]:
    return {
        "problem": other.problem.message.rstrip(".") if other.problem else "",
        "fit": other.fit.reason,
        "engine": other.engine.name,
        "rank": other.rank,
        "first_engine": first.engine.name,
        "first_rank": first.rank,
        "quantization": other.form.quantization,
        "first_quantization": first.form.quantization,
        "size": f"{format_size(other.form.variant.size_b)}B",
        "first_size": f"{format_size(first.form.variant.size_b)}B",
    }


def _criteria(option: Option) -> list[tuple[str, Any]]:
    """Return by what options are ordered, the weightiest first, each with a value of which less is better."""
    form, unfit = option.form, option.fit.fits is False
    size = form.variant.size_b
    memory = option.fit.reckoned.memory
    return [
        ("problem", (form.problem is not None) + option.is_out),
        ("away", form.found is None),
        ("unfit", unfit),
        ("rank", -option.rank),
        ("unbuilt", not option.verdict.is_built),
        ("engine", option.engine.name.lower()),
        ("need", total_bytes(memory) if unfit and memory else 0),
        ("coarse", _is_coarse(form.quantization)),
        ("sizeless", size is not None),
        ("size", math.inf if unfit or size is None else -size),
        ("quantization", (rank_quantization(form.quantization), -bits_of(form.quantization))),
        ("place", option.place),
    ]


def _is_coarse(quantization: str) -> bool:
    match = re.search(r"(?:q|int|fp)(\d+)|(\d+)-?bit", quantization.lower())
    return match is not None and 0 < int(match[1] or match[2]) < _COARSE_BITS


def list_options(
    subject: Subject,
    forms: Sequence[Form],
    verdicts: Sequence[Verdict],
    request: LaunchRequest,
    machine: Machine,
    recall: Recall | None = None,
) -> list[Option]:
    """Return what the engines take, each with the memory that it needs; in no order.

    Raises: BadRequest: the accelerators that the request asks for do not exist.
    """
    accelerators, shared = devices_for(request, machine)
    options = []
    for verdict in verdicts:
        if not verdict.accepted:
            continue
        checked, wrong = _checked_options(verdict.engine, subject.family.model_type, request)
        for number in verdict.accepted:
            form = forms[number]
            plan = load_plan(subject, form, request, checked, accelerators)
            measured = recall(verdict.engine, plan) if recall and form.found else None
            reckoned = reckon(verdict.engine, plan, machine, measured)
            options.append(
                Option(
                    verdict=verdict,
                    form=form,
                    place=number,
                    options=checked,
                    problem=form.problem or wrong,
                    is_out=bool(adapters_of(request)) and not verdict.engine.takes_lora,
                    fit=fit_into(reckoned, machine, shared, request.replica),
                )
            )
    return options


def _checked_options(
    engine: Engine, model_type: str, request: LaunchRequest
) -> tuple[dict[str, Any], BadRequest | None]:
    """Return an engine's options, and what is wrong with what the request asks of it: then the options are defaults."""
    adapters = request.peft_model_config.lora_list if request.peft_model_config else []
    wrong: BadRequest | None = None
    if adapters and not engine.takes_lora:
        wrong = BadRequest(f"Engine '{engine.name}' takes no LoRA adapters.", param="peft_model_config.lora_list")
    try:
        return check_options(engine, model_type, request.engine_options, LaunchRequest.model_fields), wrong
    except BadRequest as error:
        return _defaults(engine, model_type), error


def _defaults(engine: Engine, model_type: str) -> dict[str, Any]:
    try:
        return check_options(engine, model_type, {})
    except BadRequest:  # it has options that must be given
        return {}


def devices_for(request: LaunchRequest, machine: Machine) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return the accelerators of one replica, and those that all replicas share.

    Raises: BadRequest: they do not exist.
    """
    one = place(machine, request.n_gpu, request.gpu_indices)
    if request.gpu_indices is not None or not one:
        return one, one
    return one, place(machine, min(len(one) * request.replica, len(machine.accelerators)), None)


def load_plan(
    subject: Subject, form: Form, request: LaunchRequest, options: Mapping[str, Any], accelerators: tuple[int, ...]
) -> LoadPlan:
    """Return what a replica would be given, as far as it is known before a download: `files.path` is empty then."""
    files = form.found.files if form.found else ModelFiles(path="", format=form.variant.format)
    return LoadPlan(
        model_uid=request.model_uid or subject.family.name,
        family=subject.family,
        variant=form.variant,
        quantization=form.quantization,
        files=files,
        options=options,
        accelerators=accelerators,
        lora=adapters_of(request),
    )


def adapters_of(request: LaunchRequest) -> tuple[tuple[str, str], ...]:
    """Return (name, path) of the adapters that a launch brings."""
    adapters = request.peft_model_config.lora_list if request.peft_model_config else []
    return tuple((adapter.lora_name, str(expand_home(adapter.local_path))) for adapter in adapters)
