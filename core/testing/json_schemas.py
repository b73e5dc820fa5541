"""JSON schemas of growing nastiness, and those that nobody can honour token by token, for tests of engines.

A schema is honoured when every answer that ends by itself is valid. Models with random weights choose nearly by chance,
so nearly all of the schemas allow only so much text.
"""

import json
from dataclasses import dataclass
from typing import Any

__all__ = ["REFUSED", "SCHEMAS", "RefusedSchema", "SchemaCase"]

_DRAFT_4 = "http://json-schema.org/draft-04/schema#"
_DRAFT_7 = "http://json-schema.org/draft-07/schema#"
_DRAFT_2019 = "https://json-schema.org/draft/2019-09/schema"
_DRAFT_2020 = "https://json-schema.org/draft/2020-12/schema"


@dataclass(frozen=True, slots=True)
class SchemaCase:
    """A schema to be honoured.

    Args:
        name: a few words, for test ids.
        max_tokens: as many as bytes of the longest answer, if `ends`.
        ends: no answer is longer than that; False: the answer may go on for ever (recursion), and be cut.
    """

    name: str
    schema: dict[str, Any]
    max_tokens: int = 256
    ends: bool = True

    def validator(self) -> Any:
        """Return the class that validates by the schema's draft; needs the package `jsonschema`."""
        import jsonschema

        return jsonschema.validators.validator_for(self.schema, default=jsonschema.Draft202012Validator)

    def check(self, text: str, finish: str) -> None:
        """Check an answer.

        Args:
            finish: its `finish_reason`.

        Raises: AssertionError: it has no end. `jsonschema.ValidationError`: it is another.
        """
        if finish == "length" and not self.ends:
            return
        assert finish == "stop", f"no end after {self.max_tokens} tokens: {text!r}"
        kind = self.validator()
        kind(self.schema, format_checker=kind.FORMAT_CHECKER).validate(json.loads(text))


@dataclass(frozen=True, slots=True)
class RefusedSchema:
    """A schema to be refused with a 400.

    Args:
        keyword: what cannot be honoured; the message names it.
    """

    name: str
    schema: dict[str, Any]
    keyword: str


def _closed(required: list[str] | None = None, /, **properties: Any) -> dict[str, Any]:
    """Return the schema of an object with these properties, all of them required unless it is said which."""
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties) if required is None else required,
        "additionalProperties": False,
    }


_WORD = {"type": "string", "maxLength": 8}
_SMALL = {"type": "integer", "minimum": 0, "maximum": 99}
_RATIO = {"type": "number", "minimum": 0, "maximum": 1, "multipleOf": 0.25}

_PLAIN = (
    SchemaCase("boolean", {"type": "boolean"}, 8),
    SchemaCase("null", {"type": "null"}, 8),
    SchemaCase("small integer", _SMALL, 8),
    SchemaCase("short string", {"type": "string", "minLength": 2, "maxLength": 12}, 64),
    SchemaCase("several types", {"type": ["boolean", "null", "integer"], "minimum": -5, "maximum": 5}, 8),
    SchemaCase("flat object", _closed(name=_WORD, age=_SMALL, member={"type": "boolean"}), 128),
    SchemaCase("array of integers", {"type": "array", "items": _SMALL, "minItems": 1, "maxItems": 6}, 64),
    SchemaCase("nothing", {"type": "object", "additionalProperties": False}, 8),
)

_VALUES = (
    SchemaCase("enum of texts", {"enum": ["red", "green", "blue", "greenish"]}, 16),
    SchemaCase("enum of unicode", {"enum": ["Grüße", "日本語", "😀👩‍👩‍👧", "e\u0301", "ﷺ"]}, 32),
    SchemaCase("enum of mixed types", {"enum": ["1", 1, True, None, 1.5, [1, "a"], {"k": {"v": []}}, "", {}]}, 32),
    SchemaCase("enum within a type", {"type": ["string", "null"], "enum": ["a", None, 3]}, 8),
    SchemaCase("constant text", {"const": 'He said "no\\yes"\n\tand left / went'}, 64),
    SchemaCase("constant object", {"const": {"a": [1, -2, {"b": None}], "ü": "\"'\\"}}, 64),
    SchemaCase("constant number", {"const": -0.125}, 16),
)

_BOUNDS = (
    SchemaCase("integer bounds", {"type": "integer", "minimum": -17, "maximum": 4711}, 8),
    SchemaCase("exclusive bounds", {"type": "integer", "exclusiveMinimum": 9, "exclusiveMaximum": 11}, 8),
    SchemaCase("number bounds", {"type": "number", "minimum": -1.5, "maximum": 2.25, "multipleOf": 0.25}, 8),
    SchemaCase("negative bounds", {"type": "integer", "minimum": -1000, "maximum": -990}, 8),
    SchemaCase("multiples", {"type": "integer", "multipleOf": 7, "minimum": 1, "maximum": 1000}, 8),
    SchemaCase("bounds that are no integers", {"type": "integer", "minimum": 0.5, "maximum": 3.5}, 8),
    SchemaCase("one length", {"type": "string", "minLength": 5, "maxLength": 5}, 32),
    SchemaCase(
        "bounds of a draft of old",
        {"$schema": _DRAFT_4, "type": "integer", "minimum": 3, "exclusiveMinimum": True, "maximum": 12},
        8,
    ),
)

_TEXTS = (
    SchemaCase("pattern", {"type": "string", "pattern": "^[A-Z]{2}-[0-9]{3,5}(/[a-f])?$"}, 24),
    SchemaCase("pattern anywhere", {"type": "string", "pattern": "[0-9]z", "maxLength": 10}, 48),
    SchemaCase("pattern with length", {"type": "string", "pattern": "^(ab|cd)+$", "minLength": 6, "maxLength": 14}, 24),
    SchemaCase("pattern of quotes", {"type": "string", "pattern": '^["\\\\/]{2,4}$'}, 16),
    SchemaCase("pattern of unicode", {"type": "string", "pattern": "^[à-ÿ一-三]{1,4}$"}, 32),
    SchemaCase(
        "formats",
        _closed(
            day={"type": "string", "format": "date"},
            id={"type": "string", "format": "uuid"},
            host={"type": "string", "format": "ipv4"},
            at={"type": "string", "format": "time", "maxLength": 20},
        ),
        192,
    ),
    SchemaCase(
        "formats with lengths",
        _closed(
            mail={"type": "string", "format": "email", "maxLength": 24},
            at={"type": "string", "format": "date-time", "maxLength": 32},
        ),
        160,
    ),
)  # fmt: skip

_ARRAYS = (
    SchemaCase(
        "tuple",
        {
            "type": "array",
            "prefixItems": [_SMALL, {"enum": ["x", "y"]}, {"type": "null"}],
            "items": False,
            "minItems": 2,
        },
        32,
    ),
    SchemaCase(
        "tuple and more",
        {"type": "array", "prefixItems": [{"type": "boolean"}], "items": _SMALL, "minItems": 3, "maxItems": 5},
        48,
    ),
    SchemaCase(
        "tuple of draft 7",
        {"$schema": _DRAFT_7, "type": "array", "items": [_SMALL, _WORD], "additionalItems": False, "minItems": 1},
        64,
    ),
    SchemaCase(
        "matrix",
        {"type": "array", "items": {"type": "array", "items": _RATIO, "minItems": 2, "maxItems": 3}, "maxItems": 3},
        96,
    ),
    SchemaCase("an array that must be empty", {"type": "array", "maxItems": 0}, 8),
)

_COMBINED = (
    SchemaCase("anyOf", {"anyOf": [_SMALL, {"enum": ["none"]}, {"type": "array", "items": _SMALL, "maxItems": 2}]}, 24),
    SchemaCase(
        "oneOf by a constant",
        {
            "oneOf": [
                _closed(kind={"const": "circle"}, radius=_SMALL),
                _closed(kind={"const": "square"}, side=_SMALL, turned={"type": "boolean"}),
            ]
        },
        64,
    ),
    SchemaCase("oneOf by type", {"oneOf": [{"type": "boolean"}, _WORD, {"type": "null"}]}, 48),
    SchemaCase(
        "allOf",
        {
            "allOf": [
                {"type": "object", "properties": {"a": _SMALL}, "required": ["a"]},
                {"properties": {"b": {"type": "boolean"}}, "required": ["b"], "maxProperties": 2},
            ]
        },
        64,
    ),
    SchemaCase(
        "bounds from all sides",
        {
            "minimum": 3,
            "allOf": [{"type": "integer"}, {"maximum": 40}, {"multipleOf": 3}],
            "anyOf": [{"multipleOf": 2}],
        },
        8,
    ),
)

_OBJECTS = (
    SchemaCase(
        "required in another order",
        {
            "type": "object",
            "required": ["z", "m", "a"],
            "properties": {"a": _SMALL, "m": _WORD, "q": {"type": "boolean"}, "z": {"type": "null"}},
            "additionalProperties": False,
        },
        112,
    ),
    SchemaCase(
        "required but not described",
        {"type": "object", "required": ["id", "tag"], "additionalProperties": _SMALL, "maxProperties": 2},
        48,
    ),
    SchemaCase(
        "keys to trip over",
        _closed(**{"größe": _SMALL, 'a "quoted"\\key': _SMALL, "日本": {"type": "null"}, "": _SMALL, "a/b~c": _SMALL}),
        128,
    ),
    SchemaCase(
        "names by pattern",
        {
            "type": "object",
            "properties": {"id": _SMALL},
            "required": ["id"],
            "patternProperties": {"^x_[a-c]{1,3}$": {"type": "boolean"}},
            "additionalProperties": False,
            "maxProperties": 4,
        },
        96,
    ),
    SchemaCase(
        "properties of any name",
        {"type": "object", "patternProperties": {"^[a-z]{1,4}$": _SMALL}, "additionalProperties": False,
         "minProperties": 1, "maxProperties": 3},
        64,
    ),
    SchemaCase(
        "optional ones only", _closed([], a=_SMALL, b=_WORD, c={"type": "array", "items": _SMALL, "maxItems": 3}), 112
    ),
)  # fmt: skip


def _deep(levels: int) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "boolean"}
    for level in range(levels):
        schema = _closed(**{f"l{level}": schema})
    return schema


def _catalogue(tools: int) -> dict[str, Any]:
    """Return the schema of a call to one of many tools."""
    return {
        "anyOf": [
            _closed(
                name={"const": f"tool_{number}"},
                arguments=_closed(
                    ["query"],
                    query=_WORD,
                    limit=_SMALL,
                    mode={"enum": ["fast", "exact", f"mode {number}"]},
                    filters={"type": "array", "items": _closed(field=_WORD, least=_SMALL), "maxItems": 2},
                ),
            )
            for number in range(tools)
        ]
    }


_REFERENCES = (
    SchemaCase(
        "references",
        {
            "$defs": {"point": _closed(x=_SMALL, y=_SMALL), "a b/c~d": {"type": "boolean"}},
            **_closed(
                **{"from": {"$ref": "#/$defs/point"}, "to": {"$ref": "#/$defs/point"}},
                flag={"$ref": "#/$defs/a%20b~1c~0d"},
            ),
        },
        96,
    ),
    SchemaCase(
        "a reference with more beside it",
        {"$schema": _DRAFT_2019, "$defs": {"n": {"type": "integer", "minimum": 5}}, "$ref": "#/$defs/n", "maximum": 20},
        8,
    ),
    SchemaCase(
        "a list that links to itself",
        {"$defs": {"node": _closed(v=_SMALL, next={"anyOf": [{"type": "null"}, {"$ref": "#/$defs/node"}]})},
         "$ref": "#/$defs/node"},
        160,
        ends=False,
    ),
    SchemaCase(
        "a tree of two that need each other",
        {
            "$defs": {
                "branch": _closed(leaves={"type": "array", "items": {"$ref": "#/$defs/leaf"}, "maxItems": 2}),
                "leaf": {"anyOf": [_SMALL, {"$ref": "#/$defs/branch"}]},
            },
            "$ref": "#/$defs/branch",
        },
        160,
        ends=False,
    ),
)  # fmt: skip

_LARGE = (
    SchemaCase("deep", _deep(20), 256),
    SchemaCase(
        "many words that ask for nothing",
        {
            "$schema": _DRAFT_2020,
            "$id": "https://schemas.example/order.json",
            "$comment": "none of it matters",
            "title": "Order",
            "description": "x" * 2000,
            "examples": [{"count": 1}],
            "default": {"count": 1},
            "uniqueItems": False,
            **_closed(count={**_SMALL, "title": "Count", "deprecated": True, "readOnly": True}),
        },
        24,
    ),
    SchemaCase("enum of many", {"enum": [f"item-{number:03d}" for number in range(500)]}, 16),
    SchemaCase("many properties", _closed([], **{f"p{number}": _SMALL for number in range(60)}), 768),
    SchemaCase("catalogue of tools", _catalogue(40), 256),
)

SCHEMAS: tuple[SchemaCase, ...] = (
    *_PLAIN, *_VALUES, *_BOUNDS, *_TEXTS, *_ARRAYS, *_COMBINED, *_OBJECTS, *_REFERENCES, *_LARGE
)  # fmt: skip
"""Schemas to be honoured."""

REFUSED: tuple[RefusedSchema, ...] = (
    RefusedSchema("not", {"type": "integer", "not": {"const": 3}}, "not"),
    RefusedSchema("unique items", {"type": "array", "items": _SMALL, "uniqueItems": True}, "uniqueItems"),
    RefusedSchema("contains", {"type": "array", "contains": {"const": 1}}, "contains"),
    RefusedSchema("if", {"if": {"type": "string"}, "then": {"minLength": 2}}, "if"),
    RefusedSchema("names of properties", {"type": "object", "propertyNames": {"pattern": "^a"}}, "propertyNames"),
    RefusedSchema("dependent", {"type": "object", "dependentRequired": {"a": ["b"]}}, "dependentRequired"),
    RefusedSchema("unevaluated", {"type": "object", "unevaluatedProperties": False}, "unevaluatedProperties"),
    RefusedSchema("dynamic reference", {"$dynamicRef": "#node"}, "$dynamicRef"),
    RefusedSchema("oneOf that overlaps", {"oneOf": [{"type": "integer"}, {"type": "number"}]}, "oneOf"),
    RefusedSchema("unknown format", {"type": "string", "format": "colour"}, "format"),
    RefusedSchema("look-ahead", {"type": "string", "pattern": "^(?!a).*$"}, "pattern"),
    RefusedSchema("reference to nowhere", {"$ref": "#/$defs/none"}, "$ref"),
    RefusedSchema("reference to elsewhere", {"$ref": "https://schemas.example/other.json"}, "$ref"),
    RefusedSchema("unknown type", {"type": "text"}, "type"),
    RefusedSchema("bounds that cross", {"type": "integer", "minimum": 5, "maximum": 3}, "minimum"),
    RefusedSchema("lengths that cross", {"type": "string", "minLength": 5, "maxLength": 2}, "minLength"),
    RefusedSchema("beyond exact numbers", {"type": "integer", "minimum": 2**53 + 1}, "minimum"),
    RefusedSchema("no multiple", {"type": "integer", "multipleOf": 0}, "multipleOf"),
    RefusedSchema("twice the same name", {"type": "object", "minProperties": 3}, "minProperties"),
    RefusedSchema("empty anyOf", {"anyOf": []}, "anyOf"),
    RefusedSchema("a length that is none", {"type": "string", "maxLength": -1}, "maxLength"),
    RefusedSchema("control characters", {"const": "\x01"}, "const"),
)
"""Schemas to be refused with a 400."""
