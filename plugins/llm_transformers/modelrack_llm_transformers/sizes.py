"""How many tokens, sequences and pages there are room for."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from .devices import free_bytes

__all__ = ["Sizes", "cache_bytes_per_token", "choose_sizes"]

_CPU_SEQUENCES = 8
_SEQUENCES = 256
_CPU_STEP = 256
_STEP = 2048
_FLASH_STEP = 8192
_PAGE = 16
_FLASH_PAGE = 256
_MOST_TOKENS = 65_536
_DEFAULT_CONTEXT = 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """Sizes of the cache and of steps.

    Args:
        most: sequences computed together.
        step: tokens computed in one step.
        page: tokens of a page of the cache.
        context: most tokens of one sequence.
        tokens: of the whole cache; None: as many as a share of the accelerator's memory holds.
        fraction: that share.
    """

    most: int
    step: int
    page: int
    context: int
    tokens: int | None
    fraction: float


def choose_sizes(options: Mapping[str, Any], config: Any, device: torch.device, dtype: torch.dtype) -> Sizes:
    """Choose what the launch leaves open.

    Args:
        config: of the text model.
        dtype: that is computed in.
    """
    is_cpu = device.type == "cpu"
    is_flash = "flash" in str(config._attn_implementation)
    most = options["max_num_seqs"] or (_CPU_SEQUENCES if is_cpu else _SEQUENCES)
    step = options["max_batch_tokens"] or (_CPU_STEP if is_cpu else _FLASH_STEP if is_flash else _STEP)
    trained = getattr(config, "max_position_embeddings", None) or getattr(config, "n_positions", None)
    context = options["max_model_len"] or int(trained or _DEFAULT_CONTEXT)
    tokens = options["kv_tokens"]
    if tokens is None and is_cpu:
        room = int(free_bytes(device) * options["kv_memory_fraction"] / 2)
        fits = room // max(1, cache_bytes_per_token(config, dtype))
        tokens = min(most * context, max(_MOST_TOKENS, context), fits)
    page = options["page_size"] or (_FLASH_PAGE if is_flash else _PAGE)
    return Sizes(
        most=most,
        step=max(step, most),
        page=page,
        context=context,
        tokens=None if tokens is None else max(tokens, 2 * page),
        fraction=options["kv_memory_fraction"],
    )


def cache_bytes_per_token(config: Any, dtype: torch.dtype) -> int:
    """Return the bytes that keys and values of a token take over all layers; 0 for a model without attention."""
    queries = getattr(config, "num_attention_heads", None)
    if not queries:
        return 0
    heads = getattr(config, "num_key_value_heads", None) or queries
    width = getattr(config, "head_dim", None) or config.hidden_size // queries
    return int(2 * heads * width * dtype.itemsize * getattr(config, "num_hidden_layers", 1))
