"""What the server loads of this plugin: the engine's description. Imports no engine."""

from modelrack.hooks import Engine, LoadPlan, Machine, MemoryEstimate, PythonWorker, hookimpl
from modelrack.pooling import POOLED_OPTIONS, POOLED_TYPES, accepts_gguf, estimate_by_type

from .options import LlamaCppPythonOptions

__all__ = ["MODELRACK_API", "register_engines"]

MODELRACK_API = 1

_REMEDY = (
    "pip install modelrack-llm-gguf; it compiles llama.cpp, for an accelerator with CMAKE_ARGS set "
    "(CUDA: CMAKE_ARGS=-DGGML_CUDA=on; Metal, Vulkan, ROCm: see the plugin's README)"
)


_FEATURES = (
    *("sampling", "seed", "n", "penalties", "dry", "logit_bias", "logprobs", "prompt_logprobs", "stop_token_ids"),
    *("ignore_eos", "min_tokens", "special_tokens", "echo", "suffix", "token_prompts", "json_schema", "regex"),
    *("choice", "grammar", "tools", "forced_tools", "reasoning", "template_variables", "continue_message"),
    *("lora", "images", "prefix_cache", "cache_salt", "speculation"),
)


def _estimate(plan: LoadPlan, machine: Machine) -> MemoryEstimate | None:
    from .memory import estimate

    return estimate(plan, machine)


@hookimpl
def register_engines() -> list[Engine]:
    """Describe llama-cpp-python."""
    return [
        Engine(
            name="llama-cpp-python",
            model_types=("LLM", *POOLED_TYPES),
            worker=PythonWorker(loader="modelrack_llm_gguf.loaders:open_loader"),
            accepts=accepts_gguf,
            options={"LLM": LlamaCppPythonOptions, **POOLED_OPTIONS},
            aliases=("llama.cpp", "llama_cpp"),
            requires=("llama_cpp",),
            remedy=_REMEDY,
            takes_lora=True,
            rank=40,
            estimate=estimate_by_type(_estimate),
            features=_FEATURES,
        )
    ]
