"""From llama.cpp's log probabilities to OpenAI's two shapes of them."""

from collections.abc import Iterable, Mapping
from typing import Any

__all__ = ["Entry", "chat_entry", "legacy_logprobs", "read_entries"]

Entry = Mapping[str, Any]
"""One token as llama.cpp gives it: `id`, `token`, `bytes`, `logprob`, `top_logprobs`."""

_IMPOSSIBLE = -9999.0
"""What OpenAI gives for a token without any probability; llama.cpp gives the least float32."""


def read_entries(choice: Mapping[str, Any]) -> list[Entry]:
    """Return a choice's tokens, without those that have no text (end tokens)."""
    logprobs = choice.get("logprobs")
    if not logprobs:
        return []
    return [entry for entry in logprobs["content"] or () if entry["bytes"]]


def _value(entry: Entry) -> float:
    return max(float(entry["logprob"]), _IMPOSSIBLE)


def chat_entry(entry: Entry, alternatives: int) -> dict[str, Any]:
    """Return a token in the shape of chat completions."""
    return {
        "token": entry["token"],
        "logprob": _value(entry),
        "bytes": entry["bytes"],
        "top_logprobs": [
            {"token": other["token"], "logprob": _value(other), "bytes": other["bytes"]}
            for other in entry["top_logprobs"][:alternatives]
        ],
    }


def legacy_logprobs(entries: Iterable[Entry], alternatives: int, offset: int) -> dict[str, Any]:
    """Return tokens in the shape of completions.

    Args:
        offset: characters of the answer before the first token.
    """
    tokens: list[str] = []
    values: list[float] = []
    tops: list[dict[str, float]] = []
    offsets: list[int] = []
    for entry in entries:
        tokens.append(entry["token"])
        values.append(_value(entry))
        tops.append({other["token"]: _value(other) for other in entry["top_logprobs"][:alternatives]})
        offsets.append(offset)
        offset += len(entry["token"])
    return {
        "tokens": tokens,
        "token_logprobs": values,
        "top_logprobs": tops if alternatives else None,
        "text_offset": offsets,
    }
