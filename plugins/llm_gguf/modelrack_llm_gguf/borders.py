"""Where a long text can be cut without another choice of tokens: before special tokens that stand for themselves."""

import re
from collections.abc import Iterator

from . import bindings
from .bindings import Handle, api

__all__ = ["Borders", "clean_marks"]

_CONTROLS = api.LLAMA_TOKEN_ATTR_CONTROL | api.LLAMA_TOKEN_ATTR_UNKNOWN
_SPECIAL = _CONTROLS | api.LLAMA_TOKEN_ATTR_USER_DEFINED
_STRIPS = api.LLAMA_TOKEN_ATTR_LSTRIP
_INDEPENDENT = (api.LLAMA_VOCAB_TYPE_SPM, api.LLAMA_VOCAB_TYPE_BPE)
"""Kinds of vocabularies that read what is between special tokens by itself."""


class Borders:
    """Finds the places.

    Args:
        controls: texts of control tokens are read as these tokens.
    """

    def __init__(self, vocab: Handle, size: int, *, controls: bool) -> None:
        marks: list[bytes] = []
        stripping: set[bytes] = set()
        for token in range(size):
            attributes = bindings.vocab_attributes(vocab, token)
            if attributes & _SPECIAL and (controls or not attributes & _CONTROLS):
                text: bytes = bindings.vocab_text(vocab, token) or b""
                marks.append(text)
                if attributes & _STRIPS:
                    stripping.add(text)
        clean = [mark for mark in clean_marks(marks) if not any(one.startswith(mark) for one in stripping)]
        is_known = bindings.vocab_type(vocab) in _INDEPENDENT
        self._pattern = re.compile(b"|".join(map(re.escape, clean))) if clean and is_known else None

    def cut(self, data: bytes, size: int) -> Iterator[bytes]:
        """Return the text in parts of a size, or as much more as it takes to the next place."""
        start = 0
        while self._pattern is not None:
            found = self._pattern.search(data, start + size)
            if found is None:
                break
            yield data[start : found.start()]
            start = found.start()
        yield data[start:]


def clean_marks(marks: list[bytes]) -> list[bytes]:
    """Return the marks before which a text can be cut wherever they stand: nothing reaches across their beginning.

    llama.cpp looks for the longest mark first, in the whole text. So no mark may have the first byte of a clean one
    further inside, and none may begin inside a clean one.
    """
    marks = [mark for mark in marks if mark]
    inner = set(b"".join(mark[1:] for mark in marks))
    firsts = {mark[0] for mark in marks}
    return [mark for mark in marks if mark[0] not in inner and firsts.isdisjoint(mark[1:])]
