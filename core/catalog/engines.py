"""Ask engines what they take on this machine, and check their options."""

import importlib.machinery
import importlib.util
import json
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

from pydantic import ValidationError

from ..errors import BadRequest, EngineUnavailable, NoEngine
from ..hooks.loader import Plugins
from ..hooks.types import Candidate, Engine, Hub, Machine
from .suggest import did_you_mean, listing

__all__ = [
    "IsBuilt",
    "Verdict",
    "Where",
    "ask",
    "check_options",
    "engines_of",
    "find_engine",
    "missing_modules",
    "refusal",
    "where_it_runs",
]

Where: TypeAlias = Literal["server", "isolated", "path"]
"""Which Python environment a worker runs in: the server's own, one made for its engine, or one that the user names."""

IsBuilt: TypeAlias = Callable[[Engine], bool]
"""Tells whether an engine's own environment is on this machine already."""

_found: set[str] = set()


def missing_modules(owner: Engine | Hub) -> list[str]:
    """Return the modules that an engine or hub needs and that are not here; nothing is imported to find out.

    What was found once is remembered; what was missing is looked up again, since it may be installed meanwhile.
    """
    missing = []
    for name in owner.requires:
        if name not in _found:
            if _is_here(name):
                _found.add(name)
            else:
                missing.append(name)
    return missing


def _is_here(name: str) -> bool:
    top, *rest = name.split(".")
    path = top
    try:
        spec = importlib.util.find_spec(top)
        for step in rest:  # find_spec itself would import the parents
            if spec is None or spec.submodule_search_locations is None:
                return False
            path = f"{path}.{step}"
            spec = importlib.machinery.PathFinder.find_spec(path, list(spec.submodule_search_locations))
    except (ImportError, ValueError, AttributeError):
        return top in sys.modules and not rest
    return spec is not None


def engines_of(plugins: Plugins, model_type: str) -> list[Engine]:
    """Return the engines of a type: those of a fixed rank by it, then those whose rank depends on the model."""
    found = [engine for engine in plugins.engines.values() if model_type in engine.model_types]
    return sorted(found, key=lambda engine: (*_fixed_rank(engine), engine.name.lower()))


def _fixed_rank(engine: Engine) -> tuple[bool, int]:
    return (True, 0) if callable(engine.rank) else (False, -engine.rank)


def find_engine(plugins: Plugins, name: str, model_type: str) -> Engine:
    """Return the engine that a request names.

    Raises: BadRequest: no such engine, with the closest names; NoEngine: it runs other types.
    """
    engine = plugins.find_engine(name, model_type)
    known = [engine.name for engine in engines_of(plugins, model_type)]
    if engine is None:
        raise BadRequest(
            f"There is no engine '{name[:100]}'; for {model_type} models there is: {listing(known)}."
            + did_you_mean(name, known or plugins.engines),
            param="model_engine",
            remedy=None if plugins.engines else "Install a plugin with an engine, such as modelrack-llm-xllamacpp.",
        )
    if model_type not in engine.model_types:
        raise NoEngine(
            f"Engine '{engine.name}' runs {listing(engine.model_types)} models, not {model_type} models; "
            f"for those there is: {listing(known)}.",
            param="model_engine",
        )
    return engine


def where_it_runs(engine: Engine, wanted: str | None = None) -> Where:
    """Tell in which environment the worker of an engine would run.

    Args:
        wanted: what the launch says: `server`, `isolated`, a path, or None for beside the server if the engine can be
            imported there, else in its own environment.
    """
    if wanted is None:
        return "isolated" if engine.environment is not None and missing_modules(engine) else "server"
    if wanted == "server":
        return "server"
    return "isolated" if wanted == "isolated" else "path"


def refusal(engine: Engine, wanted: str | None = None) -> EngineUnavailable | None:
    """Return the error for an engine that has no environment to run in, or None if it has or can be given one.

    Args:
        wanted: as for `where_it_runs`.
    """
    where = where_it_runs(engine, wanted)
    if where == "isolated" and engine.environment is None:
        return EngineUnavailable(
            f"Engine '{engine.name}' declares no environment of its own: it runs beside the server.",
            param="environment",
        )
    missing = missing_modules(engine) if where == "server" else []
    if not missing:
        return None
    return EngineUnavailable(
        f"Engine '{engine.name}' is not installed here: {listing(missing)} cannot be found.",
        param="model_engine",
        remedy=engine.remedy or None,
    )


@dataclass(frozen=True, slots=True)
class Verdict:
    """What an engine says to the forms of a model: the places of those it takes, or why it takes none.

    Args:
        ranks: its rank for each form that it takes, by place.
        where: the environment that its worker would run in.
        is_built: whether that environment is on this machine; otherwise it has to be built.
    """

    engine: Engine
    accepted: tuple[int, ...]
    reason: str = ""
    ranks: Mapping[int, int] = field(default_factory=dict)
    where: Where = "server"
    is_built: bool = True


def ask(
    engine: Engine,
    candidates: Iterable[Candidate],
    machine: Machine,
    wanted: str | None = None,
    is_built: IsBuilt | None = None,
) -> Verdict:
    """Ask an engine about each form of a model. What it raises is its reason.

    Args:
        wanted: as for `where_it_runs`.
        is_built: None: no environment is known to be built.
    """
    where = where_it_runs(engine, wanted)
    unavailable = refusal(engine, wanted)
    if unavailable is not None:
        return Verdict(engine, (), _unavailable_reason(engine, where), where=where)
    ranks: dict[int, int] = {}
    reasons: dict[str, None] = {}
    for place, candidate in enumerate(candidates):
        try:
            reason = engine.accepts(candidate, machine)
            if reason is None:
                ranks[place] = engine.rank(candidate, machine) if callable(engine.rank) else engine.rank
        except Exception as error:  # a plugin's mistake must not hide the other engines
            reason = f"its check failed: {type(error).__name__}: {error}"
        if reason is not None:
            reasons[reason] = None
    there = where != "isolated" or (is_built is not None and is_built(engine))
    reason = "" if ranks else "; ".join(list(reasons)[:3]) or "nothing to run"
    return Verdict(engine, tuple(ranks), reason, ranks, where, there)


def _unavailable_reason(engine: Engine, where: Where) -> str:
    if where == "isolated":
        return "it declares no environment of its own"
    modules = listing(missing_modules(engine))
    return f"not installed ({modules} cannot be found). {engine.remedy}".rstrip(" ")


def check_options(
    engine: Engine, model_type: str, options: Mapping[str, Any], parameters: Iterable[str] = ()
) -> dict[str, Any]:
    """Validate an engine's options for a type of models; returns all, JSON-ready, with defaults filled in.

    Dashes in names count as underscores; text from the command line is read as the option's type needs it.

    Args:
        parameters: names of the launch parameters, for guessing what a mistyped one was meant to be.

    Raises: BadRequest: names the option, and lists what there is if it is unknown.
    """
    known = engine.options_for(model_type)
    fields = known.model_fields
    named = {}
    for name, value in options.items():
        plain = name if name in fields else name.replace("-", "_")
        if plain in named:
            raise BadRequest(f"Option '{plain}' is given twice.", param=plain)
        if plain not in fields and known.model_config.get("extra") == "forbid":
            raise _unknown_option(engine, list(fields), name, parameters)
        named[plain] = value
    try:
        checked = known.model_validate(named)
    except ValidationError as error:
        decoded = _decode_json(named, {str(item["loc"][0]) for item in error.errors() if item["loc"]})
        if decoded is None:
            raise _invalid_option(engine, error) from error
        try:
            checked = known.model_validate(decoded)
        except ValidationError as second:
            raise _invalid_option(engine, second) from second
    return checked.model_dump(mode="json")


def _decode_json(options: dict[str, Any], names: set[str]) -> dict[str, Any] | None:
    """Decode lists and objects that arrived as text in the options named; None if none of them is one."""
    decoded = dict(options)
    changed = False
    for name in names:
        value = decoded.get(name)
        if isinstance(value, str) and value[:1] in ("[", "{"):
            try:
                decoded[name] = json.loads(value)
            except (ValueError, RecursionError):
                continue
            changed = True
    return decoded if changed else None


def _unknown_option(engine: Engine, fields: list[str], name: str, parameters: Iterable[str]) -> BadRequest:
    return BadRequest(
        f"Engine '{engine.name}' has no option '{name[:100]}'.{did_you_mean(name, [*fields, *parameters])} "
        f"Its options are: {listing(fields, 60)}.",
        param=name,
        details={"options": fields},
    )


def _invalid_option(engine: Engine, error: ValidationError) -> BadRequest:
    problem = error.errors(include_url=False, include_input=False)[0]
    place = ".".join(str(step) for step in problem["loc"])
    text = problem["msg"].removeprefix("Value error, ")
    subject = f"Option '{place}' of engine '{engine.name}'" if place else f"The options of engine '{engine.name}'"
    return BadRequest(f"{subject}: {text[:1].lower()}{text[1:]}.", param=place or None)
