"""Starts llama.cpp's server core, and says why it does not start."""

import os
from typing import Any

from modelrack.errors import LaunchFailed
from modelrack.hooks import LoadPlan

from .capture import StderrCapture, find_reason

__all__ = ["start"]


def start(
    engine: Any, params: Any, plan: LoadPlan, smaller: str = "Launch it with a smaller n_ctx or n_parallel."
) -> Any:
    """Load the model; blocks as long as it takes.

    Args:
        engine: the module `xllamacpp`.
        smaller: what to do where memory is short.

    Raises: LaunchFailed: llama.cpp refuses it.
    """
    # The embedded server's socket is made by the engine: it is the owner's alone by the mask.
    mask = os.umask(0o177)
    capture = StderrCapture()
    try:
        with capture:
            return engine.Server(params)
    except RuntimeError as error:
        reason = find_reason(list(capture.lines)) or str(error)
        raise LaunchFailed(
            f"llama.cpp could not load {plan.files.path}: {reason.rstrip('.')}.",
            remedy=_remedy(reason, smaller),
        ) from error
    finally:
        os.umask(mask)


def _remedy(reason: str, smaller: str) -> str | None:
    if "unknown model architecture" in reason:
        return "A newer xllamacpp may know it: pip install --upgrade xllamacpp."
    if "corrupted" in reason or "incomplete" in reason:
        return "Download the file again."
    if "alloc" in reason or "memory" in reason:
        return smaller
    return None
