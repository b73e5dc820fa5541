"""A vocabulary without its model, and random walks through what a constraint allows."""

import ctypes
import random
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import llama_cpp
import numpy as np
from numpy.typing import NDArray

from modelrack_llm_gguf.constraints import Matcher

__all__ = ["Tokens", "allowed", "open_vocabulary", "walk"]


class Tokens:
    """A vocabulary.

    Args:
        handle: llama.cpp's `llama_vocab *`.
    """

    def __init__(self, handle: int) -> None:
        self.handle = handle
        self.size = int(llama_cpp.llama_vocab_n_tokens(handle))
        self.end = int(llama_cpp.llama_vocab_eos(handle))
        self.specials = {token for token in range(self.size) if llama_cpp.llama_vocab_is_control(handle, token)}

    def encode(self, text: str) -> list[int]:
        """Return the tokens of a text, and those of special tokens in it."""
        data = text.encode()
        room = (llama_cpp.llama_token * (len(data) + 8))()
        count = llama_cpp.llama_tokenize(self.handle, data, len(data), room, len(room), False, True)
        assert count >= 0
        return list(room[:count])

    def text_of(self, tokens: list[int]) -> bytes:
        """Return what tokens write, special ones their names."""
        return b"".join(self._piece(token) for token in tokens)

    def _piece(self, token: int) -> bytes:
        room = ctypes.create_string_buffer(256)
        count = llama_cpp.llama_token_to_piece(self.handle, token, room, 256, 0, True)
        assert count >= 0
        return room.raw[:count]


@contextmanager
def open_vocabulary(path: Path) -> Iterator[Tokens]:
    """Read a model's vocabulary, and no more of it."""
    params = llama_cpp.llama_model_default_params()
    params.vocab_only = True
    model = llama_cpp.llama_model_load_from_file(str(path).encode(), params)
    assert model
    try:
        yield Tokens(llama_cpp.llama_model_get_vocab(model))
    finally:
        llama_cpp.llama_model_free(model)


def allowed(matcher: Matcher, tokens: Tokens) -> list[int] | None:
    """Return what may come next; None where the answer is over."""
    logits: NDArray[np.float32] = np.zeros(tokens.size, dtype=np.float32)
    if matcher.mask(logits):
        return None
    return [int(token) for token in np.flatnonzero(logits == 0)]


def walk(matcher: Matcher, tokens: Tokens, seed: int, most: int = 400) -> tuple[list[int], bool]:
    """Take one allowed token after another, and return them, without the end token, and whether there was an end."""
    chance = random.Random(seed)
    taken: list[int] = []
    while len(taken) < most:
        choices = allowed(matcher, tokens)
        if choices is None:
            return taken, True
        assert choices
        token = tokens.end if tokens.end in choices and chance.random() < 0.2 else chance.choice(choices)
        matcher.accept(token)
        if token == tokens.end:
            return taken, True
        taken.append(token)
    return taken, False
