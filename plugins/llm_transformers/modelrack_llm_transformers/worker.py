"""The worker half: loads the model, and gives it to the handlers that all engines share."""

import logging
import os
import sys
import threading
from collections.abc import Mapping
from typing import Any

from modelrack.hooks import LoadPlan
from modelrack.llm.handlers import make_handlers
from modelrack.worker import Handler, Loader, Report

from .language import TransformersModel
from .model import load_model

__all__ = ["TransformersLoader"]

log = logging.getLogger(__name__)

_SWITCH_S = 0.0002
_LAST_WORDS_S = 1.0
"""Time for the errors to reach the clients before the process ends."""


def _end_process() -> None:
    """End a worker that cannot compute any more: the server starts another."""
    log.critical("steps fail again and again; this worker ends")
    timer = threading.Timer(_LAST_WORDS_S, os._exit, (1,))
    timer.daemon = True
    timer.start()


class TransformersLoader(Loader):
    """Loads a model's folder with Transformers."""

    def __init__(self, plan: LoadPlan) -> None:
        super().__init__(plan)
        self._model: TransformersModel | None = None

    def load(self, report: Report) -> Mapping[str, Handler]:
        """Load the model; blocks as long as it takes.

        Raises: LaunchFailed: it does not fit, or Transformers refuses it.
        """
        # The decode loop comes back from an operation to find the event loop at work; Python lets it wait so long.
        sys.setswitchinterval(_SWITCH_S)
        self._model = load_model(self.plan, report, on_broken=_end_process)
        return make_handlers(self._model, self.plan)

    def describe(self) -> Mapping[str, Any]:
        """Return what is known only after loading."""
        return self._model.facts if self._model is not None else {}

    def close(self) -> None:
        """Free the model."""
        if self._model is not None:
            self._model.close()
