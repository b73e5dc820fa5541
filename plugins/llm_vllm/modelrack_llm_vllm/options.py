"""The typed options of vLLM; any further argument of its server is checked against its own parser at the launch."""

from typing import Annotated, Any, Literal, Self

from pydantic import ConfigDict, Field, model_validator

from modelrack.hooks import Options

__all__ = ["VllmOptions"]

Count = Annotated[int, Field(ge=1)]


class VllmOptions(Options):
    """What a launch may say about vLLM. What is None is left to vLLM."""

    model_config = ConfigDict(extra="allow")

    max_model_len: Count | None = Field(None, description="Tokens of prompt and answer together; default: the model's.")
    dtype: Literal["auto", "bfloat16", "float16", "float32"] = Field("auto", description="Type of the weights.")
    quantization: str | None = Field(None, description="Method of a quantization that the files do not name.")
    gpu_memory_utilization: float | None = Field(
        None, gt=0, le=1, description="Part of the memory of each device that is taken; vLLM's default is 0.9."
    )
    kv_cache_gb: float | None = Field(
        None, gt=0, description="GiB for the attention cache; on the CPU the default is 1, else it is what is left."
    )
    kv_cache_dtype: str | None = Field(None, description="Type of the attention cache (`auto`, `fp8`, …).")
    tensor_parallel_size: Count | None = Field(
        None, description="Devices that share each layer; default: all that the replica has, by pipeline_parallel_size."
    )
    pipeline_parallel_size: Count = Field(1, description="Groups of devices that share the layers.")
    max_num_seqs: Count | None = Field(None, description="Sequences that are computed at once.")
    max_num_batched_tokens: Count | None = Field(None, description="Tokens that are computed at once.")
    max_num_queued_reqs: Count | None = Field(None, description="Sequences that may wait or be computed; above: 429.")
    enable_prefix_caching: bool | None = Field(None, description="Keep what prompts have in common.")
    enforce_eager: bool = Field(False, description="No graphs and no compiling: a quicker start, slower answers.")
    speculative_config: dict[str, Any] | None = Field(
        None, description="Tokens drafted ahead, as vLLM takes it; draft_model and prompt_lookup are short forms."
    )
    draft_model: str | None = Field(None, description="Folder of a small model that drafts tokens ahead.")
    prompt_lookup: Count | None = Field(None, description="Draft from the prompt, by up to so many equal tokens.")
    draft_tokens: Count = Field(4, description="Tokens to draft ahead at a time, where they are drafted.")
    max_lora_rank: Literal[1, 8, 16, 32, 64, 128, 256, 320, 512] | None = Field(
        None, description="Largest rank of the adapters; default: the least that holds those of the launch."
    )
    max_loras: Count | None = Field(None, description="Adapters in one batch; default: all of the launch, at most 8.")
    limit_mm_per_prompt: dict[str, int] | None = Field(None, description="Images and other media in one prompt.")
    chat_template: str | None = Field(None, description="Jinja source, or the path of a file with it.")
    generation_config: str | None = Field(
        None, description="`auto`: requests take on what the model's folder recommends; `vllm`: they do not."
    )
    tool_call_parser: str | None = Field(
        None,
        description="One of vLLM's parsers for tool calls, in place of the format that the template shows.",
    )
    reasoning_parser: str | None = Field(None, description="The same for the reasoning.")
    seed: int = Field(0, description="Of what is sampled without a seed of its own.")
    enable_sleep_mode: bool = Field(False, description="Weights can be put aside: /sleep and /wake_up at its socket.")

    @model_validator(mode="after")
    def _one_drafter(self) -> Self:
        given = [name for name in ("speculative_config", "draft_model", "prompt_lookup") if getattr(self, name)]
        if len(given) > 1:
            raise ValueError(f"only one of {' and '.join(given)} can be given")
        return self
