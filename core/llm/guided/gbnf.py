"""Read GBNF, the language of llama.cpp's grammars."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeAlias

__all__ = [
    "Choice",
    "GbnfError",
    "Letters",
    "Node",
    "Repeat",
    "Rule",
    "Sequence",
    "Text",
    "parts",
    "read",
    "references",
]

_MOST_LEVELS = 100
_MOST_REPEATS = 2000
_MOST_RULES = 500

_NAME = re.compile(r"[a-zA-Z0-9_-]+")
_SPACE = re.compile(r"(?:[ \t]|#[^\r\n]*)*")
_SPACE_OR_LINES = re.compile(r"(?:[ \t\r\n]|#[^\r\n]*)*")
_COUNT = re.compile(r"\{\s*(\d{1,9})?\s*(,)?\s*(\d{1,9})?\s*\}")
_HEX = {"x": 2, "u": 4, "U": 8}
_ESCAPES = {"n": "\n", "r": "\r", "t": "\t", "\\": "\\", '"': '"', "[": "[", "]": "]", "-": "-", "^": "^"}
_LAST = "\U0010ffff"


class GbnfError(ValueError):
    """A grammar is malformed, or asks for what cannot be honoured."""


@dataclass(frozen=True, slots=True)
class Text:
    """A text as it is."""

    text: str


@dataclass(frozen=True, slots=True)
class Letters:
    """One character of some ranges, which are in order and apart."""

    ranges: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Rule:
    """What a rule describes."""

    name: str


@dataclass(frozen=True, slots=True)
class Sequence:
    """One after another."""

    items: "tuple[Node, ...]"


@dataclass(frozen=True, slots=True)
class Choice:
    """One of several."""

    items: "tuple[Node, ...]"


@dataclass(frozen=True, slots=True)
class Repeat:
    """The same again and again; `most` None is without an end."""

    item: "Node"
    least: int
    most: int | None


Node: TypeAlias = Text | Letters | Rule | Sequence | Choice | Repeat


def read(text: str) -> dict[str, Node]:
    """Return the rules of a grammar by their names; `root` is among them, and all that they refer to.

    Raises: GbnfError.
    """
    rules = _Reader(text).rules()
    if "root" not in rules:
        raise GbnfError("the rule 'root' is missing")
    for name, node in rules.items():
        for other in references(node):
            if other not in rules:
                raise GbnfError(f"the rule '{name}' refers to '{other}', which is missing")
    return rules


def parts(node: Node) -> Iterator[Node]:
    """Return a node and all within it."""
    waiting = [node]
    while waiting:
        one = waiting.pop()
        yield one
        if isinstance(one, Sequence | Choice):
            waiting.extend(one.items)
        elif isinstance(one, Repeat):
            waiting.append(one.item)


def references(node: Node) -> set[str]:
    """Return the rules that a node refers to by itself."""
    return {part.name for part in parts(node) if isinstance(part, Rule)}


def _letters(ranges: list[tuple[str, str]], negated: bool) -> Letters:
    merged: list[tuple[str, str]] = []
    for first, last in sorted(ranges):
        if merged and ord(first) <= ord(merged[-1][1]) + 1:
            merged[-1] = (merged[-1][0], max(last, merged[-1][1]))
        else:
            merged.append((first, last))
    if not negated:
        return Letters(tuple(merged))
    others: list[tuple[str, str]] = []
    begin = 0
    for first, last in merged:
        end = ord(first) - 1
        if end >= begin:
            others.append((chr(begin), chr(0xD7FF if 0xD800 <= end < 0xE000 else end)))
        begin = ord(last) + 1
        begin = 0xE000 if 0xD800 <= begin < 0xE000 else begin
    if begin <= ord(_LAST):
        others.append((chr(begin), _LAST))
    if not others:
        raise GbnfError("a class of characters is empty")
    return Letters(tuple(others))


class _Reader:
    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0
        self._level = 0

    def rules(self) -> dict[str, Node]:
        """Return the rules by their names."""
        rules: dict[str, Node] = {}
        self._skip(_SPACE_OR_LINES)
        while self._at < len(self._text):
            name = self._name()
            self._skip(_SPACE)
            if not self._text.startswith("::=", self._at):
                raise self._error("'::=' is missing")
            self._at += 3
            self._skip(_SPACE_OR_LINES)
            rules[name] = self._choice()
            self._skip(_SPACE)
            if self._at < len(self._text) and self._text[self._at] not in "\r\n":
                raise self._error("the rule should end here")
            self._skip(_SPACE_OR_LINES)
            if len(rules) > _MOST_RULES:
                raise GbnfError(f"it has more than {_MOST_RULES} rules")
        return rules

    def _error(self, message: str) -> GbnfError:
        line = self._text.count("\n", 0, self._at) + 1
        here = self._text[self._at : self._at + 20].partition("\n")[0]
        return GbnfError(f"{message}, in line {line} at {here!r}" if here else f"{message}, in line {line}")

    def _skip(self, pattern: re.Pattern[str]) -> None:
        found = pattern.match(self._text, self._at)
        if found is not None:
            self._at = found.end()

    def _space(self) -> None:
        """Skip what separates: new lines too, but not between rules."""
        self._skip(_SPACE_OR_LINES if self._level else _SPACE)

    def _name(self) -> str:
        found = _NAME.match(self._text, self._at)
        if found is None:
            raise self._error("the name of a rule is missing")
        self._at = found.end()
        return found[0]

    def _choice(self) -> Node:
        items = [self._sequence()]
        while self._text.startswith("|", self._at):
            self._at += 1
            self._skip(_SPACE_OR_LINES)
            items.append(self._sequence())
        return items[0] if len(items) == 1 else Choice(tuple(items))

    def _sequence(self) -> Node:
        items: list[Node] = []
        while True:
            self._space()
            item = self._item()
            if item is None:
                return items[0] if len(items) == 1 else Sequence(tuple(items))
            items.append(self._repeat(item))

    def _item(self) -> Node | None:
        char = self._text[self._at : self._at + 1]
        if char == '"':
            return self._literal()
        if char == "[":
            return self._class()
        if char == "(":
            return self._group()
        if char == ".":
            self._at += 1
            return _letters([], True)
        if char in ("<", "!"):
            raise self._error("tokens by name or number are not supported")
        if _NAME.match(char):
            return Rule(self._name())
        return None

    def _group(self) -> Node:
        self._at += 1
        self._level += 1
        if self._level > _MOST_LEVELS:
            raise GbnfError(f"it has parentheses within parentheses, more than {_MOST_LEVELS} levels of them")
        self._skip(_SPACE_OR_LINES)
        node = self._choice()
        self._skip(_SPACE_OR_LINES)
        if not self._text.startswith(")", self._at):
            raise self._error("')' is missing")
        self._at += 1
        self._level -= 1
        return node

    def _literal(self) -> Node:
        self._at += 1
        chars: list[str] = []
        while not self._text.startswith('"', self._at):
            chars.append(self._char())
        self._at += 1
        return Text("".join(chars))

    def _class(self) -> Node:
        self._at += 1
        negated = self._text.startswith("^", self._at)
        self._at += negated
        ranges: list[tuple[str, str]] = []
        while not self._text.startswith("]", self._at):
            first = last = self._char()
            if self._text.startswith("-", self._at) and not self._text.startswith("-]", self._at):
                self._at += 1
                last = self._char()
                if last < first:
                    raise self._error("a range ends before it begins")
            ranges.append((first, last))
        self._at += 1
        if not ranges and not negated:
            raise self._error("a class of characters is empty")
        return _letters(ranges, negated)

    def _char(self) -> str:
        char = self._text[self._at : self._at + 1]
        if not char:
            raise self._error("it ends in the middle")
        self._at += 1
        if char != "\\":
            return char
        kind = self._text[self._at : self._at + 1]
        self._at += 1
        if kind in _ESCAPES and kind:
            return _ESCAPES[kind]
        digits = self._text[self._at : self._at + _HEX.get(kind, 0)]
        if not digits or len(digits) != _HEX[kind] or not re.fullmatch("[0-9a-fA-F]+", digits):
            self._at -= 2
            raise self._error("there is no such escape")
        self._at += len(digits)
        code = int(digits, 16)
        if code > 0x10FFFF or 0xD800 <= code < 0xE000:
            raise self._error("there is no such character")
        return chr(code)

    def _repeat(self, item: Node) -> Node:
        while True:
            self._space()
            char = self._text[self._at : self._at + 1]
            if char and char in "*+?":
                self._at += 1
                item = Repeat(item, int(char == "+"), 1 if char == "?" else None)
                continue
            if char != "{":
                return item
            found = _COUNT.match(self._text, self._at)
            if found is None or (found[1] is None and found[3] is None):
                raise self._error("there is no such count")
            least = int(found[1] or 0)
            most = None if found[2] and found[3] is None else int(found[3] or least)
            if most is not None and most < least:
                raise self._error("a count ends before it begins")
            if max(least, most or 0) > _MOST_REPEATS:
                raise self._error(f"a count is greater than {_MOST_REPEATS}")
            self._at = found.end()
            item = Repeat(item, least, most)
