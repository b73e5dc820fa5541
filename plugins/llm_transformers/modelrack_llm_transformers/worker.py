"""The worker half: loads the model, which the decode loop of `modelrack.llm.decoding` then runs."""

from collections.abc import Callable

from modelrack.llm.decoding import DecodingLoader
from modelrack.worker import Report

from .model import TransformersModel, load_model

__all__ = ["TransformersLoader"]


class TransformersLoader(DecodingLoader):
    """Loads a model's folder with Transformers."""

    def load_model(self, report: Report, on_broken: Callable[[], None]) -> TransformersModel:
        """Load the model; blocks as long as it takes.

        Raises: LaunchFailed: it does not fit, or Transformers refuses it.
        """
        return load_model(self.plan, report, on_broken)
