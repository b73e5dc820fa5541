"""Find special tokens in long texts: llama.cpp's own time for that grows with the square of their number (b11549)."""

import re
from functools import lru_cache

from modelrack.catalog.gguf import read_metadata

__all__ = ["cut_at_specials", "read_vocabulary"]

_UNKNOWN, _CONTROL, _USER_DEFINED = 2, 3, 4
_TYPES = "tokenizer.ggml.token_type"
_TOKENS = "tokenizer.ggml.tokens"
_SHORT = 8192
"""Characters of a text that llama.cpp may look through by itself."""


@lru_cache(maxsize=1)
def read_vocabulary(path: str) -> list[str]:
    """Return the tokens of a GGUF file as its vocabulary writes them."""
    return list(read_metadata(path, arrays=(_TOKENS,)).keys[_TOKENS])


def cut_at_specials(path: str, text: str, *, parse_special: bool) -> list[str | int]:
    """Return a text in parts, with the ids of the special tokens that stand between them.

    Args:
        path: of the model's file.
        parse_special: all special tokens count; otherwise those alone that are part of plain text.
    """
    if len(text) <= _SHORT:
        return [text]
    ids, pattern = _specials(path, parse_special)
    if pattern is None:
        return [text]
    parts: list[str | int] = []
    at = 0
    for match in pattern.finditer(text):
        if match.start() > at:
            parts.append(text[at : match.start()])
        parts.append(ids[match.group()])
        at = match.end()
    return [*parts, text[at:]] if at < len(text) else parts


@lru_cache(maxsize=2)
def _specials(path: str, parse_special: bool) -> tuple[dict[str, int], re.Pattern[str] | None]:
    kinds = (_USER_DEFINED, _UNKNOWN, _CONTROL) if parse_special else (_USER_DEFINED,)
    types = read_metadata(path, arrays=(_TYPES,)).keys.get(_TYPES, ())
    ids = {
        token: one for one, (token, kind) in enumerate(zip(read_vocabulary(path), types, strict=False)) if kind in kinds
    }
    ids.pop("", None)
    longest_first = sorted(ids, key=len, reverse=True)
    return ids, re.compile("|".join(map(re.escape, longest_first))) if ids else None
