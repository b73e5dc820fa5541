"""Log probabilities in OpenAI's two shapes, and which of them belong to the text that has been given out."""

from collections import deque
from collections.abc import Iterable, Sequence
from typing import Any

from .contract import LanguageModel, TokenLogprob

__all__ = ["Entry", "LogprobTrack", "chat_logprobs", "completion_logprobs", "prompt_entries"]

_IMPOSSIBLE = -9999.0
"""What OpenAI gives for a token without any probability; JSON has no infinity."""


class Entry:
    """A token of an answer.

    Args:
        start, end: characters of the answer before it, and with it. A token that ends within a character adds none.
    """

    __slots__ = ("end", "logprob", "start", "token")

    def __init__(self, token: int, logprob: TokenLogprob | None, start: int, end: int) -> None:
        self.token = token
        self.logprob = logprob
        self.start = start
        self.end = end


class LogprobTrack:
    """Keeps an answer's tokens until their text is given out."""

    __slots__ = ("_decoded", "_waiting")

    def __init__(self) -> None:
        self._waiting: deque[Entry] = deque()
        self._decoded = 0

    def add(self, token: int, logprob: TokenLogprob | None, added: int) -> None:
        """Take a token.

        Args:
            added: characters that came out with it.
        """
        start = self._decoded
        self._decoded += added
        self._waiting.append(Entry(token, logprob, start, self._decoded))

    def release(self, length: int) -> list[Entry]:
        """Return the tokens whose text lies within the first `length` characters, which have been given out."""
        waiting, found = self._waiting, []
        while waiting and waiting[0].end <= length:
            found.append(waiting.popleft())
        return found

    def finish(self, length: int, is_cut: bool) -> list[Entry]:
        """Return the tokens that are left; of an answer cut by a stop string, those that begin before the cut."""
        found = [entry for entry in self._waiting if not is_cut or entry.start < length]
        self._waiting.clear()
        return found


class TokenNames:
    """Tokens as log probabilities name them: the text they add, U+FFFD for what is no whole character."""

    def __init__(self, model: LanguageModel) -> None:
        self._model = model
        self._known: dict[int, tuple[str, list[int]]] = {}

    def __getitem__(self, token: int) -> tuple[str, list[int]]:
        known = self._known.get(token)
        if known is None:
            data = self._model.token_bytes(token) or self._model.special_bytes(token)
            known = self._known[token] = data.decode("utf-8", "replace"), list(data)
        return known


def _value(logprob: float) -> float:
    return max(logprob, _IMPOSSIBLE)


def chat_logprobs(entries: Iterable[Entry], names: TokenNames, alternatives: int) -> dict[str, Any]:
    """Return tokens in the shape of chat completions, which has no place for a token without a log probability."""
    content = []
    for entry in entries:
        if entry.logprob is None:
            continue
        name, data = names[entry.token]
        tops = []
        for token, logprob in entry.logprob.top[:alternatives]:
            other, its_bytes = names[token]
            tops.append({"token": other, "logprob": _value(logprob), "bytes": its_bytes})
        content.append({"token": name, "logprob": _value(entry.logprob.logprob), "bytes": data, "top_logprobs": tops})
    return {"content": content}


def completion_logprobs(entries: Iterable[Entry], names: TokenNames, alternatives: int, offset: int) -> dict[str, Any]:
    """Return tokens in the shape of completions.

    Args:
        offset: characters before the answer: those of an echoed prompt.
    """
    tokens: list[str] = []
    values: list[float | None] = []
    tops: list[dict[str, float] | None] = []
    offsets: list[int] = []
    for entry in entries:
        tokens.append(names[entry.token][0])
        offsets.append(offset + entry.start)
        found = entry.logprob
        if found is None:
            values.append(None)
            tops.append(None)
            continue
        values.append(_value(found.logprob))
        best: dict[str, float] = {}
        for token, logprob in found.top[:alternatives]:
            # Several tokens may have the same text; the likeliest is the first.
            best.setdefault(names[token][0], _value(logprob))
        tops.append(best)
    return {
        "tokens": tokens,
        "token_logprobs": values,
        "top_logprobs": tops if alternatives else None,
        "text_offset": offsets,
    }


def prompt_entries(
    tokens: Sequence[int], logprobs: Sequence[TokenLogprob | None], names: TokenNames, length: int
) -> list[Entry]:
    """Return the tokens of an echoed prompt.

    Args:
        length: characters of the prompt. Tokens that begin the prompt without being in its text begin at 0.
    """
    ends = 0
    entries = []
    for token, logprob in zip(tokens, logprobs, strict=True):
        entries.append(Entry(token, logprob, ends, ends + len(names[token][0])))
        ends = entries[-1].end
    surplus = max(0, ends - length)
    for entry in entries:
        entry.start, entry.end = max(0, entry.start - surplus), max(0, entry.end - surplus)
    return entries
