"""The loader of an engine that embeds: what is left to the engine is to load its model."""

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any

from ..hooks.types import LoadPlan
from ..worker.contract import Handler, Loader, Report
from .contract import EmbeddingModel
from .handlers import EmbedHandler, make_handlers

__all__ = ["EmbeddingLoader"]


class EmbeddingLoader(Loader):
    """Makes the handlers of an embedding model, and ends them in order."""

    def __init__(self, plan: LoadPlan) -> None:
        super().__init__(plan)
        self._model: EmbeddingModel | None = None
        self._embed: EmbedHandler | None = None

    @abstractmethod
    def load_model(self, report: Report) -> EmbeddingModel:
        """Load the model; blocks as long as it takes. Raises: as `Loader.load`."""

    def load(self, report: Report) -> Mapping[str, Handler]:
        """Load the model and return its handlers."""
        self._model = self.load_model(report)
        handlers = make_handlers(self._model, self.plan)
        self._embed = handlers["embed"]
        return handlers

    def describe(self) -> Mapping[str, Any]:
        """Return what is known only after loading, with what the model says of itself in an attribute `facts`."""
        if self._model is None:
            return {}
        traits = self._model.traits
        facts: dict[str, Any] = {"outputs": sorted(traits.outputs)}
        if traits.dimensions:
            facts["dimensions"] = traits.dimensions
        if traits.max_tokens is not None:
            facts["max_tokens"] = traits.max_tokens
        return {**facts, **getattr(self._model, "facts", {})}

    def close(self) -> None:
        """End the threads of the batches, then free the model."""
        if self._embed is not None:
            self._embed.close()
        if self._model is not None:
            self._model.close()
