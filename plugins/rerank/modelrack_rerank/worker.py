"""The worker half: loads the model, and gives it to the handler that all engines share."""

import torch

from modelrack.encoders import use_threads
from modelrack.rerank import RerankLoader
from modelrack.worker import Report

from .loading import load
from .model import CrossEncoderModel

__all__ = ["CrossEncoderLoader"]


class CrossEncoderLoader(RerankLoader):
    """Loads a model's folder with sentence-transformers."""

    def load_model(self, report: Report) -> CrossEncoderModel:
        """Load the model; blocks as long as it takes.

        Raises: LaunchFailed: it does not fit, or sentence-transformers refuses it.
        """
        options = self.plan.options
        use_threads(torch, options["n_threads"])
        model = CrossEncoderModel(load(self.plan, report), self.plan)
        if options["compile"]:
            report(0.9, "compiling the model")
            model.compile()
        if options["warmup"]:
            report(0.95, "trying the model")
            model.warm_up()
        return model
