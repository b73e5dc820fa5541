"""What no model should write: nothing raises, nothing is lost, and the work grows as the text does."""

import sys
from collections.abc import Callable
from itertools import pairwise
from types import FrameType
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llm.formats.shapes import SHAPES, TOOLS, Read, Shape, read
from modelrack.llm.formats.base import OutputParser, ParserContext
from modelrack.llm.formats.choice import Chosen, make_parser
from modelrack.llm.formats.registered import FORMATS

TOOL_FORMATS = [each for each in FORMATS if each.kind != "reasoning"]
REASONING_FORMATS = [each for each in FORMATS if each.kind == "reasoning"]

by_format = pytest.mark.parametrize("chosen", [
    *(Chosen(each, each if each.kind == "both" else None) for each in TOOL_FORMATS),
    *(Chosen(None, each) for each in REASONING_FORMATS),
], ids=lambda chosen: (chosen.tools or chosen.reasoning).name)  # fmt: skip


def parser(chosen: Chosen) -> OutputParser:
    return make_parser(chosen, ParserContext(tools=TOOLS))


def tokens(shape: Shape) -> list[str]:
    """Return the marks of a shape, and what stands between them, as pieces to mix."""
    marks = [mark for mark in shape.chosen().marks if mark in shape.text]
    return [
        *marks,
        *shape.text.split("\n"),
        "\n",
        " ",
        "{",
        "}",
        "[",
        "]",
        '"',
        "'",
        "\\",
        ":",
        ",",
        "get_weather",
        "<",
        ">",
    ]


@settings(max_examples=400)
@given(st.sampled_from(SHAPES), st.data())
def test_any_mixture_is_read_the_same_however_it_is_cut(shape: Shape, data: st.DataObject) -> None:
    pieces = data.draw(st.lists(st.sampled_from(tokens(shape)) | st.text(max_size=4), max_size=12))
    text = "".join(pieces)
    whole = shape.read([text])
    assert shape.read(pieces) == whole
    assert shape.read(text) == whole


@settings(max_examples=300)
@given(st.sampled_from(SHAPES), st.data())
def test_a_shape_with_a_hole_or_a_blot_is_read_the_same(shape: Shape, data: st.DataObject) -> None:
    start = data.draw(st.integers(0, len(shape.text)))
    end = data.draw(st.integers(start, min(len(shape.text), start + 12)))
    text = shape.text[:start] + data.draw(st.text(alphabet='<>{}[]"\\ \nx|', max_size=4)) + shape.text[end:]
    assert shape.read([text]) == shape.read(text)


@by_format
@settings(max_examples=25)
@given(text=st.text(alphabet=st.characters(exclude_characters="`{[<", exclude_categories=["Cs"])))
def test_plain_text_passes_as_it_is(chosen: Chosen, text: str) -> None:
    unopened = chosen.reasoning is not None and chosen.reasoning.name == "think_unopened"
    found = read(parser(chosen), text)
    trimmed = chosen.reasoning is not None and chosen.tools is None
    assert found.names == []
    if unopened:
        assert (found.content, found.reasoning) == ("", text.strip())
    elif trimmed:
        assert found.content.strip() == text.strip()
    else:
        assert found == Read(text)


def calls_made(work: Callable[[], Any]) -> int:
    """Count the calls of functions, Python's own and C's, that some work makes: a measure that no clock blurs."""
    count = 0

    def note(frame: FrameType, event: str, argument: Any) -> None:
        nonlocal count
        count += event in ("call", "c_call")

    sys.setprofile(note)
    try:
        work()
    finally:
        sys.setprofile(None)
    return count


HOSTILE = {
    "opening marks": "<tool_call>",
    "opened objects": '<tool_call>{"arguments": {"',
    "held arguments": '<tool_call>{"arguments": {"a": "',
    "names": '<tool_call>{"name": "',
    "brackets": "[",
    "braces": "{",
    "lines": "\n{",
    "white space": " \n",
    "half marks": "<tool_cal",
    "escapes": '<tool_call>{"name": "f", "arguments": {"a": "\\\\',
    "tags": "<function=f><parameter=a>",
    "heads": "<tool_call>get_weather<arg_key>city</arg_key><arg_value>",
    "deepseek": "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>f<｜tool▁sep｜>{",
    "kimi": "<|tool_calls_section_begin|><|tool_call_begin|>f<|tool_call_argument_begin|>{",
    "lists of calls": "[get_weather(city=",
    "gemma": "<|tool_call>call:f{a:[",
    "harmony": "<|channel|>analysis<|message|>",
    "harmony headers": "<|start|>assistant<|channel|>",
    "minimax": ']<]minimax[>[<tool_call>]<]minimax[>[<invoke name="f">]<]minimax[>[<a>',
}


@by_format
def test_the_work_grows_as_the_text_does(chosen: Chosen) -> None:
    """In one piece, of any kind: twice the text is at most little more than twice the work."""
    for name, unit in HOSTILE.items():
        made = []
        for size in (1 << 13, 1 << 14, 1 << 15):
            text = (unit * (size // len(unit) + 1))[:size]
            made.append(calls_made(lambda text=text: read(parser(chosen), [text])))  # type: ignore[misc]  # bound at once
        assert all(after <= 2.3 * before + 2000 for before, after in pairwise(made)), (name, made)


@pytest.mark.parametrize("name", ["hermes", "deepseek_v3"])
def test_a_megabyte_of_everything_takes_work_in_proportion(name: str) -> None:
    unit = "".join(HOSTILE.values()) + "Some words of an answer, and a line.\n" * 200
    made = []
    for size in (1 << 18, 1 << 20):
        text = (unit * (size // len(unit) + 1))[:size]
        chosen = Chosen(next(each for each in FORMATS if each.name == name), REASONING_FORMATS[0])
        made.append(calls_made(lambda text=text, chosen=chosen: read(parser(chosen), [text])))  # type: ignore[misc]
    assert made[1] <= 4.4 * made[0] + 2000


@pytest.mark.parametrize("size", [1, 64, 1 << 20])
def test_a_megabyte_of_arguments_comes_through(size: int) -> None:
    """What is kept meanwhile does not grow: a piece goes out for each that comes in."""
    value = "x" * (1 << 20 if size > 1 else 1 << 14)
    text = '<tool_call>{"name": "write_file", "arguments": {"content": "' + value + '"}}</tool_call>'
    found = Shape("", "hermes", "think", "", {}).read(text[at : at + size] for at in range(0, len(text), size))
    assert found.names == ["write_file"] and len(found.arguments[0]) == len(value) + len('{"content": ""}')


def test_what_is_held_back_is_bounded() -> None:
    """Arguments before the name, and white space, are held back only so far."""
    for start, filler in (('<tool_call>{"arguments": {"a": "', "x"), ("", " "), ('<tool_call>{"name": "', "n")):
        one = Shape("", "hermes", "think", "", {}).parser()
        out = sum(len(getattr(piece, "text", "")) for piece in one.feed("a" + start))
        for _ in range(300):
            out += sum(len(getattr(piece, "text", "")) for piece in one.feed(filler * 1000))
        assert out > 200_000


@settings(max_examples=300)
@given(st.sampled_from(SHAPES), st.data())
def test_where_no_call_is_found_the_text_is_whole(shape: Shape, data: st.DataObject) -> None:
    """Marks and all: what looked like a call and was none comes back as it was written."""
    pieces = data.draw(st.lists(st.sampled_from(tokens(shape)), max_size=10))
    text = "".join(pieces)
    if shape.chosen().tools is None or shape.tools == "harmony":
        return
    found = read(make_parser(Chosen(shape.chosen().tools), ParserContext(tools=TOOLS)), text)
    if not found.names:
        assert found.content == text
