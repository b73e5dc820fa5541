"""The worker half: loads the model, and gives it to the handlers that all engines share."""

from modelrack.embedding import EmbeddingLoader
from modelrack.worker import Report

from .loading import load
from .model import SentenceModel

__all__ = ["SentenceTransformersLoader"]


class SentenceTransformersLoader(EmbeddingLoader):
    """Loads a model's folder with sentence-transformers."""

    def load_model(self, report: Report) -> SentenceModel:
        """Load the model; blocks as long as it takes.

        Raises: LaunchFailed: it does not fit, or sentence-transformers refuses it.
        """
        loaded = load(self.plan, report)
        report(0.9, "trying the model")
        return SentenceModel(loaded, self.plan)
