"""Write the rules of a GBNF grammar in llguidance's language, with lexemes as long as can be.

GBNF describes texts character by character. llguidance cuts a text into lexemes first, each as long as it can be made:
the lexemes `[a-z]+` and `end` would never find the end of "fooend". So a grammar without recursion becomes one regular
expression. In any other, what is without recursion becomes a lexeme wherever the longest one is always the right one:
when no character that may follow a lexeme could also go on with it, or with another lexeme that began like it. What
does not hold that is cut into smaller pieces, down to characters, which are always right, but slow.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, TypeAlias

from .gbnf import Choice, GbnfError, Letters, Node, Repeat, Rule, Sequence, Text, read, references

__all__ = ["to_lark"]

_MOST_PATTERN = 32 * 1024
_MOST_PLACES = 2000

Ranges: TypeAlias = tuple[tuple[str, str], ...]


def to_lark(text: str) -> str:
    """Return a GBNF grammar as one of llguidance that describes the same texts.

    Raises: GbnfError.
    """
    rules = read(text)
    plain = _Plain(rules)
    whole = plain.pattern(Rule("root"))
    if whole is not None:
        return f"start: /{whole}/"
    return _Cut(rules, plain).write()


class _Plain:
    """Knows which parts of a grammar are without recursion, and writes them as regular expressions."""

    def __init__(self, rules: dict[str, Node]) -> None:
        self._rules = rules
        needs = {name: references(node) for name, node in rules.items()}
        self._patterns: dict[str, str | None] = dict.fromkeys(rules)
        users: dict[str, list[str]] = {name: [] for name in rules}
        for name, needed in needs.items():
            for one in needed:
                users[one].append(name)
        ready = [name for name, needed in needs.items() if not needed]
        while ready:
            name = ready.pop()
            self._patterns[name] = self.pattern(rules[name])
            for user in users[name]:
                needs[user].discard(name)
                if not needs[user]:
                    ready.append(user)

    def pattern(self, node: Node) -> str | None:
        """Return a node as a regular expression; None if it needs itself, or that were too long."""
        match node:
            case Text(text):
                result: str | None = "".join(map(_escape, text))
            case Letters(ranges):
                result = _letters_pattern(ranges)
            case Rule(name):
                return self._patterns[name]
            case Repeat(item, least, most):
                inner = self.pattern(item)
                result = None if inner is None else f"(?:{inner}){_count(least, most)}"
            case Sequence(items) | Choice(items):
                inner_all = [self.pattern(item) for item in items]
                known = [one for one in inner_all if one is not None]
                if len(known) < len(items):
                    return None
                result = "".join(known) if isinstance(node, Sequence) else f"(?:{'|'.join(known)})"
        return result if result is not None and len(result) <= _MOST_PATTERN else None

    def resolve(self, node: Node) -> Node:
        """Return what a rule stands for; another node as it is."""
        while isinstance(node, Rule):
            node = self._rules[node.name]
        return node


@dataclass(slots=True)
class _Places:
    """The places of a regular expression where a character stands, and what can follow what (Glushkov).

    Counts are taken for any number: that is more than the expression allows, which can only make a cut too careful.
    """

    letters: list[Ranges] = field(default_factory=list)
    follow: list[set[int]] = field(default_factory=list)
    first: set[int] = field(default_factory=set)
    last: set[int] = field(default_factory=set)
    can_be_empty: bool = True


class _PlaceWriter:
    def __init__(self, plain: _Plain) -> None:
        self._plain = plain
        self._letters: list[Ranges] = []
        self._follow: list[set[int]] = []

    def write(self, node: Node) -> _Places:
        """Return the places of a node without recursion.

        Raises: GbnfError: there are too many.
        """
        first, last, empty = self._write(node)
        return _Places(self._letters, self._follow, first, last, empty)

    def _write(self, node: Node) -> tuple[set[int], set[int], bool]:
        node = self._plain.resolve(node)
        match node:
            case Text(text):
                return self._chain([self._place(((char, char),)) for char in text])
            case Letters(ranges):
                return self._place(ranges)
            case Sequence(items):
                return self._chain([self._write(item) for item in items])
            case Choice(items):
                written = [self._write(item) for item in items]
                return (
                    set().union(*(one[0] for one in written)),
                    set().union(*(one[1] for one in written)),
                    any(one[2] for one in written),
                )
            case Repeat(item, least, most):
                first, last, empty = self._write(item)
                if most != 1:
                    self._join(last, first)
                return first, last, empty or least == 0
        raise AssertionError(node)

    def _place(self, ranges: Ranges) -> tuple[set[int], set[int], bool]:
        place = len(self._letters)
        if place >= _MOST_PLACES:
            raise GbnfError("it is too large")
        self._letters.append(ranges)
        self._follow.append(set())
        return {place}, {place}, False

    def _chain(self, items: list[tuple[set[int], set[int], bool]]) -> tuple[set[int], set[int], bool]:
        first: set[int] = set()
        last: set[int] = set()
        empty = True
        for one_first, one_last, one_empty in items:
            self._join(last, one_first)
            first = first | one_first if empty else first
            last = last | one_last if one_empty else one_last
            empty = empty and one_empty
        return first, last, empty

    def _join(self, before: Iterable[int], after: set[int]) -> None:
        for place in before:
            self._follow[place] |= after


@dataclass(frozen=True, slots=True)
class _Lexeme:
    """A part of the grammar that llguidance is to find as one piece.

    Args:
        pattern: a regular expression.
    """

    pattern: str


class _Cut:
    """Decides which parts of a grammar with recursion are lexemes."""

    def __init__(self, rules: dict[str, Node], plain: _Plain) -> None:
        self._rules = rules
        self._plain = plain
        self._places: dict[str, _Places] = {}
        self._apart: set[str] = set()

    def write(self) -> str:
        """Return the grammar in llguidance's language."""
        while True:
            outlines = self._outlines()
            wrong = self._wrong(_Followers(outlines, self._places).find())
            if not wrong:
                return _write(outlines, self._places)
            self._apart |= wrong

    def _outlines(self) -> dict[str, Any]:
        """Return the rules that are needed, with lexemes for their parts."""
        outlines: dict[str, Any] = {}
        waiting = ["root"]
        while waiting:
            name = waiting.pop()
            if name not in outlines:
                outlines[name] = self._outline(self._rules[name])
                waiting.extend(references(outlines[name]))
        return outlines

    def _outline(self, node: Node) -> Any:
        pattern = self._plain.pattern(node)
        if pattern is not None and pattern not in self._apart and self._know(pattern, node):
            return _Lexeme(pattern)
        match node:
            case Text(text):
                return Sequence(tuple(self._outline(Letters(((char, char),))) for char in text))
            case Rule():
                return node if pattern is None else self._outline(self._plain.resolve(node))
            case Repeat(item, least, most):
                return Repeat(self._outline(item), least, most)
            case Sequence(items):
                return Sequence(tuple(self._outline(item) for item in items))
            case Choice(items):
                return Choice(tuple(self._outline(item) for item in items))
        raise AssertionError(node)

    def _know(self, pattern: str, node: Node) -> bool:
        """Return whether a node can be a lexeme, and keep its places."""
        if not pattern:
            return False
        if pattern not in self._places:
            try:
                self._places[pattern] = _PlaceWriter(self._plain).write(node)
            except GbnfError:
                self._apart.add(pattern)
                return False
        return True

    def _wrong(self, followers: dict[str, set[str]]) -> set[str]:
        """Return the lexemes that could go on where another one, or they themselves, may have to end."""
        wrong: set[str] = set()
        for pattern, after in followers.items():
            one = self._places[pattern]
            next_letters = _union(
                self._places[follower].letters[place] for follower in after for place in self._places[follower].first
            )
            for name in followers:
                other = self._places[name]
                if name not in wrong and any(other.follow) and _collides(one, other, next_letters):
                    wrong.add(name)
        return wrong


def _collides(one: _Places, other: _Places, after: Ranges) -> bool:
    """Return whether `other` can go on, with one of the letters `after`, where `one` can end."""
    seen: set[tuple[int, int]] = set()
    waiting = [(here, there) for here in one.first for there in other.first]
    while waiting:
        pair = waiting.pop()
        here, there = pair
        if pair in seen or not _meet(one.letters[here], other.letters[there]):
            continue
        seen.add(pair)
        if here in one.last and any(_meet(other.letters[place], after) for place in other.follow[there]):
            return True
        waiting.extend((a, b) for a in one.follow[here] for b in other.follow[there])
    return False


@lru_cache(4096)
def _meet(one: Ranges, other: Ranges) -> bool:
    """Return whether two sets of letters have one in common."""
    return any(a <= d and c <= b for a, b in one for c, d in other)


def _union(sets: Iterable[Ranges]) -> Ranges:
    return tuple(sorted({one for ranges in sets for one in ranges}))


class _Followers:
    """Finds which lexemes may follow each lexeme."""

    def __init__(self, outlines: dict[str, Any], places: dict[str, _Places]) -> None:
        self._outlines = outlines
        self._places = places
        self._first: dict[str, set[str]] = {name: set() for name in outlines}
        self._can_be_empty = dict.fromkeys(outlines, False)
        self._after_rule: dict[str, set[str]] = {name: set() for name in outlines}
        self._after: dict[str, set[str]] = {}

    def find(self) -> dict[str, set[str]]:
        """Return for each lexeme those that may come next."""
        while self._find_firsts():
            pass
        while self._find_after():
            pass
        return self._after

    def _find_firsts(self) -> bool:
        changed = False
        for name, outline in self._outlines.items():
            first, empty = self._begin(outline)
            if first - self._first[name] or empty != self._can_be_empty[name]:
                self._first[name] |= first
                self._can_be_empty[name] = empty
                changed = True
        return changed

    def _begin(self, node: Any) -> tuple[set[str], bool]:
        """Return the lexemes that a node can begin with, and whether it can be empty."""
        match node:
            case _Lexeme(pattern):
                return {pattern}, self._places[pattern].can_be_empty
            case Rule(name):
                return self._first[name], self._can_be_empty[name]
            case Repeat(item, least, _):
                first, empty = self._begin(item)
                return first, empty or least == 0
            case Sequence(items):
                return self._begin_of_all(items)
            case Choice(items):
                begins = [self._begin(item) for item in items]
                return set().union(*(one[0] for one in begins)), any(one[1] for one in begins)
        raise AssertionError(node)

    def _begin_of_all(self, items: tuple[Any, ...]) -> tuple[set[str], bool]:
        result: set[str] = set()
        for item in items:
            first, empty = self._begin(item)
            result = result | first
            if not empty:
                return result, False
        return result, True

    def _find_after(self) -> bool:
        before = self._size()
        for name, outline in self._outlines.items():
            self._pass_on(outline, self._after_rule[name])
        return self._size() != before

    def _size(self) -> int:
        return sum(map(len, self._after.values())) + sum(map(len, self._after_rule.values())) + len(self._after)

    def _pass_on(self, node: Any, after: set[str]) -> None:
        match node:
            case _Lexeme(pattern):
                self._after.setdefault(pattern, set()).update(after)
            case Rule(name):
                self._after_rule[name] |= after
            case Repeat(item, _, most):
                self._pass_on(item, after if most == 1 else after | self._begin(item)[0])
            case Choice(items):
                for item in items:
                    self._pass_on(item, after)
            case Sequence(items):
                for item in reversed(items):
                    self._pass_on(item, after)
                    first, empty = self._begin(item)
                    after = after | first if empty else first


def _write(outlines: dict[str, Any], places: dict[str, _Places]) -> str:
    """Return rules in llguidance's language."""
    names = {name: f"r{number}" for number, name in enumerate(outlines)}
    lexemes: dict[str, str] = {}

    def write(node: Any) -> str:
        match node:
            case _Lexeme(pattern):
                name = lexemes.setdefault(pattern, f"L{len(lexemes)}")
                return f"{name}?" if places[pattern].can_be_empty else name
            case Rule(name):
                return names[name]
            case Repeat(item, least, most):
                return f"({write(item)}){_MARKS.get((least, most), _count(least, most))}"
            case Choice(items):
                return f"({' | '.join(map(write, items))})"
            case Sequence(items):
                return " ".join(map(write, items)) or '""'
        raise AssertionError(node)

    lines = [f"start: {names['root']}", *(f"{names[name]}: {write(outline)}" for name, outline in outlines.items())]
    for pattern, name in lexemes.items():
        # A lexeme that is empty is none.
        lines.append(f"{name}: /{pattern}/" + (" & /(?s:.)+/" if places[pattern].can_be_empty else ""))
    return "\n".join(lines)


_MARKS = {(0, None): "*", (1, None): "+", (0, 1): "?"}


def _count(least: int, most: int | None) -> str:
    return f"{{{least},{'' if most is None else most}}}"


def _escape(char: str) -> str:
    return char if char.isalnum() and char.isascii() else f"\\x{{{ord(char):x}}}"


def _letters_pattern(ranges: Ranges) -> str:
    inner = "".join(_escape(first) + ("" if first == last else f"-{_escape(last)}") for first, last in ranges)
    return f"[{inner}]"
