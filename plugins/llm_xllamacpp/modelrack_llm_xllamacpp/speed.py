"""How fast the model has been, to know what a request will take."""

from collections.abc import Mapping
from typing import Any

__all__ = ["Speed"]

_WEIGHT = 0.2
_SHORT_MS = 250.0
_BYTES_PER_TOKEN = 3


class Speed:
    """Milliseconds for each token, of prompts and of answers, as moving averages over the latest requests."""

    def __init__(self) -> None:
        self._prompt_ms: float | None = None
        self._answer_ms: float | None = None

    def learn(self, timings: Mapping[str, Any]) -> None:
        """Take the `timings` of a finished request."""
        if timings.get("predicted_n", 0) >= 4:
            self._answer_ms = _mix(self._answer_ms, timings["predicted_per_token_ms"])
        if timings.get("prompt_n", 0) >= 4:
            self._prompt_ms = _mix(self._prompt_ms, timings["prompt_per_token_ms"])

    def is_short(self, prompt_bytes: int, tokens: int | None, answers: int) -> bool:
        """Tell whether a request will surely be done in a quarter of a second.

        Such a request is asked for in one piece, which costs the engine less than its tokens one by one; a client that
        leaves then leaves no more work behind than that.
        """
        if tokens is None or self._answer_ms is None or self._prompt_ms is None:
            return False
        expected = prompt_bytes / _BYTES_PER_TOKEN * self._prompt_ms + tokens * answers * self._answer_ms
        return expected < _SHORT_MS


def _mix(old: float | None, new: float) -> float:
    return float(new) if old is None else old + _WEIGHT * (new - old)
