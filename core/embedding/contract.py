"""What an engine that embeds texts implements; everything else about such requests is done once for all.

The engine turns texts into tokens and tokens into vectors. The handler of `modelrack.embedding.handlers` does the rest:
fields, limits and their errors, prompts, shortening and scaling of vectors, encodings, counts. Between them stands
`modelrack.batching`, which merges the requests of all clients.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from ..batching import BatchLimits, Prepared
from ..errors import ModelrackError

__all__ = ["Embedding", "EmbeddingModel", "EmbeddingTraits", "EmbeddingWork"]


@dataclass(frozen=True, slots=True)
class EmbeddingWork:
    """One input.

    Args:
        index: where it stands in its request; for errors.
        input: a text, or token ids, which are read as they are (no special tokens are added).
        prompt: text to put before a text; empty for token ids.
        task: what the input is for, of `EmbeddingTraits.tasks`; None: nothing in particular.
        truncate: cut what is over `EmbeddingTraits.max_tokens`; False: that is an error (see `errors.too_long`).
        outputs: what is wanted: of `EmbeddingTraits.outputs`.
    """

    index: int
    input: str | Sequence[int]
    prompt: str = ""
    task: str | None = None
    truncate: bool = False
    outputs: frozenset[str] = frozenset({"dense"})


@dataclass(slots=True)
class Embedding:
    """What a model makes of one input; numpy arrays of float32.

    Args:
        dense: shape (dimensions,).
        sparse: weights by token id, none of them 0.
        multi_vector: shape (tokens, dimensions of a token).
    """

    dense: Any = None
    sparse: Mapping[int, float] | None = None
    multi_vector: Any = None


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbeddingTraits:
    """Facts of the loaded model.

    Args:
        dimensions: length of its dense vectors; 0: it makes none.
        max_tokens: tokens of one input, special tokens and prompt among them; None: any number.
        n_vocab: number of tokens.
        shorter_dimensions: lengths to which its vectors may be cut; empty: none; None: any.
        is_normalized: its vectors come with length 1.
        prompts: texts to put before an input, by name (`query`, `document`, …).
        default_prompt: name of the prompt for requests that name none.
        tasks: what inputs may be for, where the model computes them differently (`query`, `document`), whatever their
            prompts.
        instruction_template: of models that are told the task: a prompt with `{instruction}` in it; None: they are not.
        outputs: what it makes: `dense`, `sparse`, `multi_vector`.
        takes_token_ids: inputs may be token ids.
        unsupported: request fields that the engine cannot honour, with the reason (one clause).
        limits: for the batches.
    """

    dimensions: int
    max_tokens: int | None
    n_vocab: int
    shorter_dimensions: tuple[int, ...] | None = ()
    is_normalized: bool = False
    prompts: Mapping[str, str] = field(default_factory=dict)
    default_prompt: str | None = None
    tasks: tuple[str, ...] = ()
    instruction_template: str | None = None
    outputs: frozenset[str] = frozenset({"dense"})
    takes_token_ids: bool = True
    unsupported: Mapping[str, str] = field(default_factory=dict)
    limits: BatchLimits = field(default_factory=BatchLimits)


class EmbeddingModel(Protocol):
    """A loaded model that embeds. See `modelrack.batching.BatchModel` for which thread calls what.

    One that has an attribute `tokenizer` (a `modelrack.encoders.TextTokenizer`) answers the routes of tokens too.
    """

    traits: EmbeddingTraits

    def prepare(self, works: Sequence[EmbeddingWork]) -> Sequence[Prepared[Any] | ModelrackError]:
        """Turn inputs into tokens; ids of tokens are checked already."""

    def run(self, batch: Sequence[Any]) -> Sequence[Embedding]:
        """Embed what `prepare` made (its payloads)."""

    def close(self) -> None:
        """Free what it holds; called after the last request."""
