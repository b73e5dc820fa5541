"""The engine's typed options: validation, `modelrack engine` and the docs from one declaration."""

from typing import Literal

from pydantic import Field

from modelrack.catalog.gguf_options import GgufTextOptions

__all__ = ["LlamaCppOptions"]


class LlamaCppOptions(GgufTextOptions):
    """Options of llama.cpp, as far as the installed build has them."""

    n_ctx: int | None = Field(
        None,
        ge=0,
        le=16_777_216,
        description="Tokens of context for each sequence; 0 is all that the model has. Default: all, "
        "or less if four sequences of it would take more than half of the free memory.",
    )
    n_parallel: int | None = Field(
        None,
        ge=1,
        le=256,
        description="Sequences answered at once; more requests wait their turn. Each has its own n_ctx of cache. "
        "Default: 8, or less if they would take more than half of the free memory.",
    )
    n_batch: int | None = Field(
        None,
        ge=32,
        le=65_536,
        description="Tokens of prompts handed over at once: between two batches other sequences go on, and clients "
        "that left are noticed. Default: 512 on the CPU, 2048 on an accelerator.",
    )
    kv_unified: bool = Field(
        False,
        description="Let all sequences share one cache of n_ctx tokens instead of having n_ctx each: less memory, but "
        "long sequences can fill it up for the others.",
    )
    swa_full: bool = Field(False, description="Keep the whole cache of layers with a sliding window.")
    cache_prompt: bool = Field(True, description="Reuse what a slot has of an earlier prompt with the same beginning.")
    cache_reuse: int = Field(
        0, ge=0, description="Least tokens of a chunk that is reused by shifting it in the cache; 0 is off."
    )
    cache_ram_mib: int = Field(
        0, ge=0, description="MiB of main memory for the caches of prompts that lost their slot; 0 is off."
    )
    context_shift: bool = Field(
        False, description="Drop the oldest half of a full context and go on, instead of ending with `length`."
    )
    chat_template: str | None = Field(
        None, description="Jinja source, or the name of one of llama.cpp's own, instead of the model's chat template."
    )
    reasoning_format: Literal["auto", "deepseek", "none"] = Field(
        "auto",
        description="Whether reasoning goes to `reasoning_content` (auto, deepseek) or stays in the content (none).",
    )
    verbosity: int = Field(
        1, ge=0, le=9, description="How much llama.cpp logs: 1 errors, 2 warnings, 3 facts, 4 and more traces."
    )
