"""The model's vocabulary: text to tokens and back."""

import ctypes
from array import array
from collections.abc import Iterator, Mapping
from functools import cached_property
from threading import Lock

from modelrack.errors import EngineError

from . import bindings
from .bindings import Handle
from .borders import Borders

__all__ = ["Vocabulary"]

_LONG_TEXT = 4096
"""Bytes of text from which other threads may run while it is read."""
_PIECE = 128
_PART = 8192
"""Bytes of text that llama.cpp reads at once, where it can be cut: the time for its special tokens is quadratic."""


class Vocabulary:
    """Tokens of a loaded model. Used on the event loop; texts may be encoded by other threads too.

    Args:
        handle: llama.cpp's vocabulary.
    """

    def __init__(self, handle: Handle) -> None:
        self.handle = handle
        self.size: int = bindings.vocab_size(handle)
        self.bos_id = _or_none(bindings.vocab_bos(handle))
        self.eos_id = _or_none(bindings.vocab_eos(handle))
        self.pad_id = _or_none(bindings.vocab_pad(handle))
        self.adds_bos: bool = bindings.vocab_adds_bos(handle)
        is_end = bindings.vocab_is_end
        self.end_ids = frozenset(token for token in range(self.size) if is_end(handle, token))
        self._borders: dict[bool, Borders] = {}
        self._bytes: dict[int, bytes] = {}
        self._in_use = Lock()
        self._buffer = ctypes.create_string_buffer(_PIECE)

    @cached_property
    def fill_in(self) -> tuple[int, int, int] | None:
        """Return the tokens before a prefix, a suffix and the middle; None where one is missing."""
        found = (bindings.vocab_fill_prefix, bindings.vocab_fill_suffix, bindings.vocab_fill_middle)
        prefix, suffix, middle = (one(self.handle) for one in found)
        return None if min(prefix, suffix, middle) < 0 else (prefix, suffix, middle)

    @cached_property
    def template_variables(self) -> Mapping[str, str]:
        """Return the special tokens by the names that chat templates use."""
        named = {"bos_token": self.bos_id, "eos_token": self.eos_id, "pad_token": self.pad_id}
        return {
            name: self.special_bytes(token).decode("utf-8", "replace")
            for name, token in named.items()
            if token is not None
        }

    def encode(self, text: str, *, add_special: bool, parse_special: bool) -> list[int]:
        """Return the tokens of a text."""
        data = text.encode("utf-8", "surrogatepass")
        if len(data) <= _PART:
            self._check_open()
            return self._encode(data, add_special, parse_special)
        with self._in_use:
            self._check_open()
            parts = list(self._parts(data, add_special, parse_special))
        tokens: list[int] = []
        for number, part in enumerate(parts):
            # Part by part, so that closing waits for one of them at most.
            with self._in_use:
                self._check_open()
                tokens += self._encode(part, add_special and not number, parse_special)
        return tokens

    def _encode(self, data: bytes, add_special: bool, parse_special: bool) -> list[int]:
        tokenize = bindings.tokenize_short if len(data) < _LONG_TEXT else bindings.tokenize_long
        room = len(data) + 8
        for _ in range(2):
            tokens = array("i", bytes(4 * room))
            count = tokenize(self.handle, data, len(data), tokens.buffer_info()[0], room, add_special, parse_special)
            if count >= 0:
                return tokens[:count].tolist()
            room = -count
        raise EngineError("llama.cpp could not tokenize a text.")

    def _parts(self, data: bytes, add_special: bool, parse_special: bool) -> Iterator[bytes]:
        """Return the text in parts that make the same tokens as the whole."""
        if add_special and (bindings.vocab_adds_eos(self.handle) or bindings.vocab_adds_sep(self.handle)):
            return iter((data,))
        borders = self._borders.get(parse_special)
        if borders is None:
            borders = self._borders[parse_special] = Borders(self.handle, self.size, controls=parse_special)
        return borders.cut(data, _PART)

    def token_bytes(self, token: int) -> bytes:
        """Return what a token adds to a text; nothing for a special token."""
        found = self._bytes.get(token)
        if found is None:
            found = self._bytes[token] = self._piece(token, special=False)
        return found

    def special_bytes(self, token: int) -> bytes:
        """Return what a token adds when special tokens are written out too."""
        return self._piece(token, special=True)

    def token_name(self, token: int) -> str:
        """Return a token as the vocabulary writes it."""
        self._check_open()
        name: bytes | None = bindings.vocab_text(self.handle, token)
        return (name or b"").decode("utf-8", "replace")

    def close(self) -> None:
        """Hear that the model is about to be freed; waits for what is being encoded."""
        with self._in_use:
            self.handle = 0

    def _check_open(self) -> None:
        if not self.handle:
            raise EngineError("The model is closed.")

    def _piece(self, token: int, *, special: bool) -> bytes:
        self._check_open()
        buffer, size = self._buffer, len(self._buffer)
        length = bindings.token_to_piece(self.handle, token, buffer, size, 0, special)
        if length < 0:
            size = -length
            buffer = ctypes.create_string_buffer(size)
            length = bindings.token_to_piece(self.handle, token, buffer, size, 0, special)
        return buffer.raw[:length]


def _or_none(token: int) -> int | None:
    return token if token >= 0 else None
