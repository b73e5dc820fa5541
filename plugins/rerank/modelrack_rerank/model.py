"""The model as `modelrack.rerank` sees it: pairs to tokens, batches of tokens to scores."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import torch

from modelrack.batching import Prepared
from modelrack.encoders import Interruption, attempt, batch_limits
from modelrack.errors import LaunchFailed, ModelrackError
from modelrack.hooks import LoadPlan
from modelrack.rerank import RerankTraits, RerankWork

from .formats import Pair
from .loading import LIBRARY, Loaded

__all__ = ["CrossEncoderModel"]

_WARMUP = (RerankWork(0, "what", "this"), RerankWork(1, "what", "this is a document of some words"))


class CrossEncoderModel:
    """A loaded cross-encoder: scores as `CrossEncoder.predict` gives them, whatever else is in a batch."""

    def __init__(self, loaded: Loaded, plan: LoadPlan) -> None:
        self._loaded = loaded
        self._plan = plan
        self._pads_left = loaded.tokenizer.padding_side == "left"
        self._type_pad = int(getattr(loaded.tokenizer, "pad_token_type_id", 0) or 0)
        self._interruption = Interruption(loaded.encoder)
        self.traits = RerankTraits(
            max_tokens=loaded.max_tokens,
            takes_instruction=loaded.format.takes_instruction,
            limits=batch_limits(plan.options, on_cpu=loaded.device.type == "cpu"),
        )

    def prepare(self, works: Sequence[RerankWork]) -> list[Prepared[Pair] | ModelrackError]:
        """Cut pairs into tokens."""
        return [
            one if isinstance(one, ModelrackError) else Prepared(one, len(one.ids))
            for one in self._loaded.format.encode(works)
        ]

    def run(self, batch: Sequence[Pair]) -> list[float]:
        """Return the logit of each pair."""
        self._interruption.begin()
        with torch.inference_mode():
            features = {name: value.to(self._loaded.device) for name, value in self._tensors(batch).items()}
            scores = self._loaded.encoder(self._with_facts(features))["scores"]
            found: list[float] = scores.float().reshape(len(batch)).cpu().tolist()
        return found

    def relevance(self, score: float) -> float:
        """Turn a logit into what is answered."""
        return self._loaded.relevance(score)

    def interrupt(self) -> None:
        """End the batch that is computed before its next layer; nobody waits for it."""
        self._interruption.ask()

    def compile(self) -> None:
        """Compile the model, for batches of any shape. They are not interrupted then."""
        self._interruption.remove()
        self._loaded.encoder.compile(dynamic=True)

    def warm_up(self) -> None:
        """Compute once: what is wrong with a model is then known before it is said to be ready.

        Raises: LaunchFailed: it gives no number for a pair.
        """
        prepared = self.prepare(_WARMUP)
        for one in prepared:
            if isinstance(one, ModelrackError):
                raise LaunchFailed(f"The model reads too little for any pair: {one.message}")
        pairs = [one.payload for one in prepared if isinstance(one, Prepared)]
        # A compiled model is compiled anew for the first single pair, and for the first several.
        for batch in (pairs[:1], pairs, pairs * 2) if self._plan.options["compile"] else (pairs,):
            scores = attempt(self._plan, LIBRARY, partial(self.run, batch))
            if not np.isfinite(scores).all():
                raise LaunchFailed("The model gives no numbers as scores.", remedy="Launch it with dtype float32.")

    def close(self) -> None:
        """Free the weights."""
        del self._loaded

    def _tensors(self, batch: Sequence[Pair]) -> dict[str, torch.Tensor]:
        """Put pairs into rows of one length."""
        length = max(len(pair.ids) for pair in batch)
        ids = np.full((len(batch), length), self._loaded.tokenizer.pad_token_id, np.int64)
        mask = np.zeros_like(ids)
        types = None if batch[0].types is None else np.full_like(ids, self._type_pad)
        for row, pair in enumerate(batch):
            place = slice(length - len(pair.ids), None) if self._pads_left else slice(0, len(pair.ids))
            ids[row, place] = pair.ids
            mask[row, place] = 1
            if types is not None and pair.types is not None:
                types[row, place] = pair.types
        named = {"input_ids": ids, "attention_mask": mask} | ({} if types is None else {"token_type_ids": types})
        return {name: torch.from_numpy(value) for name, value in named.items()}

    def _with_facts(self, features: dict[str, Any]) -> dict[str, Any]:
        """Add what sentence-transformers' modules want to know of a batch."""
        features["modality"] = self._loaded.modality
        if self._loaded.encoder[0].transformer_task != "sequence-classification":
            features["logits_to_keep"] = 1
        return features
