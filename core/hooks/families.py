"""Families as lines of JSON: what plugins that bring many of them keep in a file."""

from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import orjson

from .types import Family, Source, Variant

__all__ = ["read_families"]


def read_families(path: Path, model_type: str) -> list[Family]:
    """Read the families of a file, one JSON object a line, with the names of `Family`'s fields as keys.

    `variants` are objects with the fields of `Variant`, their `sources` with those of `Source`; lists stand for tuples.

    Args:
        model_type: of all families in the file.

    Raises: ValueError: a line is no such object; its number and the reason are told.
    """
    families = []
    for number, line in enumerate(path.read_bytes().splitlines(), start=1):
        if not line.strip():
            continue
        try:
            families.append(_family(orjson.loads(line), model_type))
        except (TypeError, KeyError, ValueError) as error:
            raise ValueError(f"{path.name}, line {number}: {error}") from error
    return families


def _family(data: Mapping[str, Any], model_type: str) -> Family:
    given = {"model_type": model_type, **_known(Family, data)}
    given["variants"] = tuple(_variant(variant) for variant in data.get("variants", ()))
    return Family(**given)


def _variant(data: Mapping[str, Any]) -> Variant:
    given = _known(Variant, data)
    given["sources"] = tuple(_source(source) for source in data.get("sources", ()))
    return Variant(**given)


def _source(data: Mapping[str, Any]) -> Source:
    given = _known(Source, data)
    given["parts"] = {name: _tuple(part) for name, part in data.get("parts", {}).items()}
    return Source(**given)


def _known(value: type, data: Mapping[str, Any]) -> dict[str, Any]:
    """Return an object's members, if all of them are fields of a value."""
    if not isinstance(data, Mapping):
        raise TypeError(f"an object is needed for a {value.__name__.lower()}, not {data!r:.40}")
    unknown = sorted(data.keys() - {field.name for field in fields(value)})
    if unknown:
        raise ValueError(f"a {value.__name__.lower()} has no {', '.join(map(repr, unknown))}")
    return {name: _tuple(item) for name, item in data.items()}


def _tuple(item: Any) -> Any:
    return tuple(item) if isinstance(item, list) else item
