"""Options that engines for encoder models have in common."""

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field

from ..batching import BatchLimits
from ..hooks.types import Options
from ..pytorch import RemoteCode

__all__ = ["EncoderOptions", "batch_limits"]

_CPU_BATCH = 1024
_BATCH = 16_384
_CPU_PADDING = 64
_PADDING = 4096
"""As many tokens as take the time that a batch takes whatever is in it, about."""


class EncoderOptions(Options):
    """How a model is loaded, and how its texts are batched."""

    dtype: Literal["auto", "float32", "float16", "bfloat16"] = Field(
        "auto",
        description="Type of the weights in memory. auto: as the model's files have them; float32 on a CPU slow "
        "in 16 bits.",
    )
    device_map: Literal["single", "auto", "balanced", "balanced_low_0", "sequential"] = Field(
        "single",
        description="How several accelerators share the model: single: the first holds all of it; the others as "
        "Accelerate has them.",
    )
    attn_implementation: Literal["sdpa", "eager", "flash_attention_2", "flash_attention_3", "flex_attention"] | None = (
        Field(None, description="How attention is computed. Default: what Transformers chooses for the model.")
    )
    max_tokens: int | None = Field(
        None,
        ge=8,
        le=16_777_216,
        description="Most tokens of a text; longer ones are cut or refused, as requests say. Default: all that the "
        "model was made for.",
    )
    batch_tokens: int | None = Field(
        None,
        ge=32,
        le=16_777_216,
        description="Most tokens computed at once, padding included; a longer text is computed alone. Default: 1024 on "
        "the CPU, 16384 on an accelerator.",
    )
    batch_items: int = Field(128, ge=1, le=65_536, description="Most texts computed at once.")
    queue_tokens: int = Field(
        1_000_000,
        ge=1,
        le=1_000_000_000,
        description="Tokens that may wait; requests beyond are refused with the status 429.",
    )
    queue_items: int = Field(
        8192, ge=1, le=10_000_000, description="Texts that may wait; requests beyond are refused with the status 429."
    )
    n_threads: int | None = Field(
        None, ge=1, le=512, description="Threads that compute on the CPU. Default: one less than there are cores."
    )
    trust_remote_code: RemoteCode = False
    compile: bool = Field(
        False,
        description="Compile the model with torch.compile, for any length of texts: a minute or more while loading, "
        "faster batches after that.",
    )
    warmup: bool = Field(True, description="Compute once while loading, so that the first request is not slower.")


def batch_tokens(options: Mapping[str, Any], *, on_cpu: bool) -> int:
    """Return the most tokens of a batch."""
    return int(options["batch_tokens"] or (_CPU_BATCH if on_cpu else _BATCH))


def batch_limits(options: Mapping[str, Any], *, on_cpu: bool) -> BatchLimits:
    """Return the limits of batches that the options of a launch say."""
    return BatchLimits(
        batch_tokens=batch_tokens(options, on_cpu=on_cpu),
        batch_items=options["batch_items"],
        padding_tokens=_CPU_PADDING if on_cpu else _PADDING,
        queue_tokens=options["queue_tokens"],
        queue_items=options["queue_items"],
    )
