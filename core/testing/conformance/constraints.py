"""Constraints on answers: JSON schemas, patterns, choices and grammars."""

import json
import re
from collections.abc import Mapping
from typing import Any

import pytest

from ..json_schemas import SCHEMAS
from .answers import check_error, read_answer, read_events, read_stream
from .base import PROMPT
from .claims import feature
from .rig import CHAT, COMPLETIONS, Rig, Target, together

__all__ = ["ConstraintTests"]

_SCHEMAS: Mapping[str, dict[str, Any]] = {
    "flat": {
        "type": "object",
        "properties": {"n": {"type": "integer", "minimum": 0, "maximum": 99}, "ok": {"type": "boolean"}},
        "required": ["n", "ok"],
        "additionalProperties": False,
    },
    "enum": {"enum": ["red", "green", 3, None]},
    "nested": {
        "type": "object",
        "properties": {
            "who": {
                "type": "object",
                "properties": {"name": {"type": "string", "maxLength": 6}},
                "required": ["name"],
                "additionalProperties": False,
            },
            "list": {"type": "array", "items": {"type": "boolean"}, "minItems": 1, "maxItems": 3},
        },
        "required": ["who", "list"],
        "additionalProperties": False,
    },
    "union": {
        "anyOf": [
            {"type": "string", "maxLength": 4},
            {"type": "array", "items": {"type": "integer", "minimum": 1, "maximum": 9}, "minItems": 2, "maxItems": 2},
        ]
    },
    "reference": {
        "$defs": {"word": {"type": "string", "pattern": "^[a-z]{2,4}$"}},
        "type": "object",
        "properties": {"ä ö": {"$ref": "#/$defs/word"}, "b": {"$ref": "#/$defs/word"}},
        "required": ["ä ö", "b"],
        "additionalProperties": False,
    },
}
_LIMIT = 300


def _check(schema: Mapping[str, Any], text: str) -> None:
    from jsonschema import Draft202012Validator
    from jsonschema.validators import validator_for

    kind = validator_for(schema, default=Draft202012Validator)
    kind(schema, format_checker=kind.FORMAT_CHECKER).validate(json.loads(text))


class ConstraintTests:
    """The features `json_schema`, `regex`, `choice` and `grammar`."""

    @feature("json_schema")
    @pytest.mark.parametrize("name", list(_SCHEMAS))
    def test_answers_are_json_by_the_schema(self, main: Target, path: str, name: str) -> None:
        """Random weights would not write JSON: that they do proves that they must."""
        schema = _SCHEMAS[name]
        forms: list[dict[str, Any]] = [
            {"guided_json": schema},
            {"guided_json": json.dumps(schema)},
            {"response_format": {"type": "json_schema", "json_schema": {"name": "it", "schema": schema}}},
        ]
        for fields in forms:
            answer = main.both(path, PROMPT, max_tokens=_LIMIT, **fields)
            assert answer.only.finish == "stop", f"no end after {_LIMIT} tokens: {answer.text!r}"
            _check(schema, answer.text)

    @feature("json_schema")
    def test_sampled_answers_of_different_schemas_hold_at_once(self, main: Target) -> None:
        names = list(_SCHEMAS) * 2

        def ask(number: int) -> None:
            schema = _SCHEMAS[names[number]]
            answer = main.chat(PROMPT, max_tokens=_LIMIT, temperature=1, seed=number, guided_json=schema)
            _check(schema, answer.text)

        together(ask, range(len(names)))

    @feature("json_schema")
    @pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
    def test_nasty_schemas_are_honoured_or_refused(self, main: Target, stream: bool) -> None:
        """Of those in `modelrack.testing.json_schemas` an engine may refuse some, but may answer none wrongly."""

        def ask(number: int) -> bool:
            case = SCHEMAS[number]
            messages = [{"role": "user", "content": PROMPT}]
            body = {"messages": messages, "guided_json": case.schema, "max_tokens": case.max_tokens, "temperature": 0}
            response = main.post(CHAT, {**body, "stream": stream})
            if response.status_code == 400:
                assert str(check_error(response.json())["param"]).startswith("guided_json"), case.name
                return False
            assert response.status_code == 200, f"{case.name}: {response.text}"
            if stream:
                answer = read_stream(read_events(response.text), main.uid, usage=False)
            else:
                answer = read_answer(response.json(), main.uid)
            if answer.only.finish == "stop":
                _check(case.schema, answer.text)
            else:
                assert not case.ends, f"{case.name}: no end after {case.max_tokens} tokens: {answer.text!r}"
            return True

        honoured: list[bool] = []
        for first in range(0, len(SCHEMAS), 8):
            honoured += together(ask, range(first, min(first + 8, len(SCHEMAS))))
        assert sum(honoured) > len(SCHEMAS) // 2, "most of the schemas are refused"

    @feature("json_schema")
    def test_any_json_object(self, main: Target, path: str) -> None:
        fields = {"response_format": {"type": "json_object"}, "max_tokens": 1000}
        answer = main.either(path, PROMPT, **fields)
        # A weak model may go on in one string for ever.
        assert answer.text.lstrip().startswith("{")
        if answer.only.finish == "stop":
            assert isinstance(json.loads(answer.text), dict)
        text = {"response_format": {"type": "text"}, "max_tokens": 6}
        assert main.either(path, PROMPT, **text).said == main.either(path, PROMPT, max_tokens=6).said

    @feature("json_schema")
    def test_a_schema_that_is_none_is_refused(self, main: Target, path: str) -> None:
        for value in ({"type": "whale"}, "{", "[]", {"$ref": "#/nowhere"}):
            error = main.refused(path, self._body(path, {"guided_json": value}))
            assert str(error["param"]).startswith("guided_json"), error

    @feature("regex")
    @pytest.mark.parametrize("pattern", ["[a-c]{3}x", "(red|blue) [0-9]{2}", "ö{2,4}", r"\d\.\d", "^a+b$"])
    def test_answers_match_the_pattern(self, main: Target, path: str, pattern: str) -> None:
        answer = main.both(path, PROMPT, max_tokens=60, guided_regex=pattern)
        if answer.only.finish == "stop":
            assert re.fullmatch(pattern, answer.text), answer.text
        else:
            assert "+" in pattern, f"no end after 60 tokens: {answer.text!r}"

    @feature("regex")
    def test_a_pattern_that_is_none_is_refused(self, main: Target, path: str) -> None:
        error = main.refused(path, self._body(path, {"guided_regex": "(((("}))
        assert error["param"] == "guided_regex", error

    @feature("choice")
    def test_answers_are_one_of_the_choices(self, main: Target, path: str) -> None:
        choices = ["red", "redder", "größer 🐋", 'a "b"\n']
        assert main.both(path, PROMPT, max_tokens=60, guided_choice=choices).text in choices
        sampled = {
            main.either(path, PROMPT, max_tokens=60, temperature=2, guided_choice=choices).text for _ in range(4)
        }
        assert sampled <= set(choices)
        assert main.both(path, PROMPT, max_tokens=60, guided_choice=["only"]).text == "only"

    @feature("grammar")
    def test_answers_follow_the_grammar(self, main: Target, path: str, rig: Rig) -> None:
        answer = main.both(path, PROMPT, max_tokens=20, guided_grammar=rig.subject.grammar)
        assert answer.text in ("yes", "no") and answer.only.finish == "stop"

    @feature("grammar")
    def test_a_grammar_that_is_none_is_refused(self, main: Target, path: str) -> None:
        error = main.refused(path, self._body(path, {"guided_grammar": "root ::= ((("}))
        assert error["param"] == "guided_grammar", error

    def _body(self, path: str, fields: Mapping[str, Any]) -> dict[str, Any]:
        plain = {CHAT: {"messages": [{"role": "user", "content": PROMPT}]}, COMPLETIONS: {"prompt": PROMPT}}
        return {**plain[path], "max_tokens": 4, **fields}  # type: ignore[dict-item]
