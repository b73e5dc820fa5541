r"""Write regular expressions so that what matches them does so in every dialect.

In some dialects `\d`, `\w` and `\s` have more characters than in others. An answer keeps to those that all agree about;
in a class that is negated, it keeps off those that any has. (Letters of all scripts stay letters: JavaScript is alone
with its ASCII.)
"""

import re

__all__ = ["portable"]

_NARROW = {
    r"\d": "[0-9]",
    r"\D": r"\D",
    r"\w": r"[\p{L}\p{Nd}_]",
    r"\W": r"[^\w\p{N}]",
    r"\s": r"[\s--\x{85}]",
    r"\S": r"[^\s\x{1c}-\x{1f}\x{feff}]",
    r"\Z": r"\z",
}
_WIDE = {
    r"\d": r"\d",
    r"\D": "[^0-9]",
    r"\w": r"[\w\p{N}]",
    r"\W": r"[^\p{L}\p{Nd}_]",
    r"\s": r"[\s\x{1c}-\x{1f}\x{feff}]",
    r"\S": r"[\S\x{85}]",
}
_PIECE = re.compile(r"\\.|\[\^?\]?|\]|[^\\\[\]]+", re.DOTALL)


def portable(pattern: str) -> str:
    """Return the pattern, in the syntax of Rust's `regex`, with classes that all dialects agree about."""
    parts: list[str] = []
    negations: list[bool] = []
    for found in _PIECE.finditer(pattern):
        piece = found[0]
        if piece.startswith("\\"):
            table = _WIDE if sum(negations) % 2 else _NARROW
            parts.append(table.get(piece, piece))
            continue
        if piece.startswith("["):
            negations.append("^" in piece)
        elif piece == "]" and negations:
            negations.pop()
        parts.append(piece)
    return "".join(parts)
