"""Loads a model's weights into llama.cpp, and says why it refuses."""

import os
from typing import Any

from modelrack.errors import LaunchFailed
from modelrack.hooks import LoadPlan
from modelrack.worker import Report

from . import bindings
from .bindings import Handle
from .logs import Reasons
from .params import build_model_params

__all__ = ["load_weights", "refused"]

_SMALLER = {"LLM": "Launch it with a smaller n_ctx or kv_cells."}
_SMALLER_BATCH = "Launch it with a smaller max_tokens or batch_tokens."


def load_weights(plan: LoadPlan, report: Report) -> Handle:
    """Load a model's weights; blocks as long as it takes.

    Raises: LaunchFailed: llama.cpp refuses the file.
    """
    params, _keep = build_model_params(plan)

    def progress(done: float, data: Any) -> bool:
        report(0.1 + 0.8 * done, "loading the model")
        return True

    callback = bindings.ProgressCallback(progress)
    params.progress_callback = callback
    with Reasons() as reasons:
        model: Handle | None = bindings.load_model(os.fsencode(plan.files.path), params)
    if not model:
        raise refused(plan, reasons.text("it gave no reason"))
    return model


def refused(plan: LoadPlan, reason: str) -> LaunchFailed:
    """Return the error for a file that llama.cpp does not load."""
    return LaunchFailed(
        f"llama.cpp could not load {plan.files.path}: {reason}.", remedy=_remedy(reason, plan.family.model_type)
    )


def _remedy(reason: str, model_type: str) -> str | None:
    if "unknown model architecture" in reason:
        return "A newer llama-cpp-python may know it: pip install --upgrade llama-cpp-python."
    if "corrupted" in reason or "incomplete" in reason:
        return "Download the file again."
    return _SMALLER.get(model_type, _SMALLER_BATCH) if "alloc" in reason or "memory" in reason else None
