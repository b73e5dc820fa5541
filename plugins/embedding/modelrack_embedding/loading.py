"""Loads a model's folder with the class of sentence-transformers that it was made for."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from modelrack.catalog.local import read_json
from modelrack.catalog.weights import folder_weights
from modelrack.encoders import (
    attempt,
    check_weights,
    choose_device,
    choose_dtype,
    keep_freed_memory,
    stored_dtype,
    telling,
    use_threads,
)
from modelrack.errors import LaunchFailed
from modelrack.hooks import LoadPlan
from modelrack.worker import Report

__all__ = ["KINDS", "Loaded", "load"]

LIBRARY = "sentence-transformers"
KINDS = {"SentenceTransformer": "dense", "SparseEncoder": "sparse", "MultiVectorEncoder": "multi_vector"}
"""What a model's class makes, by the name that sentence-transformers writes into the model's settings."""


_UNUSED = re.compile(r"(^|\.)pooler\.")
"""Weights that many models are published without: embeddings are made of the tokens' states, not of this layer."""


@dataclass(frozen=True, slots=True)
class Loaded:
    """A model of sentence-transformers.

    Args:
        kind: of `KINDS`.
        config: the Transformers model's `config.json`; empty without one.
    """

    model: Any
    kind: str
    config: dict[str, Any]
    device: torch.device


def load(plan: LoadPlan, report: Report) -> Loaded:
    """Load a model; blocks as long as it takes.

    Raises: LaunchFailed: it is refused, or does not fit.
    """
    folder = Path(plan.files.path)
    check_weights(folder)
    use_threads(torch, plan.options["n_threads"])
    device = choose_device(torch, plan)
    if device.type == "cpu":
        keep_freed_memory()
    report(0.02, "importing sentence-transformers")
    library = _library()
    config = read_json(folder / "config.json") if (folder / "config.json").is_file() else {}
    name = _class_name(folder)
    weight_bytes = folder_weights(folder) or 0
    arguments = _arguments(plan, folder, device, weight_bytes)

    def taken() -> int:
        return int(torch.cuda.memory_allocated(device))

    with telling(report, weight_bytes, taken if device.type == "cuda" else None), _noting_missing() as missing:
        model = attempt(plan, LIBRARY, lambda: getattr(library, name)(str(folder), **arguments))
    _check_missing(folder, missing)
    model.eval()
    model.requires_grad_(False)
    if plan.options["compile"]:
        model.compile(dynamic=True)
    return Loaded(model, KINDS[name], config, device)


@contextmanager
def _noting_missing() -> Iterator[set[str]]:
    """Yield a set, and put in it the names of weights that Transformers does not find in the files of a model.

    It makes up random ones instead, and says so in its log alone: a model that was made for code of its own would give
    embeddings that mean nothing.
    """
    from transformers import modeling_utils

    found: set[str] = set()
    original = modeling_utils.log_state_dict_report

    def note(*args: Any, **kwargs: Any) -> None:
        found.update(kwargs["loading_info"].missing_keys)
        original(*args, **kwargs)

    modeling_utils.log_state_dict_report = note
    try:
        yield found
    finally:
        modeling_utils.log_state_dict_report = original


def _check_missing(folder: Path, missing: set[str]) -> None:
    names = sorted(name for name in missing if not _UNUSED.search(name))
    if names:
        more = f" and {len(names) - 3} more" if len(names) > 3 else ""
        raise LaunchFailed(
            f"The files in {folder} lack weights of the model: {', '.join(names[:3])}{more}.",
            remedy="If it was made for Python code that comes with it and you trust that, launch it with "
            "trust_remote_code=true; the server's operator must allow that.",
        )


def _library() -> Any:
    import sentence_transformers
    from transformers.utils import logging

    logging.disable_progress_bar()
    return sentence_transformers


def _class_name(folder: Path) -> str:
    """Return the name of the class that a model was made with; of a plain Transformers model, the one for sentences."""
    file = folder / "config_sentence_transformers.json"
    name = str(read_json(file).get("model_type", "SentenceTransformer")) if file.is_file() else "SentenceTransformer"
    if name not in KINDS:
        raise LaunchFailed(
            f"{folder} is a {name} of sentence-transformers, which makes no embeddings.",
            remedy="Launch it with: --model-type rerank" if name == "CrossEncoder" else None,
        )
    return name


def _arguments(plan: LoadPlan, folder: Path, device: torch.device, weight_bytes: int) -> dict[str, Any]:
    """Return what the class is told."""
    options = plan.options
    dtype = choose_dtype(torch, options["dtype"], stored_dtype(folder), device, weight_bytes)
    model: dict[str, Any] = {"dtype": dtype, "use_safetensors": True}
    if options["attn_implementation"] is not None:
        model["attn_implementation"] = options["attn_implementation"]
    arguments: dict[str, Any] = {
        "model_kwargs": model,
        "local_files_only": True,
        "trust_remote_code": options["trust_remote_code"],
    }
    several = len(plan.accelerators) > 1 and device.type == "cuda"
    if options["device_map"] != "single" or several:
        model["device_map"] = "balanced" if options["device_map"] == "single" else options["device_map"]
    else:
        arguments["device"] = str(device)
    return arguments
