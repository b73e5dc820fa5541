"""GBNF means what llama.cpp's own sampler takes it to mean: each takes what the other writes."""

import asyncio
import codecs
import ctypes
import random
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import llama_cpp
import pytest

from modelrack.llm.contract import Constraint
from modelrack.llm.guided import Constraints, Matcher
from modelrack.testing.gguf import write_random_model
from modelrack.testing.grammars import GRAMMARS
from modelrack.testing.walks import walk

sys.path.insert(0, str(Path(__file__).parent))

from matching import Tokens, open_vocabulary

from modelrack_llm_gguf.constraints import open_constraints


@pytest.fixture(scope="module")
def tokens(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tokens]:
    path = write_random_model(tmp_path_factory.mktemp("models") / "tiny.gguf")
    with open_vocabulary(path) as opened:
        yield opened


@pytest.fixture(scope="module")
def constraints(tokens: Tokens) -> Iterator[Constraints]:
    made = open_constraints(tokens.handle, frozenset({tokens.end}))
    yield made
    made.close()


class Reference:
    """llama.cpp's own grammar sampler."""

    def __init__(self, tokens: Tokens, grammar: str) -> None:
        self._size = tokens.size
        self._sampler: Any = llama_cpp.llama_sampler_init_grammar(tokens.handle, grammar.encode(), b"root")
        assert self._sampler, "llama.cpp does not take the grammar"
        self._data = (llama_cpp.llama_token_data * tokens.size)()

    def allowed(self) -> list[int]:
        """Return the tokens that may come next."""
        for token in range(self._size):
            self._data[token] = llama_cpp.llama_token_data(token, 0.0, 0.0)
        row = llama_cpp.llama_token_data_array(self._data, self._size, -1, False)
        llama_cpp.llama_sampler_apply(self._sampler, ctypes.byref(row))
        return [one.id for one in self._data if one.logit == 0]

    def accept(self, token: int) -> None:
        """Take a token."""
        llama_cpp.llama_sampler_accept(self._sampler, token)

    def close(self) -> None:
        """Free it."""
        llama_cpp.llama_sampler_free(self._sampler)


def prepare(constraints: Constraints, grammar: str) -> Matcher:
    return asyncio.run(constraints.prepare(Constraint(kind="grammar", value=grammar, field="guided_grammar")))


@pytest.mark.parametrize("name", GRAMMARS)
def test_what_is_written_here_llama_cpp_takes(tokens: Tokens, constraints: Constraints, name: str) -> None:
    texts = set()
    for seed in range(12):
        taken, is_over = walk(prepare(constraints, GRAMMARS[name]), seed, most=60)
        reference = Reference(tokens, GRAMMARS[name])
        try:
            for token in taken:
                assert token in reference.allowed(), (tokens.text_of(taken), token)
                reference.accept(token)
            assert not is_over or tokens.end in reference.allowed()
        finally:
            reference.close()
        texts.add(tokens.text_of(taken))
    assert len(texts) > 1


@pytest.mark.parametrize("name", GRAMMARS)
def test_what_llama_cpp_writes_is_taken_here(tokens: Tokens, constraints: Constraints, name: str) -> None:
    for seed in range(12):
        chance = random.Random(seed)
        reference = Reference(tokens, GRAMMARS[name])
        decoder = codecs.getincrementaldecoder("utf-8")()
        taken: list[int] = []
        try:
            while len(taken) < 60:
                choices = reference.allowed()
                if tokens.end in choices and (tokens.specials.issuperset(choices) or chance.random() < 0.2):
                    taken.append(tokens.end)
                    break
                choices = [token for token in choices if token not in tokens.specials]
                token = chance.choice(choices)
                try:
                    decoder.decode(tokens.text_of([token]))
                except UnicodeDecodeError:  # llama.cpp allows bytes that are no text
                    break
                taken.append(token)
                reference.accept(token)
        finally:
            reference.close()
        assert prepare(constraints, GRAMMARS[name]).valid(taken) == len(taken), tokens.text_of(taken)
