"""Masks are those of the tokens themselves, whichever way llama.cpp's vocabulary is read."""

import asyncio
import random
import sys
from pathlib import Path
from typing import Any

import pytest

from modelrack.llm.contract import Constraint
from modelrack.llm.guided import Constraints, Vocabulary
from modelrack.testing.gguf import write_random_model
from modelrack.testing.walks import allowed

sys.path.insert(0, str(Path(__file__).parent))

from matching import open_vocabulary

from modelrack_llm_gguf.constraints import open_constraints

CASES: list[tuple[str, Any, str]] = [
    ("regex", r"[a-z ]{3,30}\.", ""),
    ("choice", ("abc", "abd", "ba ba ba", "日本語"), ""),
    ("json_schema", {"type": "object", "properties": {"name": {"type": "string"}}, "required": ["name"]}, ""),
    ("json_schema", {"const": "bababa"}, "</think>"),
    ("grammar", 'start: "a"+ ("ba" | "bo") "end"', "zb"),
]


@pytest.mark.parametrize(("kind", "value", "mark"), CASES)
def test_both_ways_to_read_a_vocabulary_give_the_same_masks(tmp_path: Path, kind: Any, value: Any, mark: str) -> None:
    with open_vocabulary(write_random_model(tmp_path / "tiny.gguf")) as tokens:
        plain = Vocabulary.of_tokens(
            [tokens.text_of([token]) for token in range(tokens.size)],
            specials=tokens.specials,
            ends={tokens.end},
            encode=lambda text: tokens.encode(text.decode()),
        )
        both = open_constraints(tokens.handle, frozenset({tokens.end})), Constraints(plain)
        constraint = Constraint(kind=kind, value=value, field="guided_it", begins_after=tuple(tokens.encode(mark)))
        try:
            one, other = (asyncio.run(made.prepare(constraint)) for made in both)
            chance = random.Random(1)
            written = tokens.encode(mark)
            for step in range(60):
                choices = allowed(one)
                assert allowed(other) == choices
                if choices is None:
                    break
                token = written[step] if step < len(written) else chance.choice(choices)
                one.accept(token)
                other.accept(token)
                if token == tokens.end:
                    break
        finally:
            for made in both:
                made.close()
