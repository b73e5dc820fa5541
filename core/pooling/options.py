"""Options of engines on llama.cpp for models that pool."""

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field

from ..batching import BatchLimits
from ..catalog.gguf_options import CacheType, GgufOptions, Switch

__all__ = ["EmbeddingOptions", "PooledOptions", "batch_limits"]


class PooledOptions(GgufOptions):
    """How a model is loaded by llama.cpp, and how its texts are batched."""

    max_tokens: int | None = Field(
        None,
        ge=8,
        le=16_777_216,
        description="Most tokens of a text (of query and document together); longer ones are cut or refused, as "
        "requests say. Default: all that the model was made for, or less if memory is short.",
    )
    batch_tokens: int | None = Field(
        None,
        ge=32,
        le=1_048_576,
        description="Most tokens computed at once; a longer text of an encoder is computed alone. Default: 512 on the "
        "CPU, 2048 on an accelerator.",
    )
    batch_items: int = Field(64, ge=1, le=256, description="Most texts computed at once.")
    queue_tokens: int = Field(
        1_000_000,
        ge=1,
        le=1_000_000_000,
        description="Tokens that may wait; requests beyond are refused with the status 429.",
    )
    queue_items: int = Field(
        8192, ge=1, le=10_000_000, description="Texts that may wait; requests beyond are refused with the status 429."
    )
    flash_attn: Switch = Field(
        "auto", description="Whether to use flash attention; it reads keys and values in 16 bits, also of encoders."
    )
    cache_type_k: CacheType = Field("f16", description="Type of the keys in the attention cache; encoders have none.")
    verbosity: int = Field(
        1, ge=0, le=4, description="What llama.cpp logs: 0 nothing, 1 errors, 2 warnings, 3 facts, 4 traces."
    )


class EmbeddingOptions(PooledOptions):
    """The same for models that embed."""

    pooling: Literal["auto", "mean", "cls", "last"] = Field(
        "auto", description="How the tokens of a text become one embedding. auto: as the model's file says."
    )
    matryoshka: bool | None = Field(
        None,
        description="Let requests cut embeddings short (`dimensions`). Default: as the model's family says. One that "
        "was not trained for it loses much by that.",
    )
    default_prompt: str | None = Field(
        None, description="Name of the prompt that is put before texts where a request names none."
    )


def batch_limits(options: Mapping[str, Any], batch_tokens: int) -> BatchLimits:
    """Return the limits of batches that the options of a launch say."""
    return BatchLimits(
        batch_tokens=batch_tokens,
        batch_items=options["batch_items"],
        queue_tokens=options["queue_tokens"],
        queue_items=options["queue_items"],
    )
