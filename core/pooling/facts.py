"""What a GGUF file says of how it pools, and which files can embed or rank."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from ..catalog.gguf import GgufMetadata
from ..errors import LaunchFailed
from ..hooks.types import Candidate, LoadPlan

__all__ = ["PooledFacts", "read_facts", "refuse_embedding", "refuse_ranking"]

_NAMES: Final[Mapping[int, str]] = {1: "mean", 2: "cls", 3: "last", 4: "rank"}
_SPLIT: Final = frozenset({"last", "rank"})
_FALLBACK_TOKENS: Final = 512
"""For files that do not say how long a text may be."""
_PROBABILITY_HEADS: Final = frozenset({"qwen3", "qwen3vl"})
"""Architectures whose scores llama.cpp gives as probabilities of their labels (`build_pooling` in llama-graph.cpp)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PooledFacts:
    """A model, as far as it is known before it is loaded.

    Args:
        pooling: `mean`, `cls`, `last` or `rank`.
        is_causal: a token sees only those before it.
        is_whole: all tokens of a text must be computed at once.
        trained_tokens: those of the longest text that it was made for.
        gives_probability: its score is the probability of its first label.
        template: of those that rank: what the two texts are put into, at `{query}` and `{document}`.
    """

    pooling: str
    is_causal: bool
    is_whole: bool
    dimensions: int
    trained_tokens: int
    gives_probability: bool = False
    template: str | None = None


def refuse_embedding(candidate: Candidate) -> str | None:
    """Return why a GGUF file cannot embed, or None if it may; before a download nothing is known.

    One that does not say how it pools is refused when it is launched: the launch may say it.
    """
    pooling, _ = _stated(candidate.metadata)
    return "this file gives scores; it ranks (model type 'rerank')" if pooling == "rank" else None


def refuse_ranking(candidate: Candidate) -> str | None:
    """Return why a GGUF file cannot rank, or None if it may; before a download nothing is known."""
    pooling, is_causal = _stated(candidate.metadata)
    if pooling not in (None, "rank"):
        return f"this file embeds (its pooling is '{pooling}'); it has no head that gives scores"
    if candidate.metadata and is_causal and pooling is None:
        return "this file is a language model's: it has no head that gives scores (pooling_type 'rank')"
    return None


def read_facts(plan: LoadPlan, metadata: GgufMetadata) -> PooledFacts:
    """Return the facts of a model that is launched to embed or to rank.

    Raises: LaunchFailed: it can do neither as it is launched.
    """
    if plan.lora:
        raise LaunchFailed("LoRA adapters can only be loaded for models that write text.", remedy="Leave them out.")
    stated, is_causal = _stated(metadata.keys)
    pooling = _POOLING_OF[plan.family.model_type](plan, metadata, stated)
    return PooledFacts(
        pooling=pooling,
        is_causal=is_causal,
        is_whole=not (is_causal and pooling in _SPLIT),
        dimensions=metadata.number("embedding_length_out") or metadata.number("embedding_length") or 0,
        trained_tokens=_trained_tokens(plan, metadata),
        gives_probability=pooling == "rank" and metadata.architecture in _PROBABILITY_HEADS,
        template=metadata.text("tokenizer.chat_template.rerank"),
    )


def _trained_tokens(plan: LoadPlan, metadata: GgufMetadata) -> int:
    """Return what the file and the family agree on: files of decoders tell how long a text could be at most."""
    stated = (metadata.context_length, plan.family.facts.get("max_tokens"))
    return min((length for length in stated if length), default=_FALLBACK_TOKENS)


def _stated(keys: Mapping[str, Any]) -> tuple[str | None, bool]:
    """Return the pooling that a file's keys name, and whether its attention is causal."""
    architecture = keys.get("general.architecture", "")
    number = keys.get(f"{architecture}.pooling_type")
    pooling = _NAMES.get(number) if isinstance(number, int) else None
    return pooling, keys.get(f"{architecture}.attention.causal") is not False


def _embedding_pooling(plan: LoadPlan, metadata: GgufMetadata, stated: str | None) -> str:
    asked = plan.options.get("pooling") or "auto"
    if asked != "auto":
        return str(asked)
    if stated == "rank":
        raise LaunchFailed(
            f"{plan.files.path} gives scores, no embeddings.", remedy="Launch it with the model type rerank."
        )
    named = stated or plan.family.facts.get("pooling")
    if named not in _NAMES.values():
        raise LaunchFailed(
            f"{plan.files.path} does not say how its tokens become one embedding (pooling_type).",
            remedy="If its makers say so elsewhere, launch it with pooling set to mean, cls or last.",
        )
    return str(named)


def _ranking_pooling(plan: LoadPlan, metadata: GgufMetadata, stated: str | None) -> str:
    # Older files that rank say nothing of it; llama.cpp's server was told by an argument.
    labels = metadata.head_tensors.get("cls.output.weight", (0, 1))[-1]
    most = 2 if metadata.architecture in _PROBABILITY_HEADS else 1
    if stated not in (None, "rank") or not metadata.has_head:
        raise LaunchFailed(
            f"{plan.files.path} has no head that gives scores.", remedy="Launch a GGUF file that was made to rank."
        )
    if labels > most:
        raise LaunchFailed(f"{plan.files.path} tells {labels} classes apart; one that ranks gives one score.")
    return "rank"


_POOLING_OF: Final = {"embedding": _embedding_pooling, "rerank": _ranking_pooling}
