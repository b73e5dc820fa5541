"""What the server loads of this plugin: the engine's description. Imports no engine."""

from modelrack.hooks import Candidate, Engine, Environment, LoadPlan, Machine, MemoryEstimate, PythonWorker, hookimpl

from .options import TransformersOptions

__all__ = ["MODELRACK_API", "register_engines"]

MODELRACK_API = 1

_REMEDY = "pip install modelrack-llm-transformers, or let the server make an environment: --env isolated"

_FEATURES = (
    *("sampling", "seed", "n", "penalties", "logit_bias", "logprobs", "prompt_logprobs", "stop_token_ids"),
    *("ignore_eos", "min_tokens", "special_tokens", "echo", "suffix", "token_prompts", "json_schema", "regex"),
    *("choice", "grammar", "tools", "forced_tools", "reasoning", "template_variables", "continue_message"),
    *("lora", "images", "prefix_cache", "cache_salt", "speculation"),
)

_FORMATS = {
    "pytorch": "",
    "gptq": "cuda",
    "awq": "cuda",
    "bnb": "",
    "fp8": "cuda",
}
"""Forms of models that it loads, and the kind of accelerator that each needs."""
_OWN_KINDS = {"gguf": "GGUF files are for llama.cpp", "mlx": "MLX weights are for mlx-lm"}

_ENVIRONMENT = Environment(
    requirements=(
        "accelerate>=1.10",
        "llguidance>=1.9",
        "numpy>=2",
        "peft>=0.18",
        "pillow>=11",
        "psutil>=5.9",
        "safetensors>=0.6",
        "tokenizers>=0.22",
        "torch>=2.9",
        "transformers>=5.23,<5.24",
    ),
    by_device={
        # Some models that see come with processors that need torchvision, of the same build as torch.
        "cuda": ("bitsandbytes>=0.48; sys_platform == 'linux'", "torchvision>=0.24"),
        "rocm": ("bitsandbytes>=0.48; sys_platform == 'linux'",),
    },
)


def _accepts(candidate: Candidate, machine: Machine) -> str | None:
    """Take what Transformers reads: which architectures it knows, it says itself when it loads."""
    form = candidate.variant.format
    if form not in _FORMATS:
        return _OWN_KINDS.get(form, f"it does not load the format '{form}'")
    needed = _FORMATS[form]
    kinds = {device.kind for device in machine.accelerators}
    if needed and not kinds & {needed, "rocm", "xpu"}:
        return f"weights in the format '{form}' need an accelerator, and this machine has none that would do"
    if machine.platform == "win32":
        return "it has not been made to run on Windows"
    return None


def _rank(candidate: Candidate, machine: Machine) -> int:
    """Stand below what is faster on the machine at hand: llama.cpp on the CPU, vLLM on CUDA."""
    return 30 if machine.accelerators else 20


def _estimate(plan: LoadPlan, machine: Machine) -> MemoryEstimate | None:
    from .memory import estimate

    return estimate(plan, machine)


@hookimpl
def register_engines() -> list[Engine]:
    """Describe Transformers."""
    return [
        Engine(
            name="Transformers",
            model_types=("LLM",),
            worker=PythonWorker(loader="modelrack_llm_transformers.worker:TransformersLoader"),
            accepts=_accepts,
            options=TransformersOptions,
            aliases=("transformers",),
            requires=("torch", "transformers"),
            remedy=_REMEDY,
            environment=_ENVIRONMENT,
            takes_lora=True,
            rank=_rank,
            estimate=_estimate,
            features=_FEATURES,
        )
    ]
