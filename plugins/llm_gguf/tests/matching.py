"""A vocabulary without its model."""

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import llama_cpp

__all__ = ["Tokens", "open_vocabulary"]


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
