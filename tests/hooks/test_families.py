"""Families that plugins keep as lines of JSON."""

from pathlib import Path

import pytest

from modelrack.hooks import Family, Source, Variant, read_families

LINE = (
    '{"name": "a", "abilities": ["embed"], "languages": ["en"], "facts": {"sizes": [1, 2]}, '
    '"reasoning_tags": ["<", ">"], '
    '"variants": [{"format": "gguf", "size_b": 0.5, "sources": [{"hub": "h", "repo": "r", "quantizations": ["Q4"], '
    '"parts": {"Q4": ["1", "2"], "Q8": 3}}]}]}'
)


def write(folder: Path, text: str) -> Path:
    path = folder / "families.jsonl"
    path.write_text(text)
    return path


def test_each_line_is_a_family(tmp_path: Path) -> None:
    found = read_families(write(tmp_path, f'{LINE}\n\n{{"name": "b"}}\n'), "embedding")
    source = Source(hub="h", repo="r", quantizations=("Q4",), parts={"Q4": ("1", "2"), "Q8": 3})
    assert found == [
        Family(
            name="a",
            model_type="embedding",
            abilities=("embed",),
            languages=("en",),
            facts={"sizes": [1, 2]},
            reasoning_tags=("<", ">"),
            variants=(Variant(format="gguf", size_b=0.5, sources=(source,)),),
        ),
        Family(name="b", model_type="embedding"),
    ]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("{", "line 2: "),
        ("[]", "line 2: an object is needed for a family"),
        ("{}", "line 2: .*name"),
        ('{"name": "b", "colour": 1}', "line 2: a family has no 'colour'"),
        ('{"name": "b", "variants": [{"format": "x", "size": 1}]}', "line 2: a variant has no 'size'"),
        ('{"name": "b", "variants": [{"format": "x", "sources": ["r"]}]}', "line 2: an object is needed for a source"),
    ],
)
def test_a_line_that_is_none_is_told(tmp_path: Path, line: str, reason: str) -> None:
    with pytest.raises(ValueError, match=rf"families\.jsonl, {reason}"):
        read_families(write(tmp_path, f"{LINE}\n{line}\n"), "embedding")
