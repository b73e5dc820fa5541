"""How much memory a model that pools will need, and from that how long its texts can be."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from ..catalog import gguf_memory
from ..catalog.gguf import GgufMetadata
from ..catalog.gguf_memory import cache_bytes_per_token
from ..errors import LaunchFailed
from ..hooks.types import LoadPlan, Machine, MemoryEstimate
from .facts import PooledFacts, read_facts

__all__ = ["PooledSizes", "choose_sizes", "estimate"]

_RUNTIME_BYTES = 96 << 20
"""The process itself, with Python, numpy and llama.cpp's code."""
_CPU_BATCH, _BATCH = 512, 2048
_LEAST_TOKENS = 512
_BLOCK = 256
"""llama.cpp rounds cells up to this."""
_SEQUENCES = 64
_MIB = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class PooledSizes:
    """What was chosen.

    Args:
        max_tokens: of a text.
        batch_tokens: most tokens of several texts that are computed at once.
        n_batch: most tokens that llama.cpp computes at once.
        sequences: texts that it tells apart. They divide `n_batch`: it aborts the process otherwise (b11549, where the
            mean is pooled).
        cells: of the attention cache; models that see a whole text at once mostly have none.
    """

    max_tokens: int
    batch_tokens: int
    n_batch: int
    sequences: int
    cells: int
    cache_bytes: int
    buffer_bytes: int


def choose_sizes(
    options: Mapping[str, Any],
    metadata: GgufMetadata,
    free_bytes: int,
    *,
    on_accelerator: bool,
    extra_bytes: int = 0,
    facts: PooledFacts,
) -> PooledSizes:
    """Choose what the options leave open, so that cache and buffers take at most half of the free memory.

    Args:
        free_bytes: of the memory that they will lie in.

    Raises: LaunchFailed: what the options ask for cannot fit, or the model has not.
    """
    trained, asked = facts.trained_tokens, options["max_tokens"]
    if asked is not None and asked > trained and not facts.is_causal:
        raise LaunchFailed(f"max_tokens is {asked}, and this model reads {trained} tokens at most.")
    batch = options["batch_tokens"] or (_BATCH if on_accelerator else _CPU_BATCH)
    no_flash = options["flash_attn"] == "off"
    budget = max(0, free_bytes - metadata.file_bytes - extra_bytes - _RUNTIME_BYTES) // 2
    tokens = asked or trained
    while True:
        sizes = _sizes(options, metadata, facts, tokens, batch, no_flash=no_flash)
        taken = sizes.cache_bytes + sizes.buffer_bytes
        if taken - _RUNTIME_BYTES <= budget or asked is not None or tokens <= _LEAST_TOKENS:
            break
        tokens = max(_LEAST_TOKENS, tokens // 2)
    if taken > free_bytes:
        raise LaunchFailed(
            f"Texts of {tokens} tokens take {taken // _MIB} MiB beside the weights, and {free_bytes // _MIB} MiB are "
            "free.",
            remedy="Launch it with a smaller max_tokens or batch_tokens.",
        )
    return sizes


def _sizes(
    options: Mapping[str, Any], metadata: GgufMetadata, facts: PooledFacts, tokens: int, batch: int, *, no_flash: bool
) -> PooledSizes:
    n_batch = max(batch, tokens) if facts.is_whole else batch
    n_batch = -(-n_batch // _SEQUENCES) * _SEQUENCES
    # A cell more than the longest text has: llama.cpp's server wants room for a token to come.
    cells = -(-max(n_batch, tokens + 1) // _BLOCK) * _BLOCK
    per_token = cache_bytes_per_token(metadata, options["cache_type_k"], options["cache_type_v"])
    return PooledSizes(
        max_tokens=tokens,
        batch_tokens=batch,
        n_batch=n_batch,
        sequences=1 << min(_SEQUENCES, options["batch_items"]).bit_length() - 1,
        cells=cells,
        cache_bytes=per_token * cells if facts.is_causal else 0,
        buffer_bytes=_RUNTIME_BYTES + _buffer_bytes(metadata, facts, n_batch, cells, no_flash=no_flash),
    )


def _buffer_bytes(metadata: GgufMetadata, facts: PooledFacts, n_batch: int, cells: int, *, no_flash: bool) -> int:
    """Return roughly what a forward pass takes: activations, which token sees which, and what comes out.

    llama.cpp computes the logits of every token of a decoder, also where nobody wants them, and has a buffer for them.
    """
    width = metadata.number("embedding_length") or 0
    hidden = metadata.number("feed_forward_length") or 4 * width
    heads = metadata.number("attention.head_count") or 1
    seen = cells if facts.is_causal else n_batch
    vocabulary = metadata.vocabulary_size or 0
    activations = 4 * n_batch * (6 * width + 2 * hidden)
    # Without flash attention there is a number for each head, token and token that it sees.
    masks = n_batch * seen * (4 * heads + 4 if no_flash else 3)
    outputs = 4 * n_batch * (vocabulary * (2 if facts.is_causal else 1) + width)
    return activations + masks + outputs


def estimate(plan: LoadPlan, machine: Machine) -> MemoryEstimate | None:
    """Estimate what a replica will need; None: neither its file nor its size is known.

    Raises: LaunchFailed: nothing useful fits, or it can neither embed nor rank.
    """
    if not plan.files.path:
        return None
    facts = read_facts(plan, gguf_memory.read_model(plan.files.path))
    return gguf_memory.estimate(plan, machine, partial(choose_sizes, facts=facts), _RUNTIME_BYTES * 2)
