"""Hold answers to constraints: llama.cpp's vocabulary, as the core's code for constraints wants it."""

import ctypes
from typing import Any

from modelrack.errors import EngineError
from modelrack.llm.guided import Constraints, Vocabulary

from . import bindings
from .bindings import Handle, api

__all__ = ["open_constraints"]

_PIECE = 16 * 1024


def open_constraints(vocab: Handle, end_ids: frozenset[int]) -> Constraints:
    """Return what compiles constraints for a model.

    Args:
        vocab: llama.cpp's vocabulary; the model must stay loaded until `Constraints.close`.
        end_ids: the tokens that end an answer.

    Raises: EngineUnavailable: llguidance is not installed.
    """

    def make(count: int, ends: list[int]) -> Any:
        from llguidance import LLTokenizer

        pieces = _pieces(vocab)
        kind: Any = LLTokenizer  # its types leave this way to make one out
        tokenize: Any = bindings.tokenize_short
        return kind.from_llamacpp(
            tokens=pieces + [b""] * (count - len(pieces)),
            vocab_ptr=vocab,
            tokenize_fptr=ctypes.cast(tokenize, ctypes.c_void_p).value,
            eos_token=ends,
        )

    return Constraints(Vocabulary(bindings.vocab_size(vocab), end_ids, make))


def _pieces(vocab: Handle) -> list[bytes]:
    """Return what each token writes; names of special ones, after the byte by which llguidance knows them."""
    room = ctypes.create_string_buffer(_PIECE)
    pieces: list[bytes] = []
    for token in range(bindings.vocab_size(vocab)):
        size = bindings.token_to_piece(vocab, token, room, _PIECE, 0, True)
        if size < 0:
            raise EngineError(f"Token {token} of the model is longer than {_PIECE} bytes.")
        text = ctypes.string_at(room, size)
        attributes = bindings.vocab_attributes(vocab, token)
        named = attributes & api.LLAMA_TOKEN_ATTR_USER_DEFINED and text.startswith(b"<") and text.endswith(b">")
        pieces.append(b"\xff" + text if attributes & api.LLAMA_TOKEN_ATTR_CONTROL or named else text)
    return pieces
