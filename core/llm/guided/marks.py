"""Wait for a mark in the text that a model writes, whatever tokens it writes it with."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["Mark", "Position"]


class Mark:
    """A text to wait for.

    Args:
        text: at least one byte.
        tokens: what each token of the vocabulary writes.
        words: the mask of the tokens that may come before the mark.
    """

    def __init__(self, text: bytes, tokens: Sequence[bytes], words: NDArray[np.uint32]) -> None:
        self.words = words
        self._text = text
        self._tokens = tokens
        self._fallback = _fallbacks(text)
        self._positions = [Position(self, matched) for matched in range(len(text))]

    @property
    def start(self) -> Position:
        """Return where waiting begins."""
        return self._positions[0]

    def advance(self, matched: int, token: int) -> tuple[int, int]:
        """Return how many bytes of the mark end the text after a token, and how many follow the mark once it is whole.

        Args:
            matched: how many bytes of the mark end the text before it.
        """
        text, written = self._text, self._tokens[token]
        for index, byte in enumerate(written):
            while matched and text[matched] != byte:
                matched = self._fallback[matched - 1]
            matched += text[matched] == byte
            if matched == len(text):
                return matched, len(written) - index - 1
        return matched, 0

    def position(self, matched: int) -> Position | None:
        """Return the position where so many bytes match; None behind the mark."""
        return self._positions[matched] if matched < len(self._text) else None

    def prepare(self) -> None:
        """Work out what each position forbids, which is not for a loop that should be quick."""
        for position in self._positions:
            len(position.words)

    @cached_property
    def overrunning(self) -> list[int]:
        """The tokens that may write the mark's end and more."""
        text = self._text
        ends = tuple(text[index:] for index in range(len(text)))
        return [
            token
            for token, written in enumerate(self._tokens)
            if len(written) > 1 and (written.startswith(ends) or text in written)
        ]


class Position:
    """A place before the end of a mark.

    Args:
        matched: how many of its bytes end the text so far.
    """

    def __init__(self, mark: Mark, matched: int) -> None:
        self._mark = mark
        self._matched = matched

    @cached_property
    def forbidden(self) -> NDArray[np.intp]:
        """The tokens that would write more than the mark: what belongs behind it could not be held to anything."""
        import numpy as np

        tokens = [token for token in self._mark.overrunning if not self.allows(token)]
        return np.array(tokens, dtype=np.intp)

    @cached_property
    def words(self) -> NDArray[np.uint32]:
        """The mask of the other tokens."""
        import numpy as np

        words = self._mark.words.copy()
        np.bitwise_and.at(words, self.forbidden >> 5, ~(np.uint32(1) << (self.forbidden & 31).astype(np.uint32)))
        return words

    def allows(self, token: int) -> bool:
        """Return whether a token writes nothing behind the mark."""
        return self._mark.advance(self._matched, token)[1] == 0

    def after(self, token: int) -> Position | None:
        """Return the position after a token; None when the mark is whole."""
        return self._mark.position(self._mark.advance(self._matched, token)[0])


def _fallbacks(text: bytes) -> list[int]:
    """Return for each beginning of a text the length of its longest end that is a beginning too (as in KMP search)."""
    result = [0] * len(text)
    length = 0
    for index in range(1, len(text)):
        while length and text[index] != text[length]:
            length = result[length - 1]
        length += text[index] == text[length]
        result[index] = length
    return result
