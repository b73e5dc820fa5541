"""What the decode loop works with, where that is optional, and what it counts."""

from dataclasses import dataclass
from typing import Any, Protocol

__all__ = ["Adapters", "LoopCounters", "Speculator", "Vision"]


@dataclass(slots=True)
class LoopCounters:
    """What the loop has done: seconds of whole steps, and of these inside llama.cpp.

    Args:
        tokens: that were chosen.
        prompt_tokens: that were computed to read prompts.
    """

    steps: int = 0
    busy_s: float = 0.0
    decode_s: float = 0.0
    sample_s: float = 0.0
    tokens: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    preempted: int = 0


class Adapters(Protocol):
    """LoRA adapters (see `lora.py`)."""

    def apply(self, context: int, name: str | None) -> None:
        """Let the next batches be computed with an adapter, or with none."""

    def choose(self, work: dict[str | None, int]) -> str | None:
        """Return which adapter's sequences the next step computes, of those that have work."""


class Speculator(Protocol):
    """Drafts tokens ahead (see `speculation.py`)."""

    def open(self, tokens: list[int]) -> Any:
        """Begin with a sequence; its list of tokens grows on."""

    def close(self, one: Any) -> None:
        """End with a sequence."""

    def propose(self, wanted: list[tuple[Any, int]]) -> list[list[int]]:
        """Return drafts, of at most so many tokens, for each of the sequences."""

    def learn(self, rows: int, seconds: float) -> None:
        """Take the time of a step that read no prompt."""


class Vision(Protocol):
    """Images (see `vision.py`)."""

    def decode(self, context: int, image: Any, number: int, index: int, budget: int) -> int:
        """Compute an image, or a part of it, into a sequence; returns of how many tokens."""
