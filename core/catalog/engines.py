"""Ask engines what they take on this machine, and check their options."""

import importlib.machinery
import importlib.util
import json
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from ..errors import BadRequest, EngineUnavailable, NoEngine
from ..hooks.loader import Plugins
from ..hooks.types import Candidate, Engine, Hub, Machine
from .suggest import did_you_mean, listing

__all__ = ["Verdict", "ask", "check_options", "engines_of", "find_engine", "missing_modules", "refusal"]

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
    """Return the engines of a type, the preferred one first."""
    found = [engine for engine in plugins.engines.values() if model_type in engine.model_types]
    return sorted(found, key=lambda engine: (-engine.rank, engine.name.lower()))


def find_engine(plugins: Plugins, name: str, model_type: str) -> Engine:
    """Return the engine that a request names.

    Raises: BadRequest: no such engine, with the closest names; NoEngine: it runs other types.
    """
    engine = plugins.find_engine(name)
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


def refusal(engine: Engine) -> EngineUnavailable | None:
    """Return the error for an engine whose packages are not here, or None if they are."""
    missing = missing_modules(engine)
    if not missing:
        return None
    return EngineUnavailable(
        f"Engine '{engine.name}' is not installed here: {listing(missing)} cannot be found.",
        param="model_engine",
        remedy=engine.remedy or None,
    )


@dataclass(frozen=True, slots=True)
class Verdict:
    """What an engine says to the forms of a model: the places of those it takes, or why it takes none."""

    engine: Engine
    accepted: tuple[int, ...]
    reason: str = ""


def ask(engine: Engine, candidates: Iterable[Candidate], machine: Machine) -> Verdict:
    """Ask an engine about each form of a model. What it raises is its reason."""
    unavailable = refusal(engine)
    if unavailable is not None:
        modules = listing(missing_modules(engine))
        return Verdict(engine, (), f"not installed ({modules} cannot be found). {engine.remedy}".rstrip(" "))
    accepted = []
    reasons: dict[str, None] = {}
    for place, candidate in enumerate(candidates):
        try:
            reason = engine.accepts(candidate, machine)
        except Exception as error:  # a plugin's mistake must not hide the other engines
            reason = f"its check failed: {type(error).__name__}: {error}"
        if reason is None:
            accepted.append(place)
        else:
            reasons[reason] = None
    return Verdict(engine, tuple(accepted), "" if accepted else "; ".join(list(reasons)[:3]) or "nothing to run")


def check_options(engine: Engine, options: Mapping[str, Any], parameters: Iterable[str] = ()) -> dict[str, Any]:
    """Validate an engine's options; returns all of them, JSON-ready, with defaults filled in.

    Dashes in names count as underscores; text from the command line is read as the option's type needs it.

    Args:
        parameters: names of the launch parameters, for guessing what a mistyped one was meant to be.

    Raises: BadRequest: names the option, and lists what there is if it is unknown.
    """
    fields = engine.options.model_fields
    named = {}
    for name, value in options.items():
        plain = name if name in fields else name.replace("-", "_")
        if plain in named:
            raise BadRequest(f"Option '{plain}' is given twice.", param=plain)
        if plain not in fields and engine.options.model_config.get("extra") == "forbid":
            raise _unknown_option(engine, name, parameters)
        named[plain] = value
    try:
        checked = engine.options.model_validate(named)
    except ValidationError as error:
        decoded = _decode_json(named, {str(item["loc"][0]) for item in error.errors() if item["loc"]})
        if decoded is None:
            raise _invalid_option(engine, error) from error
        try:
            checked = engine.options.model_validate(decoded)
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


def _unknown_option(engine: Engine, name: str, parameters: Iterable[str]) -> BadRequest:
    fields = list(engine.options.model_fields)
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
