"""The tokens of a model, as constraints see them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import cached_property
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, TypeAlias

from ...errors import EngineUnavailable

if TYPE_CHECKING:
    import numpy as np
    from llguidance import LLTokenizer
    from numpy.typing import NDArray

__all__ = ["Make", "Vocabulary", "missing"]

_NEEDED = ("llguidance", "numpy")
_REMEDY = 'Install it beside the engine: pip install "modelrack[guided]".'

Make: TypeAlias = "Callable[[int, list[int]], LLTokenizer]"


def missing() -> str:
    """Return the clause that says which package constraints lack here; empty where they lack none."""
    names = [name for name in _NEEDED if find_spec(name) is None]
    return f'it needs {" and ".join(names)} where the model runs (pip install "modelrack[guided]")' if names else ""


class Vocabulary:
    """The tokens of a model. Made once for a loaded model; it takes up to a second for a large one.

    Args:
        size: columns of the model's logits.
        ends: the tokens that end an answer. Without any, an answer ends where nothing can follow.
        make: makes llguidance's tokenizer of so many tokens (some more than `size`, at times) and such end tokens.

    Raises: EngineUnavailable: llguidance is not installed.
    """

    def __init__(self, size: int, ends: Iterable[int], make: Make) -> None:
        if missing():
            raise EngineUnavailable("Constraints need the package llguidance.", remedy=_REMEDY)
        self.size = size
        self.ends = tuple(sorted(ends))
        # A model without an end token never ends by itself; a token past its last one stands for the end here.
        self.marks_end = list(self.ends) or [size]
        self.tokenizer = make(max(size, self.marks_end[-1] + 1), self.marks_end)
        self.words = (int(self.tokenizer.vocab_size) + 31) // 32

    @classmethod
    def of_tokens(
        cls,
        tokens: Sequence[bytes],
        *,
        specials: Iterable[int] = (),
        ends: Iterable[int],
        encode: Callable[[bytes], Sequence[int]],
        size: int | None = None,
    ) -> Vocabulary:
        """Return a vocabulary of tokens by what they write.

        Args:
            tokens: in the order of their ids; special ones their names.
            specials: the tokens that write nothing of an answer.
            encode: returns the tokens of a text, without any special ones; it decides with which tokens a text is
                written that the constraint leaves no choice about. Called while masks are made.
            size: columns of the model's logits, if they are more than there are tokens.
        """
        special_ids = sorted(specials)

        def make(count: int, end_ids: list[int]) -> LLTokenizer:
            from llguidance import LLTokenizer, TokenizerWrapper

            padded = [*tokens, *([b""] * (count - len(tokens)))]
            return LLTokenizer(
                TokenizerWrapper(_Tokens(padded, special_ids, end_ids[0], encode)), n_vocab=count, eos_token=end_ids
            )

        return cls(size or len(tokens), ends, make)

    @classmethod
    def of_json(cls, text: str, *, size: int, ends: Iterable[int]) -> Vocabulary:
        """Return the vocabulary of a `tokenizer.json`, as the package `tokenizers` writes it (`Tokenizer.to_str`).

        Args:
            size: columns of the model's logits; those past the last token are never allowed.
        """

        def make(count: int, end_ids: list[int]) -> LLTokenizer:
            from llguidance import LLTokenizer

            return LLTokenizer(text, n_vocab=count, eos_token=end_ids)

        return cls(size, ends, make)

    @cached_property
    def texts(self) -> list[bytes]:
        """What each token writes; special tokens their names."""
        decode = self.tokenizer.decode_bytes
        # What has no text, llguidance gives a name.
        return [b"" if (text := decode([token])) == b"<[%d]>" % token else text for token in range(self.size)]

    @cached_property
    def open_words(self) -> NDArray[np.uint32]:
        """The mask of all tokens but those that end an answer."""
        import numpy as np

        allowed = np.zeros(self.words * 32, dtype=np.uint8)
        allowed[: self.size] = 1
        allowed[[token for token, text in enumerate(self.texts) if not text]] = 0
        allowed[self.marks_end] = 0
        return pack(allowed)


def pack(bits: NDArray[np.uint8]) -> NDArray[np.uint32]:
    """Return the mask of a row of ones and zeros."""
    import numpy as np

    return np.packbits(bits, bitorder="little").view(np.dtype("<u4"))


class _Tokens:
    """A tokenizer as llguidance reads one."""

    bos_token_id = None

    def __init__(
        self, tokens: list[bytes], specials: list[int], end: int, encode: Callable[[bytes], Sequence[int]]
    ) -> None:
        self.tokens = tokens
        self.special_token_ids = specials
        self.eos_token_id = end
        self._encode = encode

    def __call__(self, text: bytes | str) -> Any:
        return list(self._encode(text if isinstance(text, bytes) else text.encode()))
