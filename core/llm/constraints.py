"""Constraints on answers, from the several fields that ask for them."""

from typing import Any

import orjson

from ..api.chat import ChatRequest
from ..api.completions import CompletionRequest
from ..errors import BadRequest
from .contract import Constraint, ModelTraits
from .errors import Refusals

__all__ = ["check_kind", "find_constraint", "read_constraint"]

_WORDS = {"json_schema": "JSON schemas", "regex": "regular expressions", "choice": "choices", "grammar": "grammars"}


def find_constraint(
    request: ChatRequest | CompletionRequest, traits: ModelTraits, refuse: Refusals
) -> Constraint | None:
    """Return the constraint that a request asks for, or None.

    Raises: BadRequest: more than one is given, or one that is malformed, or one that the engine cannot honour.
    """
    constraint = read_constraint(request)
    if constraint is not None:
        check_kind(constraint, traits, refuse)
    return constraint


def read_constraint(request: ChatRequest | CompletionRequest) -> Constraint | None:
    """Return the constraint that a request asks for, or None, whether or not an engine can honour it.

    Raises: BadRequest: more than one is given, or one that is malformed.
    """
    given: list[Constraint] = []
    if request.guided_json is not None:
        given.append(Constraint(kind="json_schema", value=_schema(request.guided_json), field="guided_json"))
    if request.guided_regex is not None:
        given.append(Constraint(kind="regex", value=_pattern(request.guided_regex), field="guided_regex"))
    if request.guided_choice is not None:
        given.append(Constraint(kind="choice", value=_choices(request.guided_choice), field="guided_choice"))
    if request.guided_grammar is not None:
        given.append(Constraint(kind="grammar", value=_grammar(request.guided_grammar), field="guided_grammar"))
    schema = _response_schema(request.response_format)
    if schema is not None:
        given.append(Constraint(kind="json_schema", value=schema, field="response_format"))
    if len(given) > 1:
        names = sorted(one.field for one in given)
        raise BadRequest(f"Only one of {' and '.join(names)} can be given.", param=names[-1])
    return given[0] if given else None


def check_kind(constraint: Constraint, traits: ModelTraits, refuse: Refusals) -> None:
    """Raise UnsupportedParameter if the engine cannot honour constraints of this kind."""
    if constraint.kind not in traits.constraints:
        reason = traits.no_constraints or f"this engine cannot hold answers to {_WORDS[constraint.kind]} here"
        raise refuse(constraint.field, reason)


def _schema(value: dict[str, Any] | str) -> dict[str, Any]:
    if isinstance(value, str):
        try:
            value = orjson.loads(value)
        except orjson.JSONDecodeError as error:
            raise BadRequest(f"'guided_json' is not JSON: {error}.", param="guided_json") from None
    if not isinstance(value, dict):
        raise BadRequest("'guided_json' must be a JSON schema, an object.", param="guided_json")
    return value or {"type": "object"}


def _pattern(pattern: str) -> str:
    """Return a pattern without the anchors at its ends: the whole answer is matched anyway."""
    text = pattern.removeprefix("^")
    slashes = len(text) - len(text.removesuffix("$").rstrip("\\")) - 1 if text.endswith("$") else 1
    return text[:-1] if slashes % 2 == 0 else text


def _choices(choices: list[str]) -> tuple[str, ...]:
    if any(not choice for choice in choices):
        raise BadRequest("'guided_choice' must not have an empty string.", param="guided_choice")
    return tuple(choices)


def _grammar(text: str) -> str:
    if not text.strip():
        raise BadRequest("'guided_grammar' must not be empty.", param="guided_grammar")
    if "\0" in text:  # engines in C would read it up to there
        raise BadRequest("'guided_grammar' must not have a zero byte.", param="guided_grammar")
    return text


def _response_schema(form: Any) -> dict[str, Any] | None:
    """Return the schema that a `response_format` asks for, or None if it asks for nothing."""
    if form is None:
        return None
    kind = form.get("type")
    if kind == "text":
        return None
    if kind == "json_object":
        schema = form.get("schema")
    elif kind == "json_schema" and isinstance(form.get("json_schema"), dict):
        schema = form["json_schema"].get("schema")
    else:
        raise BadRequest("'response_format': type must be text, json_object or json_schema.", param="response_format")
    if schema is not None and not isinstance(schema, dict):
        raise BadRequest("'response_format': the schema must be an object.", param="response_format")
    return schema or {"type": "object"}
