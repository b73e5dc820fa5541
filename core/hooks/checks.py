"""What is wrong with a value that a plugin gave, in words that help its author."""

import inspect
import re
from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass
from types import UnionType
from typing import Any, Literal, get_args, get_origin

__all__ = ["InvalidValue", "check_value"]

Check = Callable[[Any], bool]

DOTTED = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*")
DOTTED_FIELDS = frozenset({"loader", "fetch", "parser", "request", "response", "chunk"})

_known: dict[type, list[tuple[str, str, Check]]] = {}


class InvalidValue(Exception):
    """A field of a plugin's value has the wrong type: without this it shows later, and far from its cause."""


def check_value(value: Any) -> None:
    """Check the fields of a value against their types, and those of the values in it.

    Raises: InvalidValue: a text stands where a tuple is expected, what is to be called cannot be, a dotted path has
        not the form `package.module:Name`, and the like.
    """
    for name, wanted, check in _checks(type(value)):
        given = getattr(value, name)
        if not check(given):
            shown = repr(given) if len(repr(given)) <= 100 else f"a {type(given).__name__}"
            raise InvalidValue(f"{_name(value)}: {name} must be {wanted}, not {shown}")
        for item in given if isinstance(given, tuple | list) else (given,):
            if is_dataclass(item):
                check_value(item)


def _name(value: Any) -> str:
    """Return how to call a value in a message: its type, and its name if it has one."""
    name = getattr(value, "name", None)
    return f"{type(value).__name__} '{name}'" if isinstance(name, str) else type(value).__name__


def _checks(kind: type) -> list[tuple[str, str, Check]]:
    """Return name, what is wanted, and the check of each field; made once for all values of a class."""
    if kind not in _known:
        _known[kind] = _make_checks(kind)
    return _known[kind]


def _make_checks(kind: type) -> list[tuple[str, str, Check]]:
    found: list[tuple[str, str, Check]] = []
    for field in fields(kind):
        if field.name in DOTTED_FIELDS:
            found.append((field.name, "a dotted path 'package.module:Name'", _is_dotted))
        else:
            wanted = re.sub(r"[\w.]+\.(?=\w)", "", inspect.formatannotation(field.type))
            found.append((field.name, wanted, _check_of(field.type)))
    return found


def _is_dotted(value: Any) -> bool:
    return value is None or (isinstance(value, str) and DOTTED.fullmatch(value) is not None)


def _check_of(annotation: Any) -> Check:
    """Return the check of a type, as far as the fields of `types` need it."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if isinstance(annotation, UnionType):
        checks = [_check_of(item) for item in arguments]
        return lambda value: any(check(value) for check in checks)
    if origin is tuple:
        item = _check_of(arguments[0])
        return lambda value: isinstance(value, tuple | list) and all(map(item, value))
    if origin is Callable:
        return callable
    if origin is Mapping:
        key, item = map(_check_of, arguments)
        return lambda value: isinstance(value, Mapping) and all(map(key, value)) and all(map(item, value.values()))
    if origin is type:
        return lambda value: isinstance(value, type) and issubclass(value, arguments[0])
    if origin is Literal:
        return lambda value: value in arguments
    if annotation is Any:
        return lambda _: True
    kind = (int, float) if annotation is float else annotation
    return lambda value: isinstance(value, kind)
