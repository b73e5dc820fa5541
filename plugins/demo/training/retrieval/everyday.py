"""Draw sentences of every day, several that say the same, from the grammar in everyday.txt."""

from __future__ import annotations

import random
import re
from dataclasses import dataclass

from facts import DATA

Meaning = dict[str, list[str]]


@dataclass
class Kind:
    """Hold the ways to say one kind of sentence, and to ask for it."""

    statements: list[str]
    questions: list[str]
    slots: list[str]


class Everyday:
    """Draw meanings, and texts that have them."""

    def __init__(self, source: random.Random) -> None:
        """Read the grammar."""
        self.random = source
        self.lists: dict[str, list[list[str]]] = {}
        self.kinds: list[Kind] = []
        for part in re.split(r"\n\s*\n", (DATA / "everyday.txt").read_text(encoding="utf-8")):
            lines = [line for line in part.splitlines() if line and not line.startswith("#")]
            words = [line for line in lines if line.startswith("@")]
            for line in words:
                name, values = line[1:].split(" = ", 1)
                self.lists[name] = [value.strip().split("/") for value in values.split(" | ")]
            if len(words) < len(lines):
                self.kinds.append(kind([line for line in lines if not line.startswith("@")]))

    def meaning(self, sort: Kind, like: Meaning | None = None) -> Meaning:
        """Draw what is said: for each slot a set of synonyms; one like another differs from it in one slot only."""
        if like is None:
            return {slot: self.random.choice(self.lists[slot]) for slot in sort.slots}
        slot = self.random.choice(sort.slots)
        others = [words for words in self.lists[slot] if words != like[slot]]
        return like | {slot: self.random.choice(others)}

    def text(self, template: str, meaning: Meaning) -> str:
        """Say it with one template, each slot by one of its synonyms."""

        def word(match: re.Match[str]) -> str:
            name = match.group(1)
            text = self.random.choice(meaning[name.lower()])
            return text[:1].upper() + text[1:] if name[0].isupper() else text

        text = re.sub(r"\{(\w+)\}", word, template)
        return text[:1].upper() + text[1:]

    def pair(self, sort: Kind, meaning: Meaning) -> tuple[str, str]:
        """Say the same in two ways."""
        first, second = self.random.sample(sort.statements, 2)
        return self.text(first, meaning), self.text(second, meaning)

    def question(self, sort: Kind, meaning: Meaning) -> tuple[str, str]:
        """Ask, and answer."""
        asked, said = self.random.choice(sort.questions), self.random.choice(sort.statements)
        return self.text(asked, meaning), self.text(said, meaning)

    def sentence(self) -> tuple[str, str]:
        """Draw any sentence, said in two ways."""
        sort = self.random.choice(self.kinds)
        return self.pair(sort, self.meaning(sort))


def kind(lines: list[str]) -> Kind:
    """Read one block of templates."""
    statements = [line for line in lines if not line.startswith("? ")]
    slots = sorted({name.lower() for line in statements for name in re.findall(r"\{(\w+)\}", line)})
    return Kind(statements, [line[2:] for line in lines if line.startswith("? ")], slots)
