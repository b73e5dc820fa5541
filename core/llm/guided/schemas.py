"""Make a JSON schema one that llguidance honours to the letter, or say which keyword it cannot.

llguidance (1.9) refuses what it does not know by itself; here are the places where it would take more than the schema
allows, and keywords that it need not know because they ask for nothing.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeAlias

__all__ = ["SchemaError", "explain", "honour"]

_MOST_LEVELS = 48
"""llguidance reads JSON of 128 levels; a schema within a schema is two of them, or three (`properties`, `items`)."""
_EXACT = 2**53
"""llguidance computes bounds in floating point."""
_MOST_OPTIONAL = 400
"""Each is some ways on at the same place, and llguidance follows 2,000 at most."""
_NEEDS_ESCAPE = re.compile("[\x00-\x07\x0b\x0e-\x1f\x7f]")
_ONE = ("additionalItems", "additionalProperties", "contains", "else", "if", "items", "not", "propertyNames", "then")
_SEVERAL = ("allOf", "anyOf", "items", "oneOf", "prefixItems")
_NAMED = ("$defs", "definitions", "dependentSchemas", "patternProperties", "properties")
_NUMBERS = ("exclusiveMaximum", "exclusiveMinimum", "maximum", "minimum", "multipleOf")

_LEAP_YEAR = "(?:[0-9]{2}(?:0[48]|[2468][048]|[13579][26])|(?:0[48]|[2468][048]|[13579][26])00)"
_DATE = (
    "(?:(?:[1-9][0-9]{3}|0[1-9][0-9]{2}|00[1-9][0-9]|000[1-9])-"
    f"(?:(?:0[13-9]|1[0-2])-[0-9]{{2}}|02-(?:[01][0-9]|2[0-8]))|{_LEAP_YEAR}-02-29)"
)
_TIME = "[0-9]{2}:[0-9]{2}:[0-5][0-9]"
_NARROWER = {"date": f"^{_DATE}$", "date-time": f"^{_DATE}[Tt]{_TIME}", "time": f"^{_TIME}"}
"""llguidance has a 29th of February in every year, and a second 60 in every minute; other software has no year 0."""

Schema: TypeAlias = dict[str, Any]


class SchemaError(ValueError):
    """A schema asks for what cannot be honoured.

    Args:
        keyword: of JSON Schema; empty where there is no single one.
    """

    def __init__(self, keyword: str, message: str) -> None:
        super().__init__(message)
        self.keyword = keyword


def honour(schema: Mapping[str, Any]) -> Schema:
    """Return an equal schema without the keywords that ask for nothing.

    Raises: SchemaError: it asks for what llguidance would take for less.
    """
    return _honour(schema, 0)


def _honour(schema: Mapping[str, Any], level: int) -> Schema:
    if level > _MOST_LEVELS:
        raise SchemaError("", f"schemas within schemas are read up to {_MOST_LEVELS} levels")
    _check_numbers(schema)
    _check_texts(schema)
    _check_properties(schema)
    result = dict(schema)
    if result.get("uniqueItems") is False:
        del result["uniqueItems"]
    if "if" in result and "then" not in result and "else" not in result:
        del result["if"]
    elif "if" not in result:
        result.pop("then", None)
        result.pop("else", None)
    narrower = _NARROWER.get(str(result.get("format")))
    if narrower is not None and isinstance(result.setdefault("allOf", []), list):
        result["allOf"] = [*result["allOf"], {"pattern": narrower}]
    _each_subschema(result, lambda value: _honour(value, level + 1) if isinstance(value, dict) else value)
    return result


def _each_subschema(schema: Schema, change: Callable[[Any], Any]) -> None:
    """Replace the schemas within a schema."""
    for key, value in list(schema.items()):
        if key in _ONE and isinstance(value, dict):
            schema[key] = change(value)
        elif key in _SEVERAL and isinstance(value, list):
            schema[key] = [change(one) for one in value]
        elif key in _NAMED and isinstance(value, dict):
            schema[key] = {name: change(one) for name, one in value.items()}


def _check_numbers(schema: Mapping[str, Any]) -> None:
    for key in _NUMBERS:
        value = schema.get(key)
        if isinstance(value, int) and abs(value) > _EXACT:
            raise SchemaError(key, f"numbers are exact up to 2**53, and {value} is beyond")
    step = schema.get("multipleOf")
    if isinstance(step, int | float) and step <= 0:
        raise SchemaError("multipleOf", "it must be greater than 0")


def _check_texts(schema: Mapping[str, Any]) -> None:
    r"""Refuse control characters: without `\u` escapes (see guidance.py) JSON cannot write them."""
    for key in ("const", "enum", "properties", "required"):
        value = schema.get(key)
        for text in _texts(list(value) if key == "properties" and isinstance(value, dict) else value):
            if _NEEDS_ESCAPE.search(text):
                raise SchemaError(
                    key, "a text with control characters other than \\b, \\f, \\n, \\r, \\t cannot be had"
                )


def _texts(value: Any) -> Iterator[str]:
    waiting = [value]
    while waiting:
        one = waiting.pop()
        if isinstance(one, str):
            yield one
        elif isinstance(one, list):
            waiting.extend(one)
        elif isinstance(one, dict):
            waiting.extend(one)
            waiting.extend(one.values())


def _check_properties(schema: Mapping[str, Any]) -> None:
    required = schema.get("required")
    named = set(map(str, required)) if isinstance(required, list) else set()
    least = schema.get("minProperties")
    # Two of the same name count as two for llguidance, but are one.
    if isinstance(least, int) and least > len(named) + 1:
        raise SchemaError(
            "minProperties", f"it is {least}, and can be one more than the number of 'required' properties at most"
        )
    properties = schema.get("properties")
    if isinstance(properties, dict) and len(properties.keys() - named) > _MOST_OPTIONAL:
        raise SchemaError("properties", f"more than {_MOST_OPTIONAL} of them are not 'required'")


_EXPLANATIONS: tuple[tuple[re.Pattern[str], str], ...] = tuple(
    (re.compile(pattern, re.DOTALL), text)
    for pattern, text in (
        (r"Unimplemented keys: \[\"([^\"]*)\"\].*", r"'\1' is not supported"),
        (r"Unimplemented keys: \[([^\]]*)\].*", r"these keywords are not supported: \1"),
        (r"oneOf constraints are not supported.*", r"'oneOf' is supported only where the alternatives exclude each"
         r" other by their types or by texts given with 'const' or 'enum'; 'anyOf' does not need that"),
        (r"min/maxProperties only supported.*", r"'minProperties' and 'maxProperties' are supported only where all of"
         r" 'properties' are 'required'"),
        (r"Unknown format: (.*)", r"'format' \1 is not supported"),
        (r"(patternProperty regexes .* not disjoint.*)", r"'patternProperties' are supported only where no name matches"
         r" two of them: \1"),
        (r"(Pointer .* does not exist.*)", r"'$ref': \1"),
        (r"Resource '(.*)' is not present.*", r"'$ref' (or '$schema'): '\1' is not within this schema"),
        (r"(circular references with sibling keys.*)", r"'$ref': \1"),
        (r"Invalid type: (.*)", r"'type': there is no type '\1'"),
        (r"(regex parse error.*|lookarounds not supported.*)", r"'pattern': \1"),
        (r"(Failed to generate regex for (?:float|integer) range.*)", r"'minimum' and 'maximum': \1"),
        (r"(invalid multiple of.*)", r"'multipleOf': \1"),
    )
)  # fmt: skip


def explain(message: str) -> str:
    """Return llguidance's complaint about a schema in the words of JSON Schema."""
    for pattern, text in _EXPLANATIONS:
        found = pattern.fullmatch(message)
        if found is not None:
            return found.expand(text)
    return message
