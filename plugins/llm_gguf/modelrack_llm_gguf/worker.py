"""The worker half: loads the model, which the decode loop of `modelrack.llm.decoding` then runs."""

from collections.abc import Callable

from modelrack.llm.decoding import DecodingLoader
from modelrack.worker import Report

from .model import GgufModel, load_model

__all__ = ["LlamaCppPythonLoader"]


class LlamaCppPythonLoader(DecodingLoader):
    """Loads a GGUF file into llama.cpp."""

    def load_model(self, report: Report, on_broken: Callable[[], None]) -> GgufModel:
        """Load the model; blocks as long as it takes.

        Raises: BadRequest: the file is no sound GGUF. LaunchFailed: it does not fit, or llama.cpp refuses it.
        """
        return load_model(self.plan, report, on_broken)
