"""From constraints to grammars of llguidance."""

import re
from collections.abc import Callable
from typing import Any

import orjson

from ...errors import BadRequest, UnsupportedParameter
from ..contract import Constraint
from .gbnf import GbnfError
from .lexemes import to_lark
from .patterns import portable
from .schemas import SchemaError, explain, honour

__all__ = ["KINDS", "grammar_of", "refusal"]

KINDS = frozenset({"json_schema", "regex", "choice", "grammar"})

_MOST_BYTES = 1024 * 1024
"""The longest grammar."""
_MOST_GRAMMAR_BYTES = 64 * 1024
_MOST_MESSAGE, _MOST_HEAD = 400, 120
_PLACE = re.compile(r"^at \d+\(\d+\): invalid regex .* \(in regex\): | in regex /.*|\n *\d+ \|.*", re.DOTALL)
"""Where a complaint is about in a grammar that the client has not seen."""

_DEAD_END = "NoExtensionBias"
"""What llguidance says of a grammar that nothing begins."""

_SPACES: Any = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}
"""No choice of white space: a weak model would write nothing else until the end."""
_STRICT: Any = {"lenient": False, "coerce_one_of": False, "json_allowed_escapes": 'nrbtf\\"'}
"""What a schema may not change by its `x-guidance`. No `\\u` escapes: with them a second spelling of a property's name
would pass as an additional property."""
_SPECIAL = re.compile(r"[^ \w,;:!'\"=%@]")
_LARK = re.compile(r"^\s*(%llguidance\b|%import\b|start\s*:|start\[)", re.MULTILINE)
_IS_GBNF = re.compile(r"::=")


def grammar_of(constraint: Constraint) -> str:
    """Return the constraint as a grammar of llguidance.

    Raises: BadRequest: it is malformed, too long, or asks for what cannot be honoured.
    """
    try:
        grammar = _WRITERS[constraint.kind](constraint.value)
        size = len(grammar.encode())
    except SchemaError as error:
        text = f"'{error.keyword}': {error}" if error.keyword else str(error)
        raise _unsupported(constraint, text) from None
    except UnicodeEncodeError:
        raise BadRequest(f"'{constraint.field}' has half of a surrogate pair.", param=constraint.field) from None
    except ValueError as error:
        raise BadRequest(f"'{constraint.field}' cannot be used: {error}.", param=constraint.field) from None
    if size > _MOST_BYTES:
        raise BadRequest(
            f"'{constraint.field}' is too long: {size} bytes as a grammar, and {_MOST_BYTES} are the most.",
            param=constraint.field,
        )
    return grammar


def refusal(constraint: Constraint, message: str) -> BadRequest:
    """Return the error for a constraint that llguidance has refused.

    Args:
        message: what llguidance said.
    """
    text = message.partition("<backtrace>")[0].partition("<non-verbose/>")[0].strip()
    if constraint.kind != "grammar":
        text = _PLACE.sub("", text)
    if constraint.kind == "json_schema":
        text = explain(text)
    if text == _DEAD_END:
        text = "no answer can be what it asks for"
    return _unsupported(constraint, text)


def _unsupported(constraint: Constraint, text: str) -> BadRequest:
    if len(text) > _MOST_MESSAGE:
        text = f"{text[:_MOST_HEAD]} … {text[_MOST_HEAD - _MOST_MESSAGE :]}"
    return UnsupportedParameter(f"'{constraint.field}' cannot be honoured: {text}", param=constraint.field)


def _json_schema(value: dict[str, Any]) -> str:
    from llguidance import LLMatcher

    try:
        text = orjson.dumps(honour(value)).decode()
    except orjson.JSONEncodeError as error:
        if isinstance(error.__cause__, UnicodeEncodeError) or "surrogates" in str(error):
            raise ValueError("it has half of a surrogate pair") from None
        raise ValueError(str(error)) from None
    return str(LLMatcher.grammar_from_json_schema(text, defaults=_SPACES, overrides=_STRICT))


def _regex(pattern: str) -> str:
    from llguidance import LLMatcher

    return str(LLMatcher.grammar_from_regex(portable(pattern)))


def _choice(choices: tuple[str, ...]) -> str:
    from llguidance import LLMatcher

    if not choices:
        raise ValueError("there is nothing to choose from")
    return str(LLMatcher.grammar_from_regex("|".join(map(_literal, dict.fromkeys(choices)))))


def _literal(text: str) -> str:
    """Return a regular expression for a text."""
    return "".join(f"\\x{{{ord(char):x}}}" if _SPECIAL.match(char) else char for char in text)


def _grammar(text: str) -> str:
    from llguidance import LLMatcher

    size = len(text.encode())
    if size > _MOST_GRAMMAR_BYTES:
        raise ValueError(f"it has {size} bytes, and {_MOST_GRAMMAR_BYTES} are the most")
    if "\0" in text:
        raise ValueError("it has a zero byte")
    if _LARK.search(text) or not _IS_GBNF.search(text):
        return str(LLMatcher.grammar_from_lark(text))
    try:
        return str(LLMatcher.grammar_from_lark(to_lark(text)))
    except GbnfError as error:
        raise ValueError(str(error)) from None


_WRITERS: dict[str, Callable[[Any], str]] = {
    "json_schema": _json_schema,
    "regex": _regex,
    "choice": _choice,
    "grammar": _grammar,
}
