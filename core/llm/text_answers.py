"""Completions out of the text of choices."""

from collections.abc import Sequence
from typing import Any

import orjson

from ..worker.contract import Call
from .answers import ChunkTails, Collector, Part, Streamer, StreamPart, Want, as_many
from .contract import EndReason, TokenLogprob
from .logprobs import Entry, TokenNames, completion_logprobs, prompt_entries

__all__ = ["Echo", "TextCollector", "TextStream", "text_tail"]

_TAIL = b'{"index":%d,"text":%b,"logprobs":null,"finish_reason":null}]}'
_CLOSING = b'{"index":%d,"text":"","logprobs":null,"finish_reason":"%b"}]}'


def text_tail(text: str) -> bytes:
    """Return what follows the head of a chunk that adds text to the first choice."""
    return _TAIL % (0, orjson.dumps(text))


class Echo:
    """The prompts that answers begin with.

    Args:
        texts, tokens: of each prompt.
    """

    __slots__ = ("texts", "tokens")

    def __init__(self, texts: Sequence[str], tokens: Sequence[Sequence[int]]) -> None:
        self.texts = texts
        self.tokens = tokens

    def entries(self, number: int, logprobs: Sequence[TokenLogprob | None] | None, names: TokenNames) -> list[Entry]:
        """Return a prompt's tokens, if log probabilities of them have come."""
        if logprobs is None:
            return []
        tokens = self.tokens[number]
        return prompt_entries(tokens, as_many(logprobs, len(tokens)), names, len(self.texts[number]))


class TextStream(Streamer):
    """A streamed completion."""

    object = "text_completion"
    prefix = "cmpl"

    def __init__(self, call: Call, want: Want, echo: Echo | None, names: TokenNames, tails: ChunkTails | None) -> None:
        super().__init__(call, want)
        self._echo = echo
        self._names = names
        self._tails = tails

    def part(self, number: int) -> Part:
        """Return what hears of the answers to one prompt."""
        want = self.want
        is_plain = want.n == 1 and want.prompts == 1 and want.stop is None and want.logprobs is None
        if is_plain and self._tails is not None and self._echo is None:
            return StreamPart(self, number, self._tails)
        return Part(self, number)

    def begin(
        self,
        part: Part,
        prompt_tokens: int,
        cached_tokens: int,
        prompt_logprobs: Sequence[TokenLogprob | None] | None,
    ) -> None:
        """Hear that a prompt has been read, and send it if it is to be echoed."""
        super().begin(part, prompt_tokens, cached_tokens, prompt_logprobs)
        echo = self._echo
        if echo is not None:
            entries = echo.entries(part.number, prompt_logprobs, self._names)
            for index in range(part.first, part.first + self.want.n):
                self._send(index, echo.texts[part.number], entries, 0)

    def add(self, index: int, text: str, entries: list[Entry]) -> None:
        """Send a choice's further text."""
        if entries:
            echo = self._echo
            self._send(index, text, entries, len(echo.texts[index // self.want.n]) if echo is not None else 0)
        elif text:
            self.stream.put(self.start + _TAIL % (index, orjson.dumps(text)))

    def close_choice(self, index: int, text: str, entries: list[Entry], reason: EndReason) -> None:
        """Send a choice's last text and the reason of its end."""
        self.add(index, text, entries)
        self.stream.put(self.start + _CLOSING % (index, reason.encode()))

    def _send(self, index: int, text: str, entries: list[Entry], offset: int) -> None:
        logprobs = None
        alternatives = self.want.logprobs
        if entries and alternatives is not None:
            logprobs = completion_logprobs(entries, self._names, alternatives, offset)
        if text or logprobs:
            self.write({"index": index, "text": text, "logprobs": logprobs, "finish_reason": None})


class _Choice:
    """A choice while it is collected."""

    __slots__ = ("entries", "prompt", "reason", "texts")

    def __init__(self) -> None:
        self.texts: list[str] = []
        self.prompt: list[Entry] = []
        self.entries: list[Entry] = []
        self.reason: EndReason = "stop"


class TextCollector(Collector):
    """A completion in one piece."""

    object = "text_completion"
    prefix = "cmpl"

    def __init__(self, call: Call, want: Want, echo: Echo | None, names: TokenNames) -> None:
        super().__init__(call, want)
        self._choices = [_Choice() for _ in range(want.prompts * want.n)]
        self._echo = echo
        self._names = names

    def begin(
        self,
        part: Part,
        prompt_tokens: int,
        cached_tokens: int,
        prompt_logprobs: Sequence[TokenLogprob | None] | None,
    ) -> None:
        """Hear that a prompt has been read."""
        super().begin(part, prompt_tokens, cached_tokens, prompt_logprobs)
        if self._echo is not None:
            entries = self._echo.entries(part.number, prompt_logprobs, self._names)
            for choice in self._choices[part.first : part.first + self.want.n]:
                choice.prompt = entries

    def add(self, index: int, text: str, entries: list[Entry]) -> None:
        """Keep a choice's further text."""
        choice = self._choices[index]
        choice.texts.append(text)
        choice.entries.extend(entries)

    def close_choice(self, index: int, text: str, entries: list[Entry], reason: EndReason) -> None:
        """Keep a choice's last text and the reason of its end."""
        self.add(index, text, entries)
        self._choices[index].reason = reason

    def answers(self) -> list[dict[str, Any]]:
        """Return the choices."""
        return [self._answer(index, choice) for index, choice in enumerate(self._choices)]

    def _answer(self, index: int, choice: _Choice) -> dict[str, Any]:
        text = "".join(choice.texts)
        echoed = self._echo.texts[index // self.want.n] if self._echo is not None else ""
        logprobs = None
        alternatives = self.want.logprobs
        if alternatives is not None:
            logprobs = completion_logprobs(choice.prompt, self._names, alternatives, 0)
            answered = completion_logprobs(choice.entries, self._names, alternatives, len(echoed))
            for name, values in answered.items():
                if values is not None:
                    logprobs[name] += values
        return {"index": index, "text": echoed + text, "logprobs": logprobs, "finish_reason": choice.reason}
