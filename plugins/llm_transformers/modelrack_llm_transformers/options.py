"""The engine's typed options: validation, `modelrack engine` and the docs from one declaration."""

from typing import Literal

from pydantic import Field

from modelrack.hooks import Options
from modelrack.pytorch import RemoteCode

__all__ = ["TransformersOptions"]

Dtype = Literal["auto", "float32", "float16", "bfloat16"]


class TransformersOptions(Options):
    """Options of Transformers, and of the decode loop around it."""

    dtype: Dtype = Field(
        "auto",
        description="Type of the weights in memory. auto: as the model's files have them; float32 on a CPU slow "
        "in 16 bits.",
    )
    device_map: Literal["single", "auto", "balanced", "balanced_low_0", "sequential"] = Field(
        "single",
        description="How several accelerators share the model: single: the first holds all of it (with more than one "
        "given: balanced); the others as Accelerate has them.",
    )
    attn_implementation: Literal["sdpa", "eager", "flash_attention_2", "flash_attention_3", "flex_attention"] | None = (
        Field(
            None,
            description="How attention is computed. Default: flash attention where it is installed, on CUDA; else "
            "what Transformers chooses for the model.",
        )
    )
    batching: Literal["auto", "continuous", "generate"] = Field(
        "auto",
        description="How requests are computed together: continuous: each step takes a token of every running sequence "
        "and parts of new prompts, over a paged cache; generate: groups of requests by Transformers' `generate`. auto: "
        "continuous where the model's answers are the same that way, which is tried while loading.",
    )
    max_model_len: int | None = Field(
        None,
        ge=8,
        le=16_777_216,
        description="Most tokens of one sequence, prompt and answer. Default: all that the model has, or less if the "
        "cache would not hold them.",
    )
    max_num_seqs: int | None = Field(
        None,
        ge=1,
        le=4096,
        description="Sequences computed together; more requests wait their turn. Default: 8 on the CPU, 256 on an "
        "accelerator.",
    )
    max_queue: int = Field(
        256, ge=0, le=100_000, description="Requests that may wait; more are refused with the status 429."
    )
    max_batch_tokens: int | None = Field(
        None,
        ge=32,
        le=65_536,
        description="Most tokens computed in one step: running sequences first, then parts of prompts. Default: 256 on "
        "the CPU, 2048 on an accelerator (8192 with flash attention).",
    )
    kv_tokens: int | None = Field(
        None,
        ge=64,
        le=268_435_456,
        description="Tokens that the attention cache holds, over all sequences. When they run out, sequences are "
        "interrupted and taken up again later. Default: by kv_memory_fraction.",
    )
    kv_memory_fraction: float = Field(
        0.85,
        gt=0,
        le=0.95,
        description="Share of an accelerator's memory left after loading that the cache and its buffers may take. On "
        "the CPU, the cache holds at most 65536 tokens (or one max_model_len) and half of this share.",
    )
    page_size: int | None = Field(
        None,
        ge=4,
        le=4096,
        description="Tokens of a page of the cache; beginnings are shared by whole pages. Default: 256 with flash "
        "attention, else 16.",
    )
    prefix_cache: bool = Field(True, description="Keep what was read of prompts, for later ones that begin like them.")
    cuda_graphs: Literal["auto", "on", "off"] = Field(
        "auto", description="Record a step's kernels and replay them; auto: where flash attention is used."
    )
    n_threads: int | None = Field(
        None, ge=1, le=512, description="Threads that compute on the CPU. Default: one less than there are cores."
    )
    trust_remote_code: RemoteCode = False
    chat_template: str | None = Field(None, description="Jinja source, instead of the model's chat template.")
    seed: int | None = Field(
        None, ge=0, le=4_294_967_294, description="Seed of requests that bring none; default: a new one for each."
    )
    warmup: bool = Field(True, description="Compute once while loading, so that the first request is not slower.")
    quantization: Literal["none", "bnb-8bit", "bnb-4bit"] = Field(
        "none",
        description="Quantize the weights while loading, with bitsandbytes: 8 bits, or 4 (NF4). Models whose weights "
        "are quantized already (GPTQ, AWQ, bitsandbytes, FP8, …) are loaded as they are.",
    )
    draft_model: str | None = Field(
        None,
        description="Folder of a smaller model with the same vocabulary, which drafts tokens ahead for requests that "
        "are computed alone.",
    )
    prompt_lookup: bool = Field(
        False, description="Draft tokens ahead by what follows the same words in the prompt and the answer so far."
    )
    draft_max: int = Field(8, ge=1, le=64, description="Tokens that are drafted at a time.")
    compile: bool = Field(
        False,
        description="Compile the steps of `generate` with torch.compile and CUDA graphs, over a cache of a fixed size: "
        "a minute or more for each new size, faster steps after that.",
    )
    image_max_bytes: int = Field(20 << 20, ge=1024, le=1 << 30, description="Most bytes of an image's file.")
    image_max_pixels: int = Field(
        32_000_000, ge=1024, le=1_000_000_000, description="Most pixels of all images of a prompt, unpacked."
    )
