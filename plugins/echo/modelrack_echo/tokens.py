"""Text to tokens and back."""

import re

__all__ = ["Vocabulary", "split", "visible"]

_PIECE = re.compile(r"\s*(?:\w+|[^\w\s])|\s+")


def split(text: str) -> list[str]:
    """Cut text into tokens: a word or a mark with the white space before it. Joined, they are the text again."""
    return _PIECE.findall(text)


def visible(token: str) -> str:
    """Return a token as tokenizers show it: with marks for leading spaces and line ends."""
    return token.replace(" ", "Ġ").replace("\n", "Ċ")


class Vocabulary:
    """Ids of the tokens seen so far; at most `limit` of them, so that a worker does not grow without end."""

    def __init__(self, limit: int = 1_000_000) -> None:
        self._limit = limit
        self._ids: dict[str, int] = {}
        self._tokens: list[str] = []

    def encode(self, text: str) -> list[int]:
        """Return the ids of a text's tokens; new tokens get the next ids.

        Raises: OverflowError: there are too many different tokens.
        """
        ids = []
        for token in split(text):
            number = self._ids.get(token)
            if number is None:
                number = len(self._tokens)
                if number >= self._limit:
                    raise OverflowError(f"more than {self._limit} different tokens")
                self._ids[token] = number
                self._tokens.append(token)
            ids.append(number)
        return ids

    def token(self, number: int) -> str:
        """Return a token.

        Raises: IndexError: no token has this id.
        """
        if number < 0:
            raise IndexError(number)
        return self._tokens[number]
