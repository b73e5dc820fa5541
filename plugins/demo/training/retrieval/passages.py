"""Read the facts as passages to be found, with everything that asks for them or says the same."""

from __future__ import annotations

from dataclasses import dataclass, field

from facts import DATA, Fact, block_facts, expand, fill, hold_out_variants, load_lines, parse_blocks, unique

GROUPS = ("facts", "tables", "long")
MARKS = {".": "statements", ",": "held_out_statements", "?": "queries", "!": "held_out_queries"}


@dataclass
class Passage:
    """Hold one fact: its text, other statements of it, and the queries that it answers.

    `block` names the data block it comes from; facts of one block are alike and therefore hard to tell apart.
    """

    block: str
    text: str
    must_contain: str
    statements: list[str] = field(default_factory=list)
    queries: list[str] = field(default_factory=list)
    held_out_statements: list[str] = field(default_factory=list)
    held_out_queries: list[str] = field(default_factory=list)
    held_out_variants: list[str] = field(default_factory=list)


Restated = dict[str, dict[str, list[str]]]


def load_restatements() -> Restated:
    """Return the lines of restatements.txt by the template of the answer, then by kind."""
    found: Restated = {}
    current: dict[str, list[str]] = {}
    for line in (DATA / "restatements.txt").read_text(encoding="utf-8").splitlines():
        mark, value = line[:1], line[2:]
        if mark == "=":
            current = found.setdefault(value, {name: [] for name in MARKS.values()})
        elif mark in MARKS:
            current[MARKS[mark]].append(value)
    return found


def filled(patterns: list[str], cells: list[str]) -> list[str]:
    """Return the texts of patterns for one row of a table."""
    texts = (text for pattern in patterns for text in expand(fill(pattern, cells)))
    return unique(text[:1].upper() + text[1:] for text in texts)


def passage(block: str, fact: Fact, restated: dict[str, list[str]], cells: list[str]) -> Passage:
    """Join a fact and what is said of it elsewhere."""
    hold_out_variants(fact)
    more = {name: filled(patterns, cells) for name, patterns in restated.items()}
    return Passage(
        block=block,
        text=fact.answer,
        must_contain=fact.must_contain,
        statements=more.get("statements", []),
        queries=unique(fact.phrasings + more.get("queries", [])),
        held_out_statements=more.get("held_out_statements", []),
        held_out_queries=unique(fact.held_out + more.get("held_out_queries", [])),
        held_out_variants=fact.held_out_variants,
    )


def load_passages() -> list[Passage]:
    """Return all passages in a fixed order; facts with the same answer are one passage.

    Raises: ValueError: restatements.txt restates an answer that no data file has.
    """
    restated, used = load_restatements(), set()
    passages: dict[str, Passage] = {}
    for group in GROUPS:
        blocks = parse_blocks((DATA / f"{group}.txt").read_text(encoding="utf-8"))
        for number, block in enumerate(blocks):
            template = "\n".join(block.answer)
            used.add(template)
            rows = zip(block_facts(block, group), block.rows or [[]], strict=True)
            for fact, cells in rows:
                found = passage(f"{group} {number}", fact, restated.get(template, {}), cells)
                merge(passages, found)
    if unknown := set(restated) - used:
        raise ValueError(f"restatements.txt restates what is no answer: {sorted(unknown)}")
    for item in passages.values():
        drop_known(item)
    return list(passages.values())


def merge(passages: dict[str, Passage], found: Passage) -> None:
    """Add a passage, or what is new of it where its text is there already."""
    known = passages.setdefault(found.text, found)
    if known is not found:
        for name in ("statements", "queries", "held_out_statements", "held_out_queries", "held_out_variants"):
            setattr(known, name, unique(getattr(known, name) + getattr(found, name)))


def drop_known(item: Passage) -> None:
    """Keep nothing held out that training sees in other letters or with other punctuation."""
    known = {bare(text) for text in [item.text, *item.statements, *item.queries]}
    for name in ("held_out_statements", "held_out_queries", "held_out_variants"):
        setattr(item, name, [text for text in getattr(item, name) if bare(text) not in known])


def bare(text: str) -> str:
    """Return the letters and digits of a text in lower case."""
    return "".join(letter for letter in text.lower() if letter.isalnum())


def load_words() -> list[str]:
    """Return the common English words."""
    return unique(word for line in load_lines("words.txt") if not line.startswith("#") for word in line.split())
