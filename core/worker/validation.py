"""From a request's bytes to its checked model, or to an error that names the field."""

from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from typing import Any

import orjson
from pydantic import BaseModel, ValidationError

from ..errors import BadRequest, UnsupportedParameter
from ..llm.features import who_can

__all__ = ["explain", "import_dotted", "make_check", "make_parser"]


def import_dotted(path: str) -> Any:
    """Return what a dotted path `package.module:Name` stands for.

    Raises: ImportError, AttributeError.
    """
    module, _, name = path.partition(":")
    if not name:
        raise ImportError(f"'{path}' is no dotted path of the form package.module:Name")
    return getattr(import_module(module), name)


def make_parser(model: type[BaseModel], defaults: Mapping[str, Any] | None = None) -> Callable[[bytes], Any]:
    """Return the function that parses and checks a body; its errors are BadRequest.

    Args:
        defaults: taken for fields that the model knows and a body leaves out, or gives as null.
    """
    validate = model.__pydantic_validator__.validate_python
    own = {name: value for name, value in (defaults or {}).items() if name in model.model_fields}

    def parse(body: bytes) -> Any:
        try:
            data = orjson.loads(body)
        except orjson.JSONDecodeError as error:
            raise _malformed(body, error) from None
        if own and isinstance(data, dict):
            data.update({name: value for name, value in own.items() if data.get(name) is None})
        try:
            return validate(data)
        except ValidationError as error:
            raise explain(error, data, model) from None

    return parse


def make_check(
    model: type[BaseModel], handler: object, feature_engines: Mapping[str, tuple[str, ...]] | None = None
) -> Callable[[Any], None]:
    """Return the function that refuses fields the engine cannot honour, and names the engines that can.

    A handler's `unsupported` adds to the fields that its request model refuses by itself; its `supported` takes away.
    A field that is null, or has a value that asks for nothing (the model's `neutral`), is no reason to refuse.

    Args:
        feature_engines: names of other engines by the feature they claim, as in `LoadPlan`.
    """
    refused: dict[str, str] = dict(getattr(model, "refused", {}))
    for name in getattr(handler, "supported", ()):
        refused.pop(name, None)
    refused.update(getattr(handler, "unsupported", {}))
    neutral: Mapping[str, tuple[Any, ...]] = getattr(model, "neutral", {})
    names = frozenset(refused)

    def check(request: Any) -> None:
        given = names & request.model_fields_set
        for name in sorted(given):
            value = getattr(request, name)
            if value is not None and value not in neutral.get(name, ()):
                remedy = who_can(name, feature_engines or {})
                raise UnsupportedParameter(f"'{name}' cannot be honoured: {refused[name]}.", param=name, remedy=remedy)

    return check


def explain(error: ValidationError, data: Any, model: type[BaseModel]) -> BadRequest:
    """Make one readable error of what pydantic found; `param` is the dotted path of the field at fault."""
    if not isinstance(data, dict):
        return BadRequest("The request's body must be a JSON object.")
    found = error.errors(include_url=False)
    unknown = [item for item in found if item["type"] == "extra_forbidden"]
    if unknown:
        return _unknown_fields(unknown, data, model)
    first = found[0]
    same = [item for item in found if item["loc"][:1] == first["loc"][:1]]
    paths = [_path(item, data) for item in same]
    deepest = max(paths, key=len)
    messages = dict.fromkeys(_message(item) for item, path in zip(same, paths, strict=True) if path == deepest)
    param = ".".join(deepest)
    # Of alternatives, "must be a string, or a list" instead of "must be a string, or must be a list".
    text = ", or ".join(messages).replace(", or must be ", ", or ")
    return BadRequest(f"'{param}' {text}." if param else f"{text[:1].upper()}{text[1:]}.", param=param or None)


def _malformed(body: bytes, error: orjson.JSONDecodeError) -> BadRequest:
    if not body.strip():
        return BadRequest("The request has no body; a JSON object is needed.")
    return BadRequest(f"The request's body is not JSON: {error}.")


def _path(item: Mapping[str, Any], data: Any) -> tuple[str, ...]:
    """Return where in the data an error is: pydantic's location less the names of the union members it tried."""
    path: list[str] = []
    value = data
    parts: list[int | str] = list(item["loc"])
    for index, part in enumerate(parts):
        is_key = isinstance(value, dict) and part in value
        if is_key or (isinstance(value, list) and isinstance(part, int) and part < len(value)):
            value = value[part]
        elif not (index == len(parts) - 1 and item["type"] == "missing"):
            continue
        path.append(str(part))
    if item["type"] in _TAG_ERRORS:
        path.append(_tag_name(item))
    return tuple(path)


_TAG_ERRORS = ("union_tag_not_found", "union_tag_invalid")


def _tag_name(item: Mapping[str, Any]) -> str:
    name: str = item["ctx"]["discriminator"]
    return name.strip("'")


def _message(item: Mapping[str, Any]) -> str:
    kind: str = item["type"]
    if kind in ("missing", "union_tag_not_found"):
        return "is required"
    if kind == "union_tag_invalid":
        return f"must be one of {item['ctx']['expected_tags']}"
    if kind == "too_short":
        return f"must have at least {item['ctx']['min_length']}, but has {item['ctx']['actual_length']}"
    text: str = item["msg"]
    text = text.removeprefix("Value error, ").rstrip(".")
    _, should, wanted = text.partition(" should ")
    if should:
        return f"must {wanted}"
    return text[:1].lower() + text[1:]


def _unknown_fields(found: Sequence[Mapping[str, Any]], data: Any, model: type[BaseModel]) -> BadRequest:
    from difflib import get_close_matches

    known = list(model.model_fields)
    clauses = []
    for item in found:
        path = _path(item, data)
        text = f"'{'.'.join(path)}'"
        close = get_close_matches(path[-1], known, n=1) if len(path) == 1 else []
        clauses.append(f"{text} (did you mean '{close[0]}'?)" if close else text)
    param = ".".join(_path(found[0], data))
    noun = "field" if len(clauses) == 1 else "fields"
    return BadRequest(f"Unknown {noun} {', '.join(clauses)}.", param=param)
