"""Recorded answers of many families, whole, cut at every byte, and cut off at every character."""

import pytest

from llm.formats.shapes import SHAPES, Read, Shape, cuts, read
from modelrack.llm.formats.base import ParserContext
from modelrack.llm.formats.choice import make_parser
from modelrack.llm.formats.registered import FORMATS

MARKED = "Ψαρίσ"
"""Letters that stand nowhere else in the shapes."""

by_name = pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: shape.name)

city = pytest.mark.parametrize(
    "shape", [shape for shape in SHAPES if "Paris" in str(shape.expected["calls"])], ids=lambda shape: shape.name
)


def test_every_format_is_recorded() -> None:
    covered = {each.name for shape in SHAPES for each in (shape.chosen().tools, shape.chosen().reasoning) if each}
    by_marks = {"think_gemma", "think_minimax"}  # these shapes take the same marks from the family
    assert {each.name for each in FORMATS} - covered == by_marks
    assert len(SHAPES) >= 40 and len({shape.name for shape in SHAPES}) == len(SHAPES)


@by_name
def test_it_is_read_as_expected(shape: Shape) -> None:
    assert shape.read([shape.text]).values() == shape.expected


@by_name
def test_it_is_the_same_however_it_is_cut(shape: Shape) -> None:
    whole = shape.read([shape.text])
    assert shape.read(shape.text) == whole
    for pieces in cuts(shape.text):
        assert shape.read(pieces) == whole, pieces


@by_name
def test_without_tools_no_calls_are_looked_for(shape: Shape) -> None:
    shape = shape.with_value(MARKED)
    found = read(make_parser(shape.chosen(), ParserContext(prompt=shape.prompt)), [shape.text])
    assert found.names == []
    assert (found.content + found.reasoning).count(MARKED) == shape.text.count(MARKED)


@by_name
def test_cut_off_anywhere_it_loses_nothing(shape: Shape) -> None:
    """An answer may end at any character: a call stays one if its name was complete, and what was written comes out."""
    shape = shape.with_value(MARKED)
    names = [call["name"] for call in shape.expected["calls"]]
    for end in range(len(shape.text) + 1):
        text = shape.text[:end]
        found = shape.read([text])
        assert found.names == names[: len(found.names)]
        out = found.content + found.reasoning + "".join(found.arguments)
        assert [out.count(letter) for letter in MARKED] == [text.count(letter) for letter in MARKED], text


@city
def test_arguments_stream_as_they_arrive(shape: Shape) -> None:
    """Of a long value, what has been written has come out, but for what may still become a mark."""
    shape, found = shape.with_value("Ψ" * 500), Read()
    parser, given = shape.parser(), 0
    for character in shape.text:
        given += character == "Ψ"
        for piece in parser.feed(character):
            found.add(piece)
        if character == "Ψ":
            assert sum(text.count("Ψ") for text in found.arguments) == given


@city
def test_a_call_that_is_no_call_is_content(shape: Shape) -> None:
    """Malformed at its name, it comes back as it was written, marks and all."""
    names = sorted({call["name"] for call in shape.expected["calls"]})
    text = shape.text
    for name in names:
        text = text.replace(name, " \x00<> ")
    found = shape.read([text])
    assert found.names == []
    assert found.content.count("Paris") == text.count("Paris")
    assert shape.read(text) == found
