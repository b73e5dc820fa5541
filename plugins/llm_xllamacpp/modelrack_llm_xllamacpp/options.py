"""The engine's typed options: validation, `modelrack engine` and the docs from one declaration."""

from typing import Literal

from pydantic import Field

from modelrack.hooks import Options

__all__ = ["LlamaCppOptions"]

CacheType = Literal["f32", "f16", "bf16", "q8_0", "q5_1", "q5_0", "q4_1", "q4_0", "iq4_nl"]
Switch = Literal["auto", "on", "off"]


class LlamaCppOptions(Options):
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
    n_threads: int | None = Field(
        None,
        ge=1,
        le=512,
        description="Threads that compute. Default: one less than there are cores, because llama.cpp's threads spin "
        "and lose most of their speed when they share a core.",
    )
    n_threads_batch: int | None = Field(
        None, ge=1, le=512, description="Threads that read prompts; default: as n_threads."
    )
    n_batch: int | None = Field(
        None,
        ge=32,
        le=65_536,
        description="Tokens of prompts handed over at once: between two batches other sequences go on, and clients "
        "that left are noticed. Default: 512 on the CPU, 2048 on an accelerator.",
    )
    n_ubatch: int = Field(512, ge=16, le=65_536, description="Tokens computed at once; more take more memory.")
    cache_type_k: CacheType = Field("f16", description="Type of the keys in the attention cache.")
    cache_type_v: CacheType = Field(
        "f16", description="Type of the values in the attention cache; a quantized one needs flash attention."
    )
    flash_attn: Switch = Field("auto", description="Whether to use flash attention.")
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
    n_gpu_layers: int | Literal["auto"] = Field(
        "auto", description="Layers on the accelerators given to the model; auto: as many as fit."
    )
    main_gpu: int = Field(0, ge=0, description="Accelerator that holds what is not split.")
    split_mode: Literal["none", "layer", "row"] = Field(
        "layer", description="How several accelerators share the model."
    )
    tensor_split: list[float] | None = Field(None, description="Shares of the accelerators, in their order.")
    offload_kv: bool = Field(True, description="Keep the attention cache on the accelerator.")
    use_mmap: bool = Field(True, description="Map the file instead of reading it.")
    use_mlock: bool = Field(False, description="Keep the weights from being swapped out.")
    check_tensors: bool = Field(False, description="Check every tensor for invalid values while loading.")
    rope_freq_base: float = Field(0.0, ge=0, description="Base frequency of the rotary embedding; 0 is the model's.")
    rope_freq_scale: float = Field(0.0, ge=0, description="Scale of its frequencies; 0 is the model's.")
    rope_scaling: Literal["model", "none", "linear", "yarn", "longrope"] = Field(
        "model", description="How the rotary embedding is stretched."
    )
    yarn_orig_ctx: int = Field(
        0, ge=0, description="Context that the model was trained on, for YaRN; 0 is the model's."
    )
    yarn_ext_factor: float = Field(-1.0, description="YaRN's mix of extrapolation; negative is the model's.")
    yarn_attn_factor: float = Field(-1.0, description="YaRN's scale of attention; negative is the model's.")
    yarn_beta_fast: float = Field(-1.0, description="YaRN's low correction dimension; negative is the model's.")
    yarn_beta_slow: float = Field(-1.0, description="YaRN's high correction dimension; negative is the model's.")
    numa: Literal["off", "distribute", "isolate", "numactl"] = Field("off", description="How to treat NUMA nodes.")
    chat_template: str | None = Field(
        None, description="Jinja source, or the name of one of llama.cpp's own, instead of the model's chat template."
    )
    reasoning_format: Literal["auto", "deepseek", "none"] = Field(
        "auto",
        description="Whether reasoning goes to `reasoning_content` (auto, deepseek) or stays in the content (none).",
    )
    seed: int | None = Field(
        None, ge=0, le=4_294_967_294, description="Seed of requests that bring none; default: a new one for each."
    )
    mmproj: str | None = Field(None, description="Path of a multimodal projector; default: the one beside the model.")
    draft_model: str | None = Field(None, description="Path of a small GGUF model that drafts tokens ahead.")
    draft_max: int = Field(16, ge=1, le=256, description="Most tokens drafted ahead.")
    draft_min: int = Field(0, ge=0, le=256, description="Fewer drafted tokens than this are not tried.")
    draft_p_min: float = Field(0.75, ge=0, le=1, description="Least probability of a drafted token.")
    warmup: bool = Field(True, description="Compute once while loading, so that the first request is not slower.")
    verbosity: int = Field(
        1, ge=0, le=9, description="How much llama.cpp logs: 1 errors, 2 warnings, 3 facts, 4 and more traces."
    )
