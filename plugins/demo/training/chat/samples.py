"""Draw training samples: chats and plain texts with a loss weight for each part."""

from __future__ import annotations

import random
import re

from facts import Fact, Unknown, load_facts, load_lines, load_unknown
from phrasing import plain, vary

IM_START, IM_END, END_OF_TEXT = "<|im_start|>", "<|im_end|>", "<|endoftext|>"
QUESTION_WEIGHT = 0.1
QUESTION_SHARE = 0.25
GROUP_SHARES = {"facts": 0.32, "tables": 0.31, "sums": 0.09, "smalltalk": 0.11, "long": 0.05, "unknown": 0.14}
WRAPPED_GROUPS = {"facts", "tables", "sums", "unknown"}
CONSONANTS, VOWELS = "bcdfghjklmnprstvwz", "aeiou"
ENDINGS = ["n", "r", "s", "t", "x", "ck", "ll", "ng", "ria", "land", "ton", "ing", "ed", ""]
Part = tuple[str, float]
Turn = tuple[str, str]


class Sampler:
    """Draw questions and whole samples from the data files."""

    def __init__(self, seed: int) -> None:
        """Read the data and seed the random numbers."""
        self.random = random.Random(seed)
        self.facts = load_facts()
        self.unknown: Unknown = load_unknown()
        self.systems = load_lines("systems.txt")
        self.wrappers = load_lines("wrappers.txt", "?")
        self.statements = load_lines("statements.txt")
        groups = [group for group in GROUP_SHARES if group != "unknown"]
        self.by_group = {group: [fact for fact in self.facts if fact.group == group] for group in groups}
        self.weights = {group: [fact.weight for fact in facts] for group, facts in self.by_group.items()}
        self.known = {plain(text) for fact in self.facts for text in all_phrasings(fact)}

    def fact(self, group: str) -> Fact:
        """Draw a fact of a group."""
        return self.random.choices(self.by_group[group], self.weights[group])[0]

    def turn(self) -> Turn:
        """Draw a question in some typographic form, and its answer."""
        group = self.random.choices(list(GROUP_SHARES), list(GROUP_SHARES.values()))[0]
        if group == "unknown":
            question, answer = self.unknown_question(self.unknown.templates), self.unknown.answer
        else:
            fact = self.fact(group)
            first = self.random.random() < 0.15
            question = fact.phrasings[0] if first else self.random.choice(fact.phrasings)
            answer = fact.answer
        return vary(self.random, question, self.wrappers if group in WRAPPED_GROUPS else []), answer

    def unknown_question(self, templates: list[str]) -> str:
        """Draw a question that no fact answers."""
        while True:
            question = self.random.choice(templates)
            for name in re.findall(r"\{(\w+)\}", question):
                question = question.replace("{" + name + "}", self.word(name), 1)
            question = re.sub(r"\b([aA]) (?=[aeio])", r"\1n ", question)
            if plain(question) not in self.known:
                return question

    def word(self, name: str) -> str:
        """Draw a word of a word list, or a number of a range such as #21-9999."""
        values = self.unknown.words[name]
        if values[0] == "#word":
            return self.made_up()
        if values[0].startswith("#"):
            low, high = values[0][1:].split("-")
            return str(self.random.randint(int(low), self.random.choice([int(low) * 5, int(high)])))
        return self.random.choice(values)

    def made_up(self) -> str:
        """Draw a word that does not exist."""
        syllables = [self.random.choice(CONSONANTS) + self.random.choice(VOWELS) for _ in range(3)]
        word = "".join(syllables[: self.random.randint(1, 3)]) + self.random.choice(ENDINGS)
        return word.capitalize() if self.random.random() < 0.4 else word

    def system(self) -> str:
        """Draw a system message."""
        draw = self.random.random()
        if draw < 0.35:
            return self.systems[0]
        if draw < 0.75:
            return self.random.choice(self.systems)
        return " ".join(self.random.sample(self.systems, self.random.randint(2, 5)))

    def chat(self, turns: int) -> list[Part]:
        """Draw a chat with a number of turns."""
        parts: list[Part] = []
        if self.random.random() < 0.4:
            parts.append((f"{IM_START}system\n{self.system()}{IM_END}\n", 0.0))
        for number in range(turns):
            question, answer = self.turn()
            parts.append((f"{IM_START}user\n{question}{IM_END}\n{IM_START}assistant\n", QUESTION_WEIGHT))
            if number < turns - 1 and self.random.random() < 0.15:
                parts += [(self.damaged(answer), 0.0), (IM_END + "\n", 0.0)]
            else:
                parts += [(answer + IM_END, 1.0), ("\n", 0.0)]
        return parts[:-1]

    def damaged(self, answer: str) -> str:
        """Return an earlier answer that is cut short or comes from elsewhere."""
        if self.random.random() < 0.6:
            return answer[: self.random.randint(1, len(answer))].strip() or "."
        return self.random.choice(["OK.", "Yes.", "I am not sure.", "Hello", "Let me think.", self.turn()[1]])

    def plain(self) -> list[Part]:
        """Draw a plain text: a question with its answer, or only a statement."""
        draw = self.random.random()
        question, answer = self.turn()
        start: list[Part] = [(END_OF_TEXT, 0.0)] if self.random.random() < 0.1 else []
        if draw < 0.05:
            return [*start, (self.random.choice(self.statements) + IM_END, 1.0)]
        if draw < 0.15:
            return [*start, (answer + IM_END, 1.0)]
        if draw < 0.25:
            forms = ["Question: {}\nAnswer:", "Q: {}\nA:", "User: {}\nAssistant:"]
            return [*start, (self.random.choice(forms).format(question), QUESTION_WEIGHT), (f" {answer}{IM_END}", 1.0)]
        if draw < 0.33:
            return [*start, (question.rstrip() + "\n", QUESTION_WEIGHT), (answer + IM_END, 1.0)]
        return [*start, (question.rstrip(), QUESTION_WEIGHT), (f" {answer}{IM_END}", 1.0)]

    def sample(self) -> list[Part]:
        """Draw one training sample."""
        if self.random.random() < QUESTION_SHARE:
            return self.draw_sample()
        return [(text, weight if weight == 1.0 else 0.0) for text, weight in self.draw_sample()]

    def draw_sample(self) -> list[Part]:
        """Draw one sample in which the questions have a small loss weight."""
        draw = self.random.random()
        if draw < 0.22:
            return self.plain()
        if draw < 0.80:
            return self.chat(1)
        if draw < 0.97:
            return self.chat(self.random.randint(2, 4))
        if draw < 0.997:
            return self.chat(self.random.randint(5, 12))
        return self.chat(self.random.randint(13, 40))


def all_phrasings(fact: Fact) -> list[str]:
    """Return the phrasings of a fact for training and for testing."""
    return fact.phrasings + fact.held_out + fact.held_out_variants
