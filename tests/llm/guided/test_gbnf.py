"""GBNF, the language of llama.cpp's grammars, in llguidance's language."""

import pytest

from modelrack.llm.guided.gbnf import GbnfError
from modelrack.llm.guided.lexemes import to_lark

JSON = r"""
root   ::= object
value  ::= object | array | string | number | ("true" | "false" | "null") ws
object ::=
  "{" ws (
            string ":" ws value
    ("," ws string ":" ws value)*
  )? "}" ws
array  ::=
  "[" ws (
            value
    ("," ws value)*
  )? "]" ws
string ::=
  "\"" (
    [^"\\\x7F\x00-\x1F] |
    "\\" (["\\bfnrt] | "u" [0-9a-fA-F]{4}) # escapes
  )* "\"" ws
number ::= ("-"? ([0-9] | [1-9] [0-9]{0,15})) ("." [0-9]+)? ([eE] [-+]? [0-9] [1-9]{0,15})? ws
ws ::= | " " | "\n" [ \t]{0,20}
"""
PLAIN = 'root ::= "yes" | "no" | "maybe" [0-9]{1,3}'


def test_parts_without_recursion_are_found_as_one_piece() -> None:
    """Character by character, a large vocabulary takes a hundred times as long."""
    assert to_lark(PLAIN).startswith("start: /")
    lark = to_lark(JSON)
    assert r"/(?:true|false|null)" in lark and r"\x{22}" in lark


@pytest.mark.parametrize(
    "grammar",
    ["", "root", "root ::= (", 'root ::= "', "root ::= [", "root ::= []", "root ::= x", 'a ::= "b"', "root ::= <x>"],
)
def test_what_is_no_grammar_is_refused(grammar: str) -> None:
    with pytest.raises(GbnfError):
        to_lark(grammar)
