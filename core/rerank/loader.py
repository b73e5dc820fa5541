"""The loader of an engine that ranks: what is left to the engine is to load its model."""

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any

from ..hooks.types import LoadPlan
from ..worker.contract import Handler, Loader, Report
from .contract import RerankModel
from .handlers import RerankHandler, make_handlers

__all__ = ["RerankLoader"]


class RerankLoader(Loader):
    """Makes the handler of a rerank model, and ends both in order."""

    def __init__(self, plan: LoadPlan) -> None:
        super().__init__(plan)
        self._model: RerankModel | None = None
        self._rerank: RerankHandler | None = None

    @abstractmethod
    def load_model(self, report: Report) -> RerankModel:
        """Load the model; blocks as long as it takes. Raises: as `Loader.load`."""

    def load(self, report: Report) -> Mapping[str, Handler]:
        """Load the model and return its handler."""
        self._model = self.load_model(report)
        handlers = make_handlers(self._model, self.plan)
        self._rerank = handlers["rerank"]
        return handlers

    def describe(self) -> Mapping[str, Any]:
        """Return what is known only after loading, with what the model says of itself in an attribute `facts`."""
        if self._model is None:
            return {}
        traits = self._model.traits
        facts = {"max_tokens": traits.max_tokens, "takes_instruction": traits.takes_instruction}
        return {**facts, **getattr(self._model, "facts", {})}

    def close(self) -> None:
        """End the threads of the batches, then free the model."""
        if self._rerank is not None:
            self._rerank.close()
        if self._model is not None:
            self._model.close()
