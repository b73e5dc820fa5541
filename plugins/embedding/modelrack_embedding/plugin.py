"""What the server loads of this plugin: families, and the engine's description. Imports no engine."""

from pathlib import Path

from modelrack.encoders import estimate
from modelrack.hooks import Candidate, Engine, Environment, Family, Machine, PythonWorker, hookimpl, read_families
from modelrack.settings import get_settings

from .options import SentenceTransformersOptions

__all__ = ["MODELRACK_API", "register_engines", "register_families"]

MODELRACK_API = 1

_FILE = Path(__file__).with_name("families.jsonl")
_REMEDY = "pip install modelrack-embedding, or let the server make an environment: --env isolated"

_OWN_KINDS = {"gguf": "GGUF files are for llama.cpp", "mlx": "MLX weights are for mlx-lm"}

_ENVIRONMENT = Environment(
    requirements=(
        "accelerate>=1.10",
        "numpy>=2",
        "psutil>=5.9",
        "safetensors>=0.6",
        "sentence-transformers>=6.2,<6.3",
        "tokenizers>=0.22",
        "torch>=2.9",
        "transformers>=5.20,<6",
    ),
)


def _accepts(candidate: Candidate, machine: Machine) -> str | None:
    """Take what sentence-transformers reads: which architectures it knows, it says itself when it loads."""
    form = candidate.variant.format
    if form != "pytorch":
        return _OWN_KINDS.get(form, f"it does not load the format '{form}'")
    if candidate.family.facts.get("needs_remote_code") and not get_settings().trust_remote_code:
        return (
            "the model comes with Python code of its own, which the server does not run; its operator can allow it by "
            "MODELRACK_TRUST_REMOTE_CODE=1"
        )
    if machine.platform == "win32":
        return "it has not been made to run on Windows"
    return None


@hookimpl
def register_families() -> list[Family]:
    """Read the families of `families.jsonl`."""
    return read_families(_FILE, "embedding")


@hookimpl
def register_engines() -> list[Engine]:
    """Describe sentence-transformers."""
    return [
        Engine(
            name="sentence-transformers",
            model_types=("embedding",),
            worker=PythonWorker(loader="modelrack_embedding.worker:SentenceTransformersLoader"),
            accepts=_accepts,
            options=SentenceTransformersOptions,
            aliases=("sentence_transformers", "st"),
            requires=("torch", "transformers", "sentence_transformers"),
            remedy=_REMEDY,
            environment=_ENVIRONMENT,
            rank=30,
            estimate=estimate,
        )
    ]
