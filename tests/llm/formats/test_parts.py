"""The parts that parsers are made of: JSON in pieces, values by schema, literals, marks."""

import json
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelrack.llm.formats.json_text import DEPTH_LIMIT, JsonScanner, StringDecoder, escape
from modelrack.llm.formats.literals import PYTHON, read_literal
from modelrack.llm.formats.marks import Marks
from modelrack.llm.formats.tape import Script, Tape
from modelrack.llm.formats.values import convert, kinds_of, property_kinds, read_value

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)


def scan(text: str, size: int) -> tuple[str, str, str]:
    """Return what a scanner gives, its state, and what it leaves."""
    scanner, out, at = JsonScanner(), list[str](), 0
    for start in range(0, len(text), size):
        end = min(len(text), start + size)
        at = scanner.scan(text, at, end, out.append)
        if scanner.state != "open":
            break
    scanner.end()
    return "".join(out), scanner.state, text[at:]


@given(values, st.sampled_from([None, 1]), st.booleans())
def test_the_scanner_finds_the_end_of_any_value(value: Any, indent: int | None, ascii_only: bool) -> None:
    text = json.dumps(value, indent=indent, ensure_ascii=ascii_only)
    for size in (1, 3, len(text) + 9):
        assert scan(text + "</end>", size) == (text, "done", "</end>")


@pytest.mark.parametrize(
    ("text", "read", "rest"),
    [
        ('{"a": <', '{"a": ', "<"),
        ('{"a": 1]', '{"a": 1', "]"),
        ("[1, 2}", "[1, 2", "}"),
        ("{'a': 1}", "{", "'a': 1}"),
        ("<", "", "<"),
        ("}", "", "}"),
    ],
)
def test_the_scanner_stops_at_what_is_malformed(text: str, read: str, rest: str) -> None:
    for size in (1, 99):
        assert scan(text, size) == (read, "bad", rest)


def test_the_scanner_escapes_what_models_forget_to() -> None:
    text, state, _ = scan('{"a": "x\n\ty\x00\\\nz"}', 1)
    assert state == "done" and json.loads(text) == {"a": "x\n\ty\x00\\\nz"}


def test_nesting_is_bounded() -> None:
    deep = "[" * DEPTH_LIMIT + "]" * DEPTH_LIMIT
    assert scan(deep, 7)[1] == "done"
    assert scan(f"[{deep}]", 7)[1] == "bad"


@given(st.text(), st.integers(1, 5))
def test_strings_are_decoded_in_pieces(value: str, size: int) -> None:
    text = json.dumps(value)[1:]
    decoder, out, at = StringDecoder(), list[str](), 0
    for start in range(0, len(text), size):
        at = decoder.scan(text, at, min(len(text), start + size), out.append)
    assert decoder.is_done and "".join(out) == value


@pytest.mark.parametrize(
    ("written", "value"),
    [
        ('\\ud83d\\ude00"', "😀"),
        ('\\ud83d"', "\ufffd"),
        ('\\ud83dx"', "\ufffdx"),
        ('\\ude00"', "\ufffd"),
        ('\\ud83d\\ud83d\\ude00"', "\ufffd😀"),
        ('\\u12x"', "\\u12x"),
        ('\\q"', "\\q"),
    ],
)
def test_odd_escapes(written: str, value: str) -> None:
    out: list[str] = []
    StringDecoder().scan(written, 0, len(written), out.append)
    assert "".join(out) == value


def run(script: Script[Any], tape: Tape, pieces: list[str]) -> Any:
    """Return what a script returns, which is given a text in pieces."""
    try:
        next(script)
        for text in pieces:
            tape.add(text)
            next(script)
        tape.is_over = True
        next(script)
    except StopIteration as stop:
        return stop.value
    raise AssertionError("it waits for more than there is")


def literal(text: str, size: int) -> tuple[bool, str]:
    tape, out = Tape(), list[str]()
    is_whole = run(
        read_literal(tape, PYTHON, out.append), tape, [text[i : i + size] for i in range(0, len(text), size)]
    )
    return is_whole, "".join(out)


@given(values)
def test_literals_become_json(value: Any) -> None:
    def plain(value: Any) -> Any:
        """Leave out what JSON writes otherwise: keys of a text with a lone surrogate do not occur here."""
        return json.loads(json.dumps(value))

    for size in (1, 1000):
        is_whole, text = literal(repr(value) + ")", size)
        assert is_whole and json.loads(text) == plain(value)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("(1, 'a',)", [1, "a"]),
        ("{'a': {}, 'b': [],}", {"a": {}, "b": []}),
        ('"""x "y"\nz"""', 'x "y"\nz'),
        ("'\\x41\\u00e9\\'\\n'", "Aé'\n"),
        ("None", None),
        ("true", True),
        ("0x10", "0x10"),
        ("Color.RED", "Color.RED"),
    ],
)
def test_literals_of_python(text: str, value: Any) -> None:
    for size in (1, 99):
        is_whole, written = literal(f"{text})", size)
        assert is_whole and json.loads(written) == value


@pytest.mark.parametrize("text", ["[1 2", "{1}", "[", "'abc", "{'a' 1}", ")", "[1}", "[" * 300 + "]" * 300])
def test_malformed_literals_end_without_an_error(text: str) -> None:
    assert literal(text, 1) == literal(text, 999)
    assert literal(text, 1)[0] is False or text.startswith("[1 2")


@pytest.mark.parametrize(
    ("schema", "kinds"),
    [
        ({"type": "string"}, {"string"}),
        ({"type": ["integer", "null"]}, {"integer", "null"}),
        (
            {"enum": ["a", 1, None, True, 1.5, [], {}]},
            {"string", "integer", "null", "boolean", "number", "array", "object"},
        ),
        ({"const": "x"}, {"string"}),
        ({"anyOf": [{"type": "string"}, {"$ref": "#/$defs/n"}]}, {"string", "number"}),
        ({"oneOf": [{"type": "string"}, {}]}, set()),
        ({"allOf": [{"description": "x"}, {"type": "boolean"}]}, {"boolean"}),
        ({"properties": {}}, {"object"}),
        ({"$ref": "#/$defs/loop"}, set()),
        ({"$ref": "#/nowhere/else"}, set()),
        ({"$ref": "other.json"}, set()),
        ({}, set()),
        (True, set()),
        (None, set()),
        ({"type": 3, "enum": 4, "anyOf": 5, "allOf": 6}, set()),
    ],
)
def test_kinds_of_schemas(schema: Any, kinds: set[str]) -> None:
    root = {"$defs": {"n": {"type": "number"}, "loop": {"$ref": "#/$defs/loop"}}}
    assert kinds_of(schema, root) == kinds


def test_kinds_of_properties() -> None:
    schema: Mapping[str, Any] = {"properties": {"a": {"type": "string"}}, "additionalProperties": {"type": "integer"}}
    assert property_kinds(schema, "a") == {"string"} and property_kinds(schema, "b") == {"integer"}
    assert property_kinds({}, "a") == property_kinds({"properties": 1}, "a") == frozenset()


@pytest.mark.parametrize(
    ("text", "kinds", "value"),
    [
        ("5", {"integer"}, 5),
        (" 5 ", {"integer"}, 5),
        ("5", {"number"}, 5),
        ("5.5", {"number"}, 5.5),
        ("True", {"boolean"}, True),
        ("None", {"null", "integer"}, None),
        ("null", {"string", "null"}, None),
        ("5", {"string", "null"}, "5"),
        ("5", {"string", "integer"}, 5),
        ("five", {"integer"}, "five"),
        ('{"a": 1}', {"object"}, {"a": 1}),
        ("{broken", {"object"}, "{broken"),
        ('{"a": 1}', set(), {"a": 1}),
        ("true", set(), True),
        ("Paris", set(), "Paris"),
        ("NaN", set(), "NaN"),
        ("9" * 5000, {"integer"}, None),
        ("[" * 100_000, {"array"}, "[" * 100_000),
    ],
)
def test_values_by_schema(text: str, kinds: set[str], value: Any) -> None:
    written = convert(text, frozenset(kinds))
    assert written == "9" * 5000 if value is None and text[0] == "9" else json.loads(written) == value


@given(
    st.text(alphabet='ab<e/>"\\\n\r5[{1]} ', max_size=30),
    st.sampled_from(["string", "integer", "null", ""]),
    st.booleans(),
)
def test_values_are_the_same_however_they_are_cut(text: str, kind: str, trims_line: bool) -> None:
    kinds = frozenset({kind, "string"} if kind == "null" else {kind} - {""})
    found = set()
    for size in (1, 2, 99):
        tape, out = Tape(), list[str]()
        pieces = [text[i : i + size] for i in range(0, len(text), size)]
        mark = run(read_value(tape, ("</e>",), kinds, out.append, trims_line=trims_line), tape, [*pieces, "</e>"])
        found.add((mark, "".join(out), tape.text[tape.at :]))
        assert mark == "</e>"
        json.loads("".join(out))
    assert len(found) == 1


@given(st.text())
def test_a_string_is_escaped_as_json_wants_it(text: str) -> None:
    assert json.loads('"' + escape(text) + '"') == text


def test_marks_hold_back_only_what_may_become_one() -> None:
    marks = Marks(("<think>", "<|a|>", "<|a|>b"))
    assert marks.find("x <thi", 0, 6, False) == (2, None)
    assert marks.find("x <thi", 0, 6, True) == (6, None)
    assert marks.find("x <thx", 0, 6, False) == (6, None)
    assert marks.find("<think>", 0, 7, False) == (0, "<think>")
    assert marks.find("<|a|>", 0, 5, False) == (0, None)
    assert marks.find("<|a|>c", 0, 6, False) == (0, "<|a|>")
    assert marks.find("<<<|a|>b", 0, 8, False) == (2, "<|a|>b")
