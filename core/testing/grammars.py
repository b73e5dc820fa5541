"""Grammars in GBNF, llama.cpp's language, by what is special about them."""

__all__ = ["GRAMMARS"]

_JSON = r"""
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

GRAMMARS: dict[str, str] = {
    "json": _JSON,
    "plain": 'root ::= "yes" | "no" | "maybe" [0-9]{1,3}',
    "no border between letters and a word": 'root ::= "(" root ")" | [a-z]+ "end" root | "."',
    "a word that begins like another": 'root ::= ("ab" | "abc" | "a") root | "c"',
    "right": 'root ::= "a" root "a"? | "b"',
    "empty": 'root ::= "" | "(" (a | b)* root ")"\na ::= ""\nb ::= "x"?',
    "spaces that may be either's": 'root ::= "[" ws root ws "]" | ws "z" ws\nws ::= [ ]{0,3}',
    "letters": 'root ::= [^a-y\\n] root | [-\\]^] "\\x41\\u00e4\\U0001F600" | .',
    "names": 'root ::= Foo-Bar fooBar foo-bar\nFoo-Bar ::= "1" | "(" Foo-Bar ")"\nfooBar ::= "2"\nfoo-bar ::= "3"?',
    "comments": '# first\nroot ::= # second\n  "a" ( # third\n  "b"\n\n | root ) "c" # last\n\n',
    "numbers": 'root ::= num (op num)*\nnum ::= [0-9]+ | "(" root ")"\nop ::= [+*] | "**"',
}
