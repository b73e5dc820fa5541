"""A vocabulary without a model."""

import asyncio
import re
from typing import Any

from modelrack.llm.contract import Constraint
from modelrack.llm.guided import Constraints, Matcher, Vocabulary

__all__ = ["Tokens", "prepare"]

_LETTERS = "abcdefghijklmnopqrstuvwxyz"
_SPECIALS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")


class Tokens:
    """Tokens for each byte, for some pairs of letters, and special ones."""

    def __init__(self) -> None:
        pairs = [a + b for a in _LETTERS for b in "aeiou"] + [" " + a for a in _LETTERS]
        self.pieces = [bytes([byte]) for byte in range(256)] + [text.encode() for text in (*pairs, *_SPECIALS)]
        self.size = len(self.pieces)
        self.specials = set(range(self.size - len(_SPECIALS), self.size))
        self.end = self.size - 1
        self._ids = {piece: token for token, piece in enumerate(self.pieces)}
        names = "|".join(map(re.escape, _SPECIALS))
        self._named = re.compile(f"{names}|[a-z][aeiou]| [a-z]|.".encode(), re.DOTALL)
        self._plain = re.compile(b"[a-z][aeiou]| [a-z]|.", re.DOTALL)

    def encode(self, text: str) -> list[int]:
        """Return the tokens of a text, and those of special tokens in it."""
        return [self._ids[piece] for piece in self._named.findall(text.encode())]

    def text_of(self, tokens: list[int]) -> bytes:
        """Return what tokens write, special ones their names."""
        return b"".join(self.pieces[token] for token in tokens)

    def vocabulary(self, ends: tuple[int, ...] | None = None, size: int | None = None) -> Vocabulary:
        """Return the vocabulary of these tokens."""

        def encode(text: bytes) -> list[int]:
            return [self._ids[piece] for piece in self._plain.findall(text)]

        ends = (self.end,) if ends is None else ends
        return Vocabulary.of_tokens(self.pieces, specials=self.specials, ends=ends, encode=encode, size=size)


def prepare(constraints: Constraints, kind: Any, value: Any, after: tuple[int, ...] = ()) -> Matcher:
    """Return the matcher of a constraint."""
    constraint = Constraint(kind=kind, value=value, field="guided_it", begins_after=after)
    return asyncio.run(constraints.prepare(constraint))
