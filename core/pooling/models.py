"""Models of llama.cpp that embed or rank, all but the computing."""

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

from ..batching import Prepared
from ..embedding import Embedding, EmbeddingTraits, EmbeddingWork
from ..encoders.tokens import TextTokenizer
from ..errors import LaunchFailed, ModelrackError
from ..hooks.types import LoadPlan
from ..rerank import RerankTraits, RerankWork
from .facts import PooledFacts
from .memory import PooledSizes
from .options import batch_limits
from .texts import Pair, PairTexts, TextTokens

__all__ = ["PooledEmbedding", "PooledRanking"]

_LEAST = 1e-30
"""Probabilities nearer to 0 or 1 than a float32 can say."""


class PooledEmbedding(ABC):
    """A model that embeds; see `modelrack.embedding.EmbeddingModel`."""

    def __init__(
        self,
        plan: LoadPlan,
        facts: PooledFacts,
        sizes: PooledSizes,
        texts: TextTokens,
        tokenizer: TextTokenizer,
        n_vocab: int,
    ) -> None:
        known, options = plan.family.facts, plan.options
        prompts = known.get("prompts") or {}
        if options["default_prompt"] is not None and options["default_prompt"] not in prompts:
            raise LaunchFailed(
                f"The model has no prompt '{options['default_prompt'][:100]}', which default_prompt names.",
                remedy=f"It has: {', '.join(prompts) or 'none'}.",
            )
        self._texts = texts
        self.tokenizer = tokenizer
        self.traits = EmbeddingTraits(
            dimensions=facts.dimensions,
            max_tokens=sizes.max_tokens,
            n_vocab=n_vocab,
            shorter_dimensions=_shorter(known, options["matryoshka"]),
            prompts=prompts,
            default_prompt=options["default_prompt"] or known.get("default_prompt"),
            instruction_template=known.get("instruction_template"),
            limits=batch_limits(options, sizes.batch_tokens),
        )

    def prepare(self, works: Sequence[EmbeddingWork]) -> Sequence[Prepared[list[int]] | ModelrackError]:
        """Turn inputs into tokens."""
        return self._texts.prepare(works)

    @abstractmethod
    def run(self, batch: Sequence[list[int]]) -> Sequence[Embedding]:
        """Embed what `prepare` made."""

    @abstractmethod
    def close(self) -> None:
        """Free what it holds."""


def _shorter(known: Mapping[str, Any], asked: bool | None) -> tuple[int, ...] | None:
    """Return the lengths that a model's vectors may be cut to; None: any."""
    if asked is not None:
        return None if asked else ()
    lengths = known.get("matryoshka_dimensions")
    if isinstance(lengths, (list, tuple)):
        return tuple(sorted(lengths))
    return None if lengths is True or known.get("is_matryoshka") is True else ()


class PooledRanking(ABC):
    """A model that ranks; see `modelrack.rerank.RerankModel`."""

    def __init__(self, plan: LoadPlan, facts: PooledFacts, sizes: PooledSizes, texts: PairTexts) -> None:
        self._texts = texts
        self._gives_probability = facts.gives_probability
        self.traits = RerankTraits(max_tokens=sizes.max_tokens, limits=batch_limits(plan.options, sizes.batch_tokens))

    def prepare(self, works: Sequence[RerankWork]) -> Sequence[Prepared[Pair] | ModelrackError]:
        """Turn pairs into tokens."""
        return self._texts.prepare(works)

    def run(self, batch: Sequence[Pair]) -> Sequence[float]:
        """Return the score of each pair; what llama.cpp gives as a probability is turned back into a logit."""
        scores = self.score(batch)
        return [_logit(score) for score in scores] if self._gives_probability else scores

    @abstractmethod
    def score(self, batch: Sequence[Pair]) -> Sequence[float]:
        """Return what llama.cpp gives for each pair."""

    def relevance(self, score: float) -> float:
        """Turn a score into 0 to 1."""
        return 1 / (1 + math.exp(-score)) if score >= 0 else math.exp(score) / (1 + math.exp(score))

    @abstractmethod
    def close(self) -> None:
        """Free what it holds."""


def _logit(probability: float) -> float:
    if math.isnan(probability):
        return probability
    return math.log(max(probability, _LEAST)) - math.log(max(1 - probability, _LEAST))
