"""A tokenizer without the layers around it, which take most of the time that short texts take."""

from collections.abc import Sequence
from typing import Any

from modelrack.rerank import RerankWork

__all__ = ["Tokens", "beginning"]

_LIKELY_CHARACTERS = 5
"""Of a token, space included, in most texts."""


class Tokens:
    """Turns texts into token ids, without special tokens around them. For one thread.

    Args:
        tokenizer: of Transformers; nobody else may ask it to cut or to pad.
    """

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._backend: Any = tokenizer.backend_tokenizer if tokenizer.is_fast else None
        if self._backend is not None:
            self._backend.no_truncation()
            self._backend.no_padding()

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Return the ids of texts."""
        if self._backend is not None:
            return [one.ids for one in self._backend.encode_batch_fast(list(texts), add_special_tokens=False)]
        if not texts:
            return []
        plain = {"return_attention_mask": False, "return_token_type_ids": False, "verbose": False}
        found: list[list[int]] = self._tokenizer(list(texts), add_special_tokens=False, **plain)["input_ids"]
        return found

    def head(self, text: str, most: int) -> str:
        """Return as much of a text as its first tokens hold."""
        if self._backend is None:
            (ids,) = self.encode([text])
            return text if len(ids) <= most else str(self._tokenizer.decode(ids[:most]))
        offsets = self._backend.encode(text, add_special_tokens=False).offsets
        return text if len(offsets) <= most else text[: offsets[most - 1][1]]


def beginning(work: RerankWork, text: str, tokens: int) -> str:
    """Return a document, or a beginning of it that has more tokens than are read, but for unusual texts.

    It ends between two words, so that its tokens are the same as of the whole. One that must not be cut is returned
    as it is, to be counted.
    """
    most = 2 * tokens * _LIKELY_CHARACTERS
    if not work.truncate or len(text) <= most:
        return text
    end = text.rfind(" ", 0, most)
    return text if end < most // 2 else text[:end]
