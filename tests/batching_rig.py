"""Small numeric models for the batcher: each item's result depends on the item alone, and on nothing beside it."""

import threading
from collections.abc import Sequence
from typing import Any

import numpy as np

from modelrack.batching import Prepared
from modelrack.errors import BadRequest, ModelrackError

SIZE = 16
_WEIGHTS = np.random.default_rng(0).standard_normal((SIZE, SIZE))


def ids_of(text: str) -> list[int]:
    """Return a text's tokens: its letters."""
    return [ord(letter) % 251 for letter in text]


def expected(text: str) -> float:
    """Return what the model makes of a text, computed by itself."""
    return float(_pool(np.array([ids_of(text)]), np.ones((1, len(text))))[0])


def _pool(ids: Any, mask: Any) -> Any:
    tokens = np.sin(ids[..., None] * np.arange(1, SIZE + 1)) @ _WEIGHTS
    return (np.tanh(tokens).sum(axis=2) * mask).sum(axis=1) / mask.sum(axis=1)


class Model:
    """Takes texts; its result is a number for each.

    Texts with `#` cannot be prepared; those with `!` have `prepare` raise; those with `?` have `run` raise.

    Args:
        most_tokens: batches with more of them, padding among them, lack memory.
        is_held: `run` waits for `release`.
    """

    def __init__(self, *, most_tokens: int | None = None, is_held: bool = False) -> None:
        self.batches: list[list[str]] = []
        self.prepared: list[list[str]] = []
        self.run_threads: set[str] = set()
        self.most_tokens = most_tokens
        self.begun = threading.Event()
        self._free = threading.Event()
        self._busy = {"prepare": threading.Lock(), "run": threading.Lock()}
        if not is_held:
            self._free.set()

    def release(self) -> None:
        """Let batches run."""
        self._free.set()

    def prepare(self, works: Sequence[str]) -> list[Prepared[str] | ModelrackError]:
        """Measure texts."""
        self._enter("prepare")
        try:
            self.prepared.append(list(works))
            if any("!" in text for text in works):
                raise ValueError("cannot read an exclamation")
            return [
                BadRequest(f"'{text}' is bad") if "#" in text else Prepared(text, len(text), text.isupper())
                for text in works
            ]
        finally:
            self._busy["prepare"].release()

    def run(self, batch: Sequence[str]) -> list[float]:
        """Pool the tokens of texts."""
        self._enter("run")
        try:
            self.run_threads.add(threading.current_thread().name)
            self.batches.append(list(batch))
            self.begun.set()
            assert self._free.wait(20)
            assert len({text.isupper() for text in batch}) == 1, "groups are mixed"
            longest = max(map(len, batch))
            assert longest == len(batch[-1]), "a batch comes sorted"
            if self.most_tokens is not None and longest * len(batch) > self.most_tokens:
                raise MemoryError
            if any("?" in text for text in batch):
                raise ArithmeticError("a question")
            ids, mask = np.zeros((len(batch), longest)), np.zeros((len(batch), longest))
            for row, text in enumerate(batch):
                ids[row, : len(text)] = ids_of(text)
                mask[row, : len(text)] = 1
            found: list[float] = _pool(ids, mask).tolist()
            return found
        finally:
            self._busy["run"].release()

    def _enter(self, name: str) -> None:
        assert self._busy[name].acquire(blocking=False), f"{name} is called twice at once"
