"""What the handlers need to know of the loaded model."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

__all__ = ["ModelFacts"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelFacts:
    """The loaded model, as far as requests depend on it.

    Args:
        n_ctx: tokens that one sequence holds.
        n_parallel: sequences answered at once.
        n_batch: tokens of a prompt between two looks at whether the client is still there.
        n_vocab: number of tokens.
        bos_id: token that begins a text, or None.
        fill_in: tokens before a prefix, a suffix and the middle; None where the model cannot fill in.
        stop: strings that end an answer in a chat, by the family.
        lora: names of the adapters, in the engine's order.
        takes_media: it was loaded with a projector.
        has_llguidance: this build takes Lark grammars and regular expressions.
        template: what the chat template can do (`supports_tools`, …), as llama.cpp found out by trying.
        may_think: the chat template knows reasoning.
        has_developer_role: the chat template knows the role `developer`.
        fetch_hosts: as `LoadPlan.fetch_hosts`.
    """

    n_ctx: int
    n_parallel: int
    n_batch: int
    n_vocab: int
    bos_id: int | None = None
    fill_in: tuple[int, int, int] | None = None
    stop: tuple[str, ...] = ()
    lora: Sequence[str] = ()
    takes_media: bool = False
    has_llguidance: bool = False
    template: Mapping[str, bool] = field(default_factory=dict)
    may_think: bool = False
    has_developer_role: bool = False
    fetch_hosts: tuple[str, ...] = ()
