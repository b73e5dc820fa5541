"""A context of llama.cpp that pools: texts in, a row of numbers for each out. Used by one thread at a time."""

import ctypes
import os
from collections.abc import Sequence
from typing import Any

import numpy as np

from modelrack.errors import EngineError, LaunchFailed
from modelrack.hooks import LoadPlan
from modelrack.pooling.facts import PooledFacts
from modelrack.pooling.memory import PooledSizes

from . import bindings
from .bindings import Batch, Handle, api
from .logs import Reasons
from .params import count_threads, set_attention
from .weights import refused

__all__ = ["PooledContext", "open_pooled_context"]

_ABORTED = 2


class _Flag:
    """Tells llama.cpp to stop. It asks at every step of its computing, in threads that must not wait for Python.

    So what it asks is C's `strlen`, of a string that is empty until it is to stop.
    """

    def __init__(self) -> None:
        self._text = ctypes.create_string_buffer(2)
        library = ctypes.CDLL(None if os.name == "posix" else "ucrtbase")
        self.callback = ctypes.cast(library.strlen, api.ggml_abort_callback)
        self.data = ctypes.cast(self._text, ctypes.c_void_p)

    def set(self, stop: bool) -> None:
        self._text[0] = b"1" if stop else b"\0"


class PooledContext:
    """Computes texts that fit together, each in a sequence of its own.

    Args:
        n_batch: most tokens of a call.
        sequences: most texts of a call.
        is_whole: the tokens of a text must be in one call.
        width: numbers of a row.
        encodes: it is an encoder that has no decoder.
    """

    def __init__(
        self, handle: Handle, flag: _Flag, *, n_batch: int, sequences: int, is_whole: bool, width: int, encodes: bool
    ) -> None:
        self._handle = handle
        self._flag = flag
        self._memory: Handle | None = bindings.get_memory(handle)
        self._is_whole = is_whole
        self._width = width
        self._compute = bindings.encode_batch if encodes else bindings.decode_batch
        self._batch = Batch(n_batch)
        self._sequences = sequences

    def run(self, texts: Sequence[Sequence[int]]) -> list[Any]:
        """Return a row of float32 for each text.

        Raises: EngineError: llama.cpp could not compute it, or was told to stop.
        """
        self._flag.set(False)
        rows: list[Any] = []
        together: list[Sequence[int]] = []
        used = 0
        for tokens in texts:
            if together and (used + len(tokens) > self._batch.capacity or len(together) == self._sequences):
                rows += self._run_together(together)
                together, used = [], 0
            if len(tokens) > self._batch.capacity:
                rows.append(self._run_long(tokens))
                continue
            together.append(tokens)
            used += len(tokens)
        return rows + self._run_together(together) if together else rows

    def interrupt(self) -> None:
        """Make the `run` under way raise soon, on a CPU at once; callable from any thread."""
        self._flag.set(True)

    def _run_together(self, texts: Sequence[Sequence[int]]) -> list[Any]:
        at = 0
        for sequence, tokens in enumerate(texts):
            self._fill(at, sequence, tokens, 0)
            at += len(tokens)
        self._call(at)
        return [self._row(sequence) for sequence in range(len(texts))]

    def _run_long(self, tokens: Sequence[int]) -> Any:
        """Compute a text that is longer than a batch, part by part; its row is that of the last."""
        if self._is_whole:
            raise EngineError(f"A text of {len(tokens)} tokens cannot be computed at once.")
        step = self._batch.capacity
        for start in range(0, len(tokens), step):
            part = tokens[start : start + step]
            self._fill(0, 0, part, start)
            self._call(len(part), keep=start + step < len(tokens))
        return self._row(0)

    def _fill(self, at: int, sequence: int, tokens: Sequence[int], position: int) -> None:
        batch, count = self._batch, len(tokens)
        end = at + count
        batch.token[at:end] = list(tokens)
        batch.position[at:end] = list(range(position, position + count))
        batch.sequence[at:end] = [sequence] * count
        batch.wanted[at:end] = [1] * count

    def _call(self, count: int, *, keep: bool = False) -> None:
        self._batch.raw.n_tokens = count
        status = self._compute(self._handle, self._batch.raw)
        if status == 0:
            bindings.synchronize(self._handle)
        if self._memory and not (keep and status == 0):
            bindings.memory_clear(self._memory, False)
        if status == _ABORTED:
            raise EngineError("The computing was stopped.")
        if status != 0:
            raise EngineError(f"llama.cpp could not compute a batch (status {status}); its log may say why.")

    def _row(self, sequence: int) -> Any:
        address = bindings.pooled_row(self._handle, sequence)
        if not address:
            raise EngineError("llama.cpp gave no result for a text.")
        data = ctypes.string_at(address, ctypes.sizeof(ctypes.c_float) * self._width)
        return np.frombuffer(data, dtype=np.float32)

    def close(self) -> None:
        """Free it."""
        if self._handle:
            bindings.free_context(self._handle)
            self._handle = 0


def open_pooled_context(
    plan: LoadPlan, facts: PooledFacts, sizes: PooledSizes, cores: int, model: Handle
) -> PooledContext:
    """Make the context of a model that embeds or ranks.

    Raises: LaunchFailed: llama.cpp refuses it.
    """
    options = plan.options
    params = bindings.default_context_params()
    params.embeddings = True
    params.pooling_type = getattr(api, f"LLAMA_POOLING_TYPE_{facts.pooling.upper()}")
    params.n_ctx = sizes.cells
    params.n_batch = params.n_ubatch = sizes.n_batch
    params.n_seq_max = sizes.sequences
    params.kv_unified = True
    params.n_threads = params.n_threads_batch = count_threads(options["n_threads"], cores)
    set_attention(params, options)
    flag = _Flag()
    params.abort_callback, params.abort_callback_data = flag.callback, flag.data
    with Reasons() as reasons:
        handle: Handle | None = bindings.init_context(model, params)
    if not handle:
        raise refused(plan, reasons.text("the context could not be made"))
    context = PooledContext(
        handle,
        flag,
        n_batch=sizes.n_batch,
        sequences=sizes.sequences,
        is_whole=facts.is_whole,
        width=1 if facts.pooling == "rank" else bindings.model_output_width(model),
        encodes=not bindings.model_has_decoder(model),
    )
    if options["warmup"]:
        _warm_up(context)
    return context


def _warm_up(context: PooledContext) -> None:
    """Compute a token, so that weights are in memory before the first request."""
    try:
        context.run([[0]])
    except EngineError as error:
        context.close()
        raise LaunchFailed(f"llama.cpp could not compute a first token: {error}") from error
