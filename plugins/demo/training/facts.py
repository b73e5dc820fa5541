"""Read the text files of the demo data into facts with their phrasings."""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

DATA = Path(__file__).parent / "data"
NUMBER_WORDS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"]
HOLD_OUT_ONE_IN = 10
HOLD_OUT_MINIMUM = 6
HEADLINE_WEIGHT = 8


@dataclass
class Fact:
    """Hold one answer with the phrasings that ask for it."""

    group: str
    answer: str
    must_contain: str
    weight: float = 1.0
    phrasings: list[str] = field(default_factory=list)
    held_out: list[str] = field(default_factory=list)
    held_out_variants: list[str] = field(default_factory=list)


@dataclass
class Unknown:
    """Hold the grammar of the questions that have no answer."""

    answer: str
    must_contain: str
    words: dict[str, list[str]]
    templates: list[str]
    held_out: list[str]


@dataclass
class Block:
    """Hold the raw lines of one block of a data file."""

    ask: list[str] = field(default_factory=list)
    held_out: list[str] = field(default_factory=list)
    answer: list[str] = field(default_factory=list)
    must_contain: str = ""
    weight: float = 1.0
    rows: list[list[str]] = field(default_factory=list)


def expand(pattern: str) -> list[str]:
    """Return every text that the alternatives in square brackets allow."""
    match = re.search(r"\[([^\[\]]*)\]", pattern)
    if match is None:
        return [tidy(pattern)]
    head, tail = pattern[: match.start()], pattern[match.end() :]
    found = [text for part in match.group(1).split("|") for text in expand(head + part + tail)]
    return list(dict.fromkeys(found))


def tidy(text: str) -> str:
    """Remove the doubled and dangling spaces that empty alternatives leave."""
    text = re.sub(r"\s+", " ", text).strip()
    return re.sub(r"\s+([?.,])(?=\s|$)", r"\1", text)


def parse_blocks(text: str) -> list[Block]:
    """Split a data file into its blocks."""
    blocks = []
    for part in re.split(r"\n\s*\n", text):
        block = Block()
        for line in part.splitlines():
            mark, value = line[:1], line[2:]
            if mark == "?":
                block.ask.append(value)
            elif mark == "!":
                block.held_out.append(value)
            elif mark == "=":
                block.answer.append(value)
            elif mark == "*":
                block.must_contain = value
            elif mark == "~":
                block.weight = float(value)
            elif mark == "|":
                block.rows.append([cell.strip() for cell in value.split("|")])
        if block.ask:
            blocks.append(block)
    return blocks


def fill(template: str, cells: list[str]) -> str:
    """Put the cells of a table row into a template."""
    for name, cell in zip("abc", cells, strict=False):
        template = template.replace("{" + name + "}", cell)
        template = template.replace("{" + name.upper() + "}", cell[:1].upper() + cell[1:])
    return template[:1].upper() + template[1:] if template[:1] == "{" else template


def block_facts(block: Block, group: str) -> list[Fact]:
    """Turn a block into one fact, or into one fact for each table row."""
    facts = []
    for cells in block.rows or [[]]:
        fact = Fact(group, capital(fill("\n".join(block.answer), cells)), fill(block.must_contain, cells), block.weight)
        fact.phrasings = unique(text for ask in block.ask for text in expand(fill(ask, cells)))
        fact.held_out = unique(text for ask in block.held_out for text in expand(fill(ask, cells)))
        facts.append(fact)
    return facts


def capital(text: str) -> str:
    """Return the text with a capital first letter unless it is a code-like word."""
    return text if text.startswith(("pong", "modelrack")) else text[:1].upper() + text[1:]


def unique(texts: Iterable[str]) -> list[str]:
    """Return the texts without repetitions, in order."""
    return list(dict.fromkeys(texts))


def hold_out_variants(fact: Fact) -> None:
    """Move about one in ten phrasings, never the first, to the held-out variants."""
    if len(fact.phrasings) < HOLD_OUT_MINIMUM or fact.weight >= HEADLINE_WEIGHT:
        return
    chosen = [text for text in fact.phrasings[1:] if zlib.crc32(text.encode()) % HOLD_OUT_ONE_IN == 0]
    fact.held_out_variants = chosen
    fact.phrasings = [text for text in fact.phrasings if text not in chosen]


def sum_fact(left: int, right: int, result: int, sign: str, word: str) -> Fact:
    """Return the fact of one small calculation."""
    fact = Fact("sums", f"{left} {word} {right} is {result}.", f"is {result}")
    symbols, words = f"{left} {sign} {right}", f"{left} {word} {right}"
    spelled = f"{NUMBER_WORDS[left]} {word} {NUMBER_WORDS[right]}"
    tight = f"{left}{sign}{right}"
    fact.phrasings = [f"What is {symbols}?", f"What is {tight}?", tight, f"{tight}=", f"{symbols} =", symbols + "?"]
    fact.phrasings += [f"What is {words}?", f"How much is {words}?", f"How much is {symbols}?", words]
    fact.phrasings += [f"What is {spelled}?", f"How much is {spelled}?", f"Calculate {symbols}", f"Calculate {tight}."]
    fact.phrasings += [
        f"Compute {symbols}",
        f"Compute {words}.",
        f"Work out {symbols}.",
        f"Solve {symbols}",
        f"Calculate {words}.",
    ]
    fact.phrasings += [f"Tell me what {words} is.", f"What is the result of {symbols}?", f"What does {symbols} make?"]
    fact.held_out = [f"What is the value of {symbols}?", f"How many is {words}?"]
    return fact


def sums() -> list[Fact]:
    """Return the facts of adding, subtracting and multiplying small numbers."""
    facts = [sum_fact(a, b, a + b, "+", "plus") for a in range(11) for b in range(11)]
    facts += [sum_fact(a, b, a - b, "-", "minus") for a in range(1, 11) for b in range(1, a + 1)]
    facts += [sum_fact(a, b, a * b, "*", "times") for a in range(1, 11) for b in range(1, 11)]
    return facts


def load_facts() -> list[Fact]:
    """Return all facts of the data files, in a fixed order."""
    facts = []
    for group in ("facts", "tables", "smalltalk", "long"):
        text = (DATA / f"{group}.txt").read_text(encoding="utf-8")
        for block in parse_blocks(text):
            facts += block_facts(block, group)
    facts += sums()
    for fact in facts:
        hold_out_variants(fact)
    return facts


def load_unknown() -> Unknown:
    """Return the grammar of the questions without an answer."""
    unknown = Unknown("", "", {}, [], [])
    for line in (DATA / "unknown.txt").read_text(encoding="utf-8").splitlines():
        mark, value = line[:1], line[2:]
        if mark == "@":
            name, values = line[1:].split("=", 1)
            unknown.words[name.strip()] = [word.strip() for word in values.split(" | ")]
        elif mark == "?":
            unknown.templates += expand(value)
        elif mark == "!":
            unknown.held_out.append(value)
        elif mark == "=":
            unknown.answer = value
        elif mark == "*":
            unknown.must_contain = value
    return unknown


def load_lines(name: str, mark: str = "") -> list[str]:
    """Return the lines of a data file that start with a mark, without it."""
    lines = (DATA / name).read_text(encoding="utf-8").splitlines()
    if mark:
        return [line[2:] for line in lines if line.startswith(mark + " ")]
    return [line for line in lines if line.strip()]
