"""What the server loads of this plugin: the engine's description. Imports no engine."""

from modelrack.hooks import Engine, LoadPlan, Machine, MemoryEstimate, PythonWorker, hookimpl
from modelrack.pooling import POOLED_OPTIONS, POOLED_TYPES, accepts_gguf, estimate_by_type

from .options import LlamaCppOptions

__all__ = ["MODELRACK_API", "register_engines"]

MODELRACK_API = 1

_FEATURES = (
    *("sampling", "seed", "n", "penalties", "dry", "logit_bias", "logprobs", "stop_token_ids", "ignore_eos"),
    *("echo", "suffix", "token_prompts", "json_schema", "regex", "choice", "grammar", "tools", "forced_tools"),
    *("reasoning", "template_variables", "continue_message", "lora", "images", "prefix_cache", "speculation"),
)
_REMEDY = "pip install modelrack-llm-xllamacpp"


def _estimate(plan: LoadPlan, machine: Machine) -> MemoryEstimate | None:
    from .memory import estimate

    return estimate(plan, machine)


@hookimpl
def register_engines() -> list[Engine]:
    """Describe llama.cpp."""
    return [
        Engine(
            name="llama.cpp",
            model_types=("LLM", *POOLED_TYPES),
            worker=PythonWorker(loader="modelrack_llm_xllamacpp.loaders:open_loader"),
            accepts=accepts_gguf,
            options={"LLM": LlamaCppOptions, **POOLED_OPTIONS},
            aliases=("llamacpp", "xllamacpp"),
            requires=("xllamacpp",),
            remedy=_REMEDY,
            takes_lora=True,
            rank=50,
            estimate=estimate_by_type(_estimate),
            features=_FEATURES,
        )
    ]
