"""GBNF, the language of llama.cpp's grammars, in llguidance's language."""

import pytest

from modelrack.llm.guided.gbnf import GbnfError
from modelrack.llm.guided.lexemes import to_lark
from modelrack.testing.grammars import GRAMMARS


def test_parts_without_recursion_are_found_as_one_piece() -> None:
    """Character by character, a large vocabulary takes a hundred times as long."""
    assert to_lark(GRAMMARS["plain"]).startswith("start: /")
    lark = to_lark(GRAMMARS["json"])
    assert r"/(?:true|false|null)" in lark and r"\x{22}" in lark


@pytest.mark.parametrize(
    "grammar",
    ["", "root", "root ::= (", 'root ::= "', "root ::= [", "root ::= []", "root ::= x", 'a ::= "b"', "root ::= <x>"],
)
def test_what_is_no_grammar_is_refused(grammar: str) -> None:
    with pytest.raises(GbnfError):
        to_lark(grammar)
