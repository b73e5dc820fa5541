"""A context of llama.cpp: its cache of sequences and its one batch. Used by one thread at a time."""

from . import bindings
from .bindings import Batch, Handle
from .logprobs import Floats, row_of

__all__ = ["Context"]

_ALL = -1


class Context:
    """Computes batches of tokens over a cache that all sequences share.

    Args:
        n_batch: most tokens of a batch.
        whole: a sequence can only be taken over or removed as a whole (recurrent layers).
        window: tokens that layers with a sliding window look back on; 0: the cache has all.
    """

    def __init__(self, handle: Handle, n_vocab: int, n_batch: int, *, whole: bool = False, window: int = 0) -> None:
        self.handle = handle
        self.memory: Handle = bindings.get_memory(handle)
        self.n_vocab = n_vocab
        self.whole = whole
        self.window = window
        self.batch = Batch(n_batch)

    def decode(self, count: int) -> int:
        """Compute the first `count` tokens of the batch; returns llama.cpp's status once it is done, 0 is success."""
        status = bindings.decode(self.handle, self.batch, count)
        if status == 0:
            self.finish()
        return status

    def finish(self) -> None:
        """Wait until what was computed is there."""
        bindings.synchronize(self.handle)

    def row(self, index: int) -> Floats:
        """Return the logits that follow a token of the last batch."""
        return row_of(self.handle, index, self.n_vocab)

    def copy(self, source: int, target: int, end: int) -> None:
        """Let an empty slot share what another has before position `end`."""
        bindings.memory_copy(self.memory, source, target, 0, _ALL if self.whole else end)

    def cut(self, slot: int, start: int) -> bool:
        """Remove what a slot has from a position on; False: it cannot be."""
        return bool(bindings.memory_remove(self.memory, slot, start, _ALL))

    def clear(self, slot: int) -> None:
        """Remove all that a slot has."""
        bindings.memory_remove(self.memory, slot, _ALL, _ALL)

    def reaches(self, slot: int, end: int, depth: int) -> bool:
        """Tell whether what a slot has before position `end` is enough to go on from there.

        Args:
            depth: position after the slot's last.
        """
        if not self.window or end == depth:
            return True
        first = bindings.memory_first(self.memory, slot)
        return bool(first == 0 or first < end - self.window)

    def close(self) -> None:
        """Free it."""
        if self.handle:
            bindings.free_context(self.handle)
            self.handle = 0
