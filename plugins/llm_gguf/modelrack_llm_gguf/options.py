"""The engine's typed options: validation, `modelrack engine` and the docs from one declaration."""

from typing import Literal, Self

from pydantic import Field, model_validator

from modelrack.catalog.gguf_options import GgufTextOptions

__all__ = ["LlamaCppPythonOptions"]


class LlamaCppPythonOptions(GgufTextOptions):
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
    n_batch: int | None = Field(
        None,
        ge=32,
        le=65_536,
        description="Most tokens computed in one step. Running sequences are kept going while prompts are read, so a "
        "step often takes fewer. Default: 512 on the CPU, 2048 on an accelerator.",
    )
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
    chat_template: str | None = Field(None, description="Jinja source, instead of the model's chat template.")
    image_max_bytes: int = Field(20_971_520, ge=1024, description="Most bytes of an image's file.")
    image_max_pixels: int = Field(
        33_177_600, ge=1024, description="Most pixels of an image; they are counted before it is unpacked."
    )
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
    verbosity: int = Field(
        1, ge=0, le=4, description="What llama.cpp logs: 0 nothing, 1 errors, 2 warnings, 3 facts, 4 traces."
    )

    @model_validator(mode="after")
    def _check_lookup(self) -> Self:
        if self.lookup_max < self.lookup_min:
            raise ValueError(f"'lookup_max' is {self.lookup_max}, less than 'lookup_min', which is {self.lookup_min}")
        return self
