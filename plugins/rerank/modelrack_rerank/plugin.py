"""What the server loads of this plugin: the families of `families.jsonl`, and the engine's description."""

from collections.abc import Mapping
from pathlib import Path

from modelrack.hooks import (
    Candidate,
    Engine,
    Environment,
    Family,
    LoadPlan,
    Machine,
    MemoryEstimate,
    PythonWorker,
    hookimpl,
    read_families,
)

from .options import RerankOptions

__all__ = ["MODELRACK_API", "register_engines", "register_families"]

MODELRACK_API = 1

_FILE = Path(__file__).with_name("families.jsonl")

_REMEDY = "pip install modelrack-rerank, or let the server make an environment: --env isolated"

_OWN_KINDS = {"gguf": "GGUF files are for llama.cpp", "mlx": "MLX weights are for mlx-lm"}

_SCORINGS: Mapping[str, str | None] = {
    "pairs": None,
    "layerwise": "it is read by code of its own, which scores after each of its layers",
    "listwise": "it is read by code of its own, which takes all documents of a request at once",
    "images": "it is made for images beside texts, and this engine reads texts alone",
}
"""Ways in which models score, as families say it (fact `scoring`), and why one cannot be had here."""

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
    """Take what sentence-transformers reads: which architectures these are, it says itself when it loads."""
    form = candidate.variant.format
    if form != "pytorch":
        return _OWN_KINDS.get(form, f"it does not load the format '{form}'")
    facts = candidate.family.facts
    scoring = str(facts.get("scoring", "pairs"))
    reason = _SCORINGS.get(scoring, f"it does not know the scoring '{scoring}'")
    if reason is not None:
        return reason
    if facts.get("needs_remote_code") and not _runs_remote_code():
        return (
            "the model comes with Python code of its own, which the server does not run; its operator can allow it by "
            "MODELRACK_TRUST_REMOTE_CODE=1"
        )
    if machine.platform == "win32":
        return "it has not been made to run on Windows"
    return None


def _runs_remote_code() -> bool:
    from modelrack.settings import get_settings

    return get_settings().trust_remote_code


def _estimate(plan: LoadPlan, machine: Machine) -> MemoryEstimate | None:
    from modelrack.encoders import estimate

    return estimate(plan, machine)


@hookimpl
def register_engines() -> list[Engine]:
    """Describe sentence-transformers' cross-encoders."""
    return [
        Engine(
            name="cross-encoder",
            model_types=("rerank",),
            worker=PythonWorker(loader="modelrack_rerank.worker:CrossEncoderLoader"),
            accepts=_accepts,
            options=RerankOptions,
            aliases=("CrossEncoder", "sentence-transformers", "sentence_transformers"),
            requires=("torch", "sentence_transformers"),
            remedy=_REMEDY,
            environment=_ENVIRONMENT,
            rank=50,
            estimate=_estimate,
        )
    ]


@hookimpl
def register_families() -> list[Family]:
    """Read the families of `families.jsonl`."""
    return read_families(_FILE, "rerank")
