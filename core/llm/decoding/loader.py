"""The worker half of an engine with a decode loop."""

import logging
import os
import sys
import threading
from abc import abstractmethod
from collections.abc import Callable, Mapping
from typing import Any

from ...hooks.types import LoadPlan
from ...worker.contract import Handler, Loader, Report
from ..handlers import make_handlers
from .model import DecodingModel

__all__ = ["DecodingLoader"]

log = logging.getLogger(__name__)

_SWITCH_S = 0.0002
_LAST_WORDS_S = 1.0
"""Time for the errors to reach the clients before the process ends."""


class DecodingLoader(Loader):
    """Loads a model, and gives it to the handlers that all engines share.

    When the engine is broken, the worker's process ends, and the server starts another.
    """

    def __init__(self, plan: LoadPlan) -> None:
        super().__init__(plan)
        self._model: DecodingModel[Any] | None = None

    @abstractmethod
    def load_model(self, report: Report, on_broken: Callable[[], None]) -> DecodingModel[Any]:
        """Load the model; blocks as long as it takes.

        Args:
            on_broken: for the decode loop.

        Raises: BadRequest, LaunchFailed: it cannot be loaded.
        """

    def load(self, report: Report) -> Mapping[str, Handler]:
        """Load the model and return its handlers."""
        # The decode loop comes back from each step to find the event loop at work, and Python lets it wait so long.
        sys.setswitchinterval(_SWITCH_S)
        self._model = self.load_model(report, _end_process)
        return make_handlers(self._model, self.plan)

    def describe(self) -> Mapping[str, Any]:
        """Return what is known only after loading."""
        return self._model.facts if self._model is not None else {}

    def close(self) -> None:
        """Free the model."""
        if self._model is not None:
            self._model.close()


def _end_process() -> None:
    """End a worker that cannot compute any more: the server starts another."""
    log.critical("the engine fails again and again; this worker ends")
    timer = threading.Timer(_LAST_WORDS_S, os._exit, (1,))
    timer.daemon = True
    timer.start()
