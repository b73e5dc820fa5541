"""What an engine that scores documents implements; everything else about such requests is done once for all."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from ..batching import BatchLimits, Prepared
from ..errors import ModelrackError

__all__ = ["RerankModel", "RerankTraits", "RerankWork"]


@dataclass(frozen=True, slots=True)
class RerankWork:
    """A query with one document.

    Args:
        index: where the document stands in its request; for errors.
        instruction: the task, for models that are told it; empty: the model's own.
        truncate: cut documents that do not fit beside the query; False: that is an error.
        max_document_tokens: most tokens of the document, whatever fits.
    """

    index: int
    query: str
    document: str
    instruction: str = ""
    truncate: bool = True
    max_document_tokens: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RerankTraits:
    """Facts of the loaded model.

    Args:
        max_tokens: tokens of a query and a document together, special tokens and the model's prompt among them.
        takes_instruction: it is told the task.
        unsupported: request fields that the engine cannot honour, with the reason (one clause).
        limits: for the batches.
    """

    max_tokens: int
    takes_instruction: bool = False
    unsupported: Mapping[str, str] = field(default_factory=dict)
    limits: BatchLimits = field(default_factory=BatchLimits)


class RerankModel(Protocol):
    """A loaded model that scores. See `modelrack.batching.BatchModel` for which thread calls what."""

    traits: RerankTraits

    def prepare(self, works: Sequence[RerankWork]) -> Sequence[Prepared[Any] | ModelrackError]:
        """Turn pairs into tokens."""

    def run(self, batch: Sequence[Any]) -> Sequence[float]:
        """Score what `prepare` made (its payloads): the model's own score (a logit) of each, any finite number."""

    def relevance(self, score: float) -> float:
        """Turn a score into what is answered: from 0 to 1 (a sigmoid, mostly)."""

    def close(self) -> None:
        """Free what it holds; called after the last request."""
