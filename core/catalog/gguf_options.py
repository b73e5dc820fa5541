"""Options that engines of GGUF files have in common: how llama.cpp, which all of them run, loads a model."""

from typing import Any, Literal, TypeAlias

from pydantic import ConfigDict, Field

from ..hooks.types import Options

__all__ = ["CacheType", "GgufOptions", "GgufTextOptions", "Switch"]

CacheType: TypeAlias = Literal["f32", "f16", "bf16", "q8_0", "q5_1", "q5_0", "q4_1", "q4_0", "iq4_nl"]
Switch: TypeAlias = Literal["auto", "on", "off"]


def _own_first(schema: dict[str, Any], kind: type) -> None:
    """Let an engine's own options stand before those that it shares, where they are listed."""
    names = dict.fromkeys(name for one in kind.__mro__ for name in vars(one).get("__annotations__", {}))
    properties = schema["properties"]
    schema["properties"] = {name: properties[name] for name in names if name in properties}


class GgufOptions(Options):
    """Options of llama.cpp for models of any type."""

    model_config = ConfigDict(json_schema_extra=_own_first)

    n_threads: int | None = Field(
        None,
        ge=1,
        le=512,
        description="Threads that compute. Default: one less than there are cores, because llama.cpp's threads spin "
        "and lose most of their speed when they share a core.",
    )
    flash_attn: Switch = Field("auto", description="Whether to use flash attention.")
    cache_type_k: CacheType = Field("f16", description="Type of the keys in the attention cache.")
    cache_type_v: CacheType = Field(
        "f16", description="Type of the values in the attention cache; a quantized one needs flash attention."
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
    warmup: bool = Field(True, description="Compute once while loading, so that the first request is not slower.")


class GgufTextOptions(GgufOptions):
    """Options of llama.cpp for models that write."""

    n_threads_batch: int | None = Field(
        None, ge=1, le=512, description="Threads that read prompts; default: as n_threads."
    )
    n_ubatch: int = Field(512, ge=16, le=65_536, description="Tokens computed at once; more take more memory.")
    seed: int | None = Field(
        None, ge=0, le=4_294_967_294, description="Seed of requests that bring none; default: a new one for each."
    )
    mmproj: str | None = Field(None, description="Path of a multimodal projector; default: the one beside the model.")
    draft_model: str | None = Field(None, description="Path of a small GGUF model that drafts tokens ahead.")
    draft_max: int = Field(16, ge=1, le=256, description="Most tokens drafted ahead.")
    draft_min: int = Field(0, ge=0, le=256, description="Fewer drafted tokens than this are not tried.")
    draft_p_min: float = Field(0.75, ge=0, le=1, description="Least probability of a drafted token.")
