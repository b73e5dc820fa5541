"""The engine's typed options: validation, `modelrack engine` and the docs from one declaration."""

from typing import Literal, Self

from pydantic import Field, model_validator

from modelrack.hooks import Options

__all__ = ["LlamaCppPythonOptions"]

CacheType = Literal["f32", "f16", "bf16", "q8_0", "q5_1", "q5_0", "q4_1", "q4_0", "iq4_nl"]
Switch = Literal["auto", "on", "off"]


class LlamaCppPythonOptions(Options):
    """Options of llama.cpp, as llama-cpp-python has them, and of the decode loop around it."""

    n_ctx: int | None = Field(
        None,
        ge=0,
        le=16_777_216,
        description="Most tokens of one sequence, prompt and answer; 0 is all that the model has. Default: all, or "
        "less if the cache would take more than half of the free memory.",
    )
    n_parallel: int = Field(8, ge=1, le=128, description="Sequences computed together; more requests wait their turn.")
    kv_cells: int | None = Field(
        None,
        ge=64,
        le=268_435_456,
        description="Tokens that the attention cache holds, over all sequences. When they run out, the youngest "
        "sequence steps back and is taken up again later. Default: n_ctx for each sequence, but at most 65536 (or one "
        "n_ctx), and no more than half of the free memory.",
    )
    prefix_cells: int | None = Field(
        None,
        ge=0,
        le=268_435_456,
        description="Of these, tokens kept of sequences that are over, for later ones that begin like them; 0 is none. "
        "Kept tokens slow all sequences down a little: most go early as long as later sequences make no use of them. "
        "Default: 8192, at most half of the cells.",
    )
    max_queue: int = Field(
        256, ge=0, le=100_000, description="Requests that may wait; more are refused with the status 429."
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
        description="Most tokens computed in one step. Running sequences are kept going while prompts are read, so a "
        "step often takes fewer. Default: 512 on the CPU, 2048 on an accelerator.",
    )
    n_ubatch: int = Field(512, ge=16, le=65_536, description="Tokens computed at once; more take more memory.")
    cache_type_k: CacheType = Field("f16", description="Type of the keys in the attention cache.")
    cache_type_v: CacheType = Field(
        "f16", description="Type of the values in the attention cache; a quantized one needs flash attention."
    )
    flash_attn: Switch = Field("auto", description="Whether to use flash attention.")
    swa_full: bool = Field(
        False,
        description="Keep the whole cache of layers with a sliding window: more memory, but all of a beginning can be "
        "used again.",
    )
    n_gpu_layers: int | Literal["auto"] = Field(
        "auto",
        description="Layers on the accelerators given to the model; auto (and -1): all of them, if the build has GPU "
        "offload.",
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
    chat_template: str | None = Field(None, description="Jinja source, instead of the model's chat template.")
    seed: int | None = Field(
        None, ge=0, le=4_294_967_294, description="Seed of requests that bring none; default: a new one for each."
    )
    mmproj: str | None = Field(None, description="Path of a multimodal projector; default: the one beside the model.")
    image_max_bytes: int = Field(20_971_520, ge=1024, description="Most bytes of an image's file.")
    image_max_pixels: int = Field(
        33_177_600, ge=1024, description="Most pixels of an image; they are counted before it is unpacked."
    )
    draft_model: str | None = Field(None, description="Path of a small GGUF model that drafts tokens ahead.")
    draft_max: int = Field(16, ge=1, le=256, description="Most tokens drafted ahead.")
    draft_min: int = Field(0, ge=0, le=256, description="Fewer drafted tokens than this are not tried.")
    draft_p_min: float = Field(0.75, ge=0, le=1, description="Least probability of a drafted token.")
    draft_adaptive: bool = Field(
        True,
        description="Draft only as many tokens as pay, by how often drafts were right and what steps take; off: always "
        "draft_max where there is anything to draft.",
    )
    prompt_lookup: bool = Field(
        False,
        description="Draft tokens ahead by looking up how the text went on before; a draft model drafts where that "
        "finds nothing.",
    )
    lookup_min: int = Field(3, ge=1, le=64, description="Least tokens that must have stood together before.")
    lookup_max: int = Field(
        8,
        ge=1,
        le=64,
        description="Tokens that are compared to find the place that fits best; no less than lookup_min.",
    )
    warmup: bool = Field(True, description="Compute once while loading, so that the first request is not slower.")
    verbosity: int = Field(
        1, ge=0, le=4, description="What llama.cpp logs: 0 nothing, 1 errors, 2 warnings, 3 facts, 4 traces."
    )

    @model_validator(mode="after")
    def _check_lookup(self) -> Self:
        if self.lookup_max < self.lookup_min:
            raise ValueError(f"'lookup_max' is {self.lookup_max}, less than 'lookup_min', which is {self.lookup_min}")
        return self
