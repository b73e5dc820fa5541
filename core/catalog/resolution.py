"""From what a launch asks for to one form of a model, one engine and checked options."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ..api.launch import LaunchRequest
from ..errors import BadRequest, EngineUnavailable, NoEngine
from ..hooks.loader import Plugins
from ..hooks.types import Engine, Family, Machine, ModelFiles, ModelType, Source, Variant
from .adhoc import adhoc_family
from .catalog import Catalog
from .choosing import Option, list_options, rank_options
from .engines import IsBuilt, Verdict, Where, ask, engines_of, find_engine, missing_modules, refusal
from .finder import Finder, Form, Subject, check_hub
from .fit import Recall
from .local import inspect_files
from .names import format_size, plain_format, same_quantization, same_size
from .suggest import did_you_mean, listing
from .weights import bits_of, is_known

__all__ = ["Choices", "Resolved", "available_forms", "complete", "find_forms", "resolve", "settle", "survey"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Resolved:
    """What will be launched.

    Args:
        source: where the files come from; None if they are at a path that the request names.
        files: set if the files are on this machine already; otherwise they are to be fetched.
        options: the engine's options, validated, with defaults.
        refused: why each other engine of the type was not taken.
        is_adhoc: no family describes the model; after a download `complete` fills in what the files say.
        where: the Python environment that its workers run in.
    """

    family: Family
    variant: Variant
    quantization: str
    engine: Engine
    source: Source | None
    files: ModelFiles | None
    options: Mapping[str, Any] = field(default_factory=dict)
    refused: Mapping[str, str] = field(default_factory=dict)
    is_adhoc: bool = False
    where: Where = "server"


@dataclass(frozen=True, slots=True, kw_only=True)
class Choices:
    """All that could be launched for a request.

    Args:
        options: the best first; never empty.
        chosen_hub: the hub that the request names.
    """

    subject: Subject
    model_type: ModelType
    options: tuple[Option, ...]
    verdicts: tuple[Verdict, ...]
    chosen_hub: str | None

    @property
    def refused(self) -> dict[str, str]:
        """Return why each engine that takes nothing was not taken."""
        return {verdict.engine.name: verdict.reason for verdict in self.verdicts if not verdict.accepted}


def survey(
    request: LaunchRequest,
    catalog: Catalog,
    plugins: Plugins,
    machine: Machine,
    hub: str,
    cache_dir: Path,
    is_built: IsBuilt | None = None,
    recall: Recall | None = None,
) -> Choices:
    """List what could be launched, in the order of preference. Reads files on this machine, never the network.

    Args:
        hub: where downloads come from unless the request names another hub.
        is_built: tells whether an engine's own environment is on this machine; None: no such environment is.
        recall: looks up what replicas took before; None: nothing is remembered.

    Raises: ModelNotFound, NoEngine (with the reason of each engine), EngineUnavailable, BadRequest.
    """
    model_type = catalog.model_type(request.model_type)
    named = find_engine(plugins, request.model_engine, model_type.name) if request.model_engine else None
    subject, forms = find_forms(request, catalog, plugins, hub, cache_dir)
    environment = request.wanted_environment
    unavailable = refusal(named, environment) if named else None
    if unavailable is not None:
        raise unavailable
    engines = [named] if named else engines_of(plugins, model_type.name)
    candidates = [form.candidate(subject.family) for form in forms]
    verdicts = [ask(engine, candidates, machine, environment, is_built) for engine in engines]
    options = list_options(subject, forms, verdicts, request, machine, recall)
    if not options:
        raise _no_engine(subject, forms, verdicts, named)
    chosen_hub = check_hub(plugins, request.download_hub) if request.download_hub else None
    for place, option in enumerate(options):
        problem = _download_problem(plugins, subject, option.form, chosen_hub)
        if problem is not None and option.form.problem is None:
            options[place] = replace(option, problem=problem, is_out=True)
    return Choices(
        subject=subject,
        model_type=model_type,
        options=tuple(rank_options(options)),
        verdicts=tuple(verdicts),
        chosen_hub=chosen_hub,
    )


def find_forms(
    request: LaunchRequest, catalog: Catalog, plugins: Plugins, hub: str, cache_dir: Path
) -> tuple[Subject, list[Form]]:
    """Return what the name of a request stands for, and those of its forms that the request leaves.

    Raises: ModelNotFound; NoEngine: it has no such form; BadRequest.
    """
    chosen_hub = check_hub(plugins, request.download_hub) if request.download_hub else None
    subject = Finder(request, catalog, plugins, chosen_hub, hub, cache_dir).find()
    return subject, _filter(subject, request)


def resolve(
    request: LaunchRequest,
    catalog: Catalog,
    plugins: Plugins,
    machine: Machine,
    hub: str,
    cache_dir: Path,
    is_built: IsBuilt | None = None,
    recall: Recall | None = None,
) -> Resolved:
    """Decide what to launch: the first of `survey`, whose arguments and errors it shares.

    Blocks for some milliseconds.
    """
    choices = survey(request, catalog, plugins, machine, hub, cache_dir, is_built, recall)
    return settle(choices)


def settle(choices: Choices) -> Resolved:
    """Return the first of what could be launched, once it is sure that it can be had.

    Raises: BadRequest: its options are wrong, its files broken, or no hub has them; EngineUnavailable: the hub's
        package is not installed.
    """
    subject, option = choices.subject, choices.options[0]
    form = option.form
    if option.problem is not None:
        raise option.problem
    resolved = Resolved(
        family=subject.family,
        variant=form.variant,
        quantization=form.quantization,
        engine=option.engine,
        source=form.source,
        files=None,
        options=option.options,
        refused=choices.refused,
        is_adhoc=subject.is_adhoc,
        where=option.verdict.where,
    )
    return complete(resolved, form.found.files, choices.model_type) if form.found else resolved


def complete(resolved: Resolved, files: ModelFiles, model_type: ModelType) -> Resolved:
    """Put fetched files in; a model that no family describes gets its facts from them.

    Raises: BadRequest: the files are broken, or are a model of another type.
    """
    if not resolved.is_adhoc:
        return replace(resolved, files=files)
    found = inspect_files(files)
    variant = replace(resolved.variant, size_b=resolved.variant.size_b or found.size_b)
    family = replace(adhoc_family(resolved.family.name, model_type, found), variants=(variant,))
    quantization = found.quantization if resolved.quantization == "none" else resolved.quantization
    return replace(resolved, files=files, family=family, variant=variant, quantization=quantization)


def available_forms(forms: Iterable[tuple[Variant, str]]) -> list[dict[str, Any]]:
    """Return what exists, in the shape of GET /v1/engines: quantizations by format and size."""
    rows: dict[tuple[str, float | None], list[str]] = {}
    for variant, quantization in forms:
        rows.setdefault((variant.format, variant.size_b), []).append(quantization)
    return [
        {
            "model_format": form,
            "model_size_in_billions": format_size(size),
            "quantizations": list(dict.fromkeys(quantizations)),
        }
        for (form, size), quantizations in rows.items()
    ]


def _filter(subject: Subject, request: LaunchRequest) -> list[Form]:
    """Leave the forms that have the format, size and quantization asked for.

    Raises: NoEngine: there is none; says what there is instead.
    """
    forms: Sequence[Form] = subject.forms
    wanted_format = plain_format(request.model_format) if request.model_format else None
    size, quantization = request.model_size_in_billions, request.quantization
    steps: tuple[tuple[str, str, str | None, Callable[[Form], str], Callable[[Form], bool]], ...] = (
        (
            "model_format",
            "format",
            wanted_format,
            lambda form: form.variant.format,
            lambda form: form.variant.format == wanted_format,
        ),
        (
            "model_size_in_billions",
            "size",
            None if size is None else f"{format_size(size)}",
            lambda form: f"{format_size(form.variant.size_b)}",
            lambda form: same_size(form.variant.size_b, size) or (subject.is_fixed and form.variant.size_b is None),
        ),
        (
            "quantization",
            "quantization",
            quantization,
            lambda form: form.quantization,
            lambda form: _is_quantization(subject, form, quantization or ""),
        ),
    )
    context = ""
    for param, word, wanted, value, fits in steps:
        if wanted is None:
            continue
        left = [form for form in forms if fits(form)]
        if not left:
            values = list(dict.fromkeys(value(form) for form in forms))
            raise NoEngine(
                f"Model '{subject.family.name}' has no {word} '{wanted[:64]}'{context}; it has: {listing(values, 40)}."
                + did_you_mean(wanted, values),
                param=param,
                details={"refused": {}, "available": _available(subject)},
            )
        forms, context = left, f"{context or ' in'} {word} {wanted}"
    return list(forms)


def _is_quantization(subject: Subject, form: Form, wanted: str) -> bool:
    """Tell whether a form has a quantization; of one file that is named, the exact type need not be known."""
    if same_quantization(form.quantization, wanted):
        return True
    return subject.is_fixed and is_known(wanted) and bits_of(form.quantization) == bits_of(wanted)


def _available(subject: Subject) -> list[dict[str, Any]]:
    return available_forms((form.variant, form.quantization) for form in subject.forms)


def _no_engine(subject: Subject, forms: list[Form], verdicts: list[Verdict], named: Engine | None) -> NoEngine:
    name, family_type = subject.family.name, subject.family.model_type
    details = {
        "refused": {verdict.engine.name: verdict.reason for verdict in verdicts},
        "available": _available(subject),
    }
    if not forms:
        return NoEngine(f"Model '{name}' has no files that could be loaded.", details=details)
    if not verdicts:
        return NoEngine(
            f"No engine for {family_type} models is installed.",
            remedy="Install a plugin with one, and see what is there with: modelrack plugins",
            details=details,
        )
    shown = listing(dict.fromkeys(_label(form) for form in forms), 4)
    reasons = "; ".join(f"{verdict.engine.name}: {verdict.reason}" for verdict in verdicts)
    whom = f"Engine '{named.name}'" if named else "No engine"
    verb = "cannot run" if named else "can run"
    return NoEngine(
        f"{whom} {verb} '{name}' ({shown}): {reasons.rstrip('.')}.",
        param="model_engine" if named else "model_name",
        details=details,
    )


def _label(form: Form) -> str:
    size = "" if form.variant.size_b is None else f" {format_size(form.variant.size_b)}B"
    return f"{form.variant.format}{size}"


def _download_problem(
    plugins: Plugins, subject: Subject, form: Form, chosen_hub: str | None
) -> BadRequest | EngineUnavailable | None:
    """Return why a form cannot be fetched: no hub has it, or the hub's package is not installed."""
    if form.found is not None:
        return None
    source = form.source
    hub = plugins.hubs.get(source.hub) if source else None
    if source is None or hub is None:
        hubs = list(dict.fromkeys(source.hub for source in form.variant.sources)) or ["no hub"]
        where = f"hub '{chosen_hub}' does not have" if chosen_hub else "no installed hub has"
        return BadRequest(
            f"The files of '{subject.family.name}' ({_label(form)}, {form.quantization}) are not on this machine, and "
            f"{where} them; they are at: {listing(hubs)}.",
            param="download_hub",
        )
    missing = missing_modules(hub)
    if missing:
        return EngineUnavailable(
            f"Hub '{hub.name}' is not installed here: {listing(missing)} cannot be found.",
            param="download_hub",
            remedy=hub.remedy or None,
        )
    return None
