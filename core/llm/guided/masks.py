"""Which tokens may come next: a bit for each."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING

from .vocabulary import Vocabulary

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["Masks"]


class Masks:
    """Room for the masks of several sequences, each in a row of 32-bit words.

    Token `t` is allowed if bit `t % 32` of word `t // 32` is set. Bits past the last token are never set, but for a
    model without end tokens: bit `vocabulary.size` stands for the end then.

    Args:
        rows: sequences.
        words: memory to use (32-bit integers, [rows, vocabulary.words], C order), such as that of another library's
            tensor; None: it is made.
    """

    def __init__(
        self, vocabulary: Vocabulary, rows: int = 1, words: NDArray[np.uint32] | NDArray[np.int32] | None = None
    ) -> None:
        import numpy as np

        shape = rows, vocabulary.words
        made = np.zeros(shape, dtype=np.uint32) if words is None else words
        if made.shape != shape or made.dtype.itemsize != 4 or not made.flags.c_contiguous or not made.flags.writeable:
            raise ValueError(f"masks take writable 32-bit words of shape {shape}, in C order")
        self.words: NDArray[np.uint32] = made.view(np.uint32)
        self.row_bytes = vocabulary.words * 4
        first = int(self.words.ctypes.data)
        self.addresses = [first + row * self.row_bytes for row in range(rows)]
        others = np.full(self.row_bytes, 255, dtype=np.uint8)
        for end in vocabulary.marks_end:
            others[end >> 3] &= ~(1 << (end & 7)) & 255
        self._others = others.view(np.uint32)
        self._scratch = np.empty_like(self._others)
        self._numpy = np

    def goes_on(self, row: int) -> bool:
        """Return whether a row allows a token that does not end the answer."""
        return bool(self._numpy.bitwise_and(self.words[row], self._others, out=self._scratch).any())

    def allows_any(self, row: int) -> bool:
        """Return whether a row allows a token."""
        return bool(self.words[row].any())


class Ceilings:
    """Applies a mask to logits in main memory."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        import numpy as np

        self.masks = Masks(vocabulary)
        self._bits = self.masks.words.reshape(-1).view(np.uint8)
        bit = np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1, bitorder="little")
        self._of_byte = np.where(bit == 1, np.float32(np.inf), np.float32(-np.inf)).astype(np.float32)
        self._ceiling = np.empty((len(self._bits), 8), dtype=np.float32)
        self._flat = self._ceiling.reshape(-1)
        self._numpy = np
        self.vocabulary = vocabulary
        self.ends = frozenset(vocabulary.marks_end)

    @cached_property
    def closed(self) -> NDArray[np.intp]:
        """The tokens that may not come before the constraint begins."""
        silent = [token for token, text in enumerate(self.vocabulary.texts) if not text]
        return self._numpy.array(sorted({*self.vocabulary.ends, *silent}), dtype=self._numpy.intp)

    def apply(self, logits: NDArray[np.float32]) -> None:
        """Take away what the mask does not allow. It costs the same whatever that is."""
        numpy = self._numpy
        numpy.take(self._of_byte, self._bits, axis=0, out=self._ceiling, mode="clip")
        numpy.minimum(logits, self._flat[: len(logits)], out=logits)
