"""From texts to tokens, for models that pool: specials around them, cut to what the model reads."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from ..batching import Prepared
from ..embedding.contract import EmbeddingWork
from ..embedding.errors import too_long
from ..errors import BadRequest, ModelrackError
from ..rerank.contract import RerankWork
from ..rerank.errors import document_too_long, query_too_long

__all__ = ["Encode", "Marks", "Pair", "PairTexts", "TextTokens", "find_marks"]

_STEPS = 40
"""More than a search by halves needs for a text of any length."""
_REST_OF_WORD = re.compile(r"\w{1,64}")


class Encode(Protocol):
    """Turns texts into tokens, without special tokens around them."""

    def __call__(self, texts: Sequence[str], *, parse_special: bool) -> list[list[int]]:
        """Return the tokens of each text.

        Args:
            parse_special: what is written like a special token is one.
        """


@dataclass(frozen=True, slots=True)
class Marks:
    """The special tokens that stand before and after a text."""

    before: tuple[int, ...]
    after: tuple[int, ...]


def find_marks(encode: Encode, encode_marked: Callable[[str], list[int]]) -> Marks:
    """Find out which special tokens a vocabulary puts around a text."""
    text = "a"
    (plain,) = encode([text], parse_special=True)
    marked = encode_marked(text)
    start = next(at for at in range(len(marked)) if marked[at : at + len(plain)] == plain)
    return Marks(tuple(marked[:start]), tuple(marked[start + len(plain) :]))


class TextTokens:
    """Makes tokens of the inputs of a model that embeds."""

    def __init__(self, encode: Encode, marks: Marks, max_tokens: int) -> None:
        self._encode = encode
        self._marks = marks
        self._max_tokens = max_tokens

    def prepare(self, works: Sequence[EmbeddingWork]) -> list[Prepared[list[int]] | ModelrackError]:
        """Return the tokens of each input, or why it has none that the model can read."""
        texts = [work.prompt + work.input for work in works if isinstance(work.input, str)]
        encoded = iter(self._encode(texts, parse_special=True) if texts else ())
        return [
            self._finish(work, self._surround(work, next(encoded)) if isinstance(work.input, str) else list(work.input))
            for work in works
        ]

    def _surround(self, work: EmbeddingWork, tokens: list[int]) -> list[int]:
        marks = self._marks
        if work.truncate:
            tokens = tokens[: self._max_tokens - len(marks.before) - len(marks.after)]
        return [*marks.before, *tokens, *marks.after]

    def _finish(self, work: EmbeddingWork, tokens: list[int]) -> Prepared[list[int]] | ModelrackError:
        if work.truncate:
            tokens = tokens[: self._max_tokens]
        if len(tokens) > self._max_tokens:
            return too_long(work.index, len(tokens), self._max_tokens)
        if not tokens:
            return BadRequest(f"'input': item {work.index} has no tokens.", param=f"input.{work.index}")
        return Prepared(tokens, len(tokens))


@dataclass(slots=True)
class Pair:
    """A query with as much of a document as is read, and the tokens of both as the model reads them."""

    query: str
    document: str
    tokens: list[int]


class PairTexts:
    """Makes tokens of a query and a document as llama.cpp's server does (`format_prompt_rerank`).

    Args:
        before, between, after: special tokens around and between both texts.
        template: what both are put into instead, special tokens among it.
    """

    def __init__(
        self,
        encode: Encode,
        max_tokens: int,
        *,
        before: Sequence[int] = (),
        between: Sequence[int] = (),
        after: Sequence[int] = (),
        template: str | None = None,
    ) -> None:
        self._encode = encode
        self._max_tokens = max_tokens
        self._before, self._between, self._after = list(before), list(between), list(after)
        self._template = template

    def prepare(self, works: Sequence[RerankWork]) -> list[Prepared[Pair] | ModelrackError]:
        """Return each query with its document, or why it cannot be read."""
        empty = self._join([(work.query, "") for work in works])
        pairs = [(work.query, self._shortened(work)) for work in works]
        joined = self._join(pairs)
        return [
            self._finish(work, len(without), document, tokens)
            for work, without, (_, document), tokens in zip(works, empty, pairs, joined, strict=True)
        ]

    def _shortened(self, work: RerankWork) -> str:
        most = work.max_document_tokens
        if most is None:
            return work.document

        def count(text: str) -> int:
            return len(self._encode([text], parse_special=False)[0])

        return fit(work.document, most, count)

    def _join(self, pairs: Sequence[tuple[str, str]]) -> list[list[int]]:
        if self._template is not None:
            filled = [self._fill(query, document) for query, document in pairs]
            return self._encode(filled, parse_special=True)
        texts = list(dict.fromkeys(text for pair in pairs for text in pair))
        tokens = dict(zip(texts, self._encode(texts, parse_special=False), strict=True))
        return [
            [*self._before, *tokens[query], *self._between, *tokens[document], *self._after]
            for query, document in pairs
        ]

    def _fill(self, query: str, document: str) -> str:
        assert self._template is not None
        return self._template.replace("{query}", query).replace("{document}", document)

    def _finish(
        self, work: RerankWork, without: int, document: str, tokens: list[int]
    ) -> Prepared[Pair] | ModelrackError:
        most = self._max_tokens
        if without >= most:
            return query_too_long(without, most)
        if len(tokens) > most:
            if not work.truncate:
                return document_too_long(work.index, len(tokens), most)
            document = fit(document, most, lambda text: len(self._join([(work.query, text)])[0]), len(tokens))
            (tokens,) = self._join([(work.query, document)])
        if not tokens:
            return BadRequest(f"'documents.{work.index}' has no tokens.", param=f"documents.{work.index}")
        return Prepared(Pair(work.query, document, tokens), len(tokens))


def fit(text: str, most: int, count: Callable[[str], int], tokens: int | None = None) -> str:
    """Return as much of a text from its beginning as makes no more than `most` tokens.

    Args:
        count: returns the tokens that a text makes, alone or with what stands around it; more text, more tokens.
        tokens: those of the whole text, if they are known.
    """
    tokens = count(text) if tokens is None else tokens
    if tokens <= most:
        return text
    low, low_count, high, high_count = 0, 0, len(text), tokens
    for _ in range(_STEPS):
        if high - low <= 1:
            break
        guess = low + (high - low) * (most - low_count) // max(1, high_count - low_count)
        guess = min(max(guess, low + 1), high - 1)
        found = count(text[:guess])
        if found == most:
            return _to_word_end(text, guess, most, count)
        if found < most:
            low, low_count = guess, found
        else:
            high, high_count = guess, found
    return text[:low]


def _to_word_end(text: str, end: int, most: int, count: Callable[[str], int]) -> str:
    """Return a text up to `end`, with the rest of the word there if that makes no more tokens: parts make others."""
    rest = _REST_OF_WORD.match(text, end)
    whole = text[: rest.end()] if rest else text[:end]
    return whole if len(whole) > end and count(whole) <= most else text[:end]
