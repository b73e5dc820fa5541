"""Chat completions out of the text of choices."""

from collections.abc import Callable, Iterable
from typing import Any
from uuid import uuid4

import orjson

from ..worker.contract import Call
from .answers import ChunkTails, Collector, Part, Streamer, StreamPart, Want
from .contract import EndReason
from .formats.base import CallArguments, CallStart, Content, OutputParser, Piece, Reasoning
from .logprobs import Entry, TokenNames, chat_logprobs

__all__ = ["ChatCollector", "ChatStream", "MakeParser", "ParsedChoice", "chat_tail", "make_call_id"]

MakeParser = Callable[[], OutputParser]
"""Returns the parser of one choice."""

_OPENING = b'{"index":%d,"delta":{"role":"assistant","content":""},"logprobs":null,"finish_reason":null}]}'
_TAIL = b'{"index":%d,"delta":{"content":%b},"logprobs":null,"finish_reason":null}]}'
_CLOSING = b'{"index":%d,"delta":{"content":""},"logprobs":null,"finish_reason":"%b"}]}'


def chat_tail(text: str) -> bytes:
    """Return what follows the head of a chunk that adds text to the first choice."""
    return _TAIL % (0, orjson.dumps(text))


def make_call_id() -> str:
    """Return an id for a tool call."""
    return f"call_{uuid4().hex[:24]}"


class ParsedChoice:
    """A choice whose text is parsed.

    Args:
        parser: None: all is content.
        one_call: of several calls, only the first is given.

    Attributes:
        calls: how many calls `delta` has told of.
    """

    __slots__ = ("_one_call", "_parser", "calls")

    def __init__(self, parser: OutputParser | None, one_call: bool) -> None:
        self._parser = parser
        self._one_call = one_call
        self.calls = 0

    def feed(self, text: str) -> Iterable[Piece]:
        """Return what the text brings."""
        if not text:
            return ()
        return (Content(text),) if self._parser is None else self._allowed(self._parser.feed(text))

    def finish(self) -> Iterable[Piece]:
        """Return the rest."""
        return () if self._parser is None else self._allowed(self._parser.finish())

    def delta(self, text: str, *, is_last: bool = False) -> dict[str, Any]:
        """Return what further text adds to the message.

        Args:
            is_last: nothing follows it.
        """
        delta: dict[str, Any] = {}
        calls: dict[int, dict[str, Any]] = {}
        for piece in [*self.feed(text), *self.finish()] if is_last else self.feed(text):
            if type(piece) is Content:
                delta["content"] = delta.get("content", "") + piece.text
            elif type(piece) is Reasoning:
                delta["reasoning_content"] = delta.get("reasoning_content", "") + piece.text
            elif type(piece) is CallStart:
                self.calls += 1
                function = {"name": piece.name, "arguments": ""}
                calls[piece.index] = {
                    "index": piece.index,
                    "id": make_call_id(),
                    "type": "function",
                    "function": function,
                }
            elif type(piece) is CallArguments:
                call = calls.setdefault(piece.index, {"index": piece.index, "function": {"arguments": ""}})
                call["function"]["arguments"] += piece.text
        if calls:
            delta["tool_calls"] = list(calls.values())
        return delta

    def _allowed(self, pieces: Iterable[Piece]) -> Iterable[Piece]:
        if not self._one_call:
            return pieces
        return [piece for piece in pieces if not isinstance(piece, (CallStart, CallArguments)) or piece.index == 0]


class ChatStream(Streamer):
    """A streamed chat completion.

    Args:
        parser: makes the parsers of choices; None: all is content.
        tails: chunks of single tokens.
    """

    object = "chat.completion.chunk"
    prefix = "chatcmpl"

    def __init__(
        self, call: Call, want: Want, parser: MakeParser | None, names: TokenNames, tails: ChunkTails | None
    ) -> None:
        super().__init__(call, want)
        self._choices = [ParsedChoice(parser() if parser is not None else None, want.one_call) for _ in range(want.n)]
        self._is_parsed = parser is not None
        self._names = names
        self._tails = tails
        self._opened: set[int] = set()

    def part(self, number: int) -> Part:
        """Return what hears of the answers."""
        want = self.want
        is_plain = want.n == 1 and want.prompts == 1 and want.stop is None and want.logprobs is None
        if is_plain and self._tails is not None and not self._is_parsed:
            return StreamPart(self, number, self._tails)
        return Part(self, number)

    def add(self, index: int, text: str, entries: list[Entry]) -> None:
        """Send a choice's further text."""
        if index not in self._opened:
            self._begin_choice(index)
        if not self._is_parsed and not entries:
            if text:
                self.stream.put(self.start + _TAIL % (index, orjson.dumps(text)))
            return
        choice = self._choices[index]
        self._send(index, choice.delta(text), entries)

    def close_choice(self, index: int, text: str, entries: list[Entry], reason: EndReason) -> None:
        """Send a choice's last text and the reason of its end."""
        if index not in self._opened:
            self._begin_choice(index)
        choice = self._choices[index]
        self._send(index, choice.delta(text, is_last=True), entries)
        finish = "tool_calls" if choice.calls and reason == "stop" else reason
        self.stream.put(self.start + _CLOSING % (index, finish.encode()))

    def _begin_choice(self, index: int) -> None:
        self._opened.add(index)
        self.stream.put(self.start + _OPENING % index)

    def _send(self, index: int, delta: dict[str, Any], entries: list[Entry]) -> None:
        if not delta and not entries:
            return
        alternatives = self.want.logprobs
        logprobs = None
        if entries and alternatives is not None:
            logprobs = chat_logprobs(entries, self._names, alternatives)
        delta.setdefault("content", "")
        self.write({"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": None})


class _Message(ParsedChoice):
    """A choice while it is collected."""

    __slots__ = ("arguments", "content", "entries", "names", "reason", "reasoning")

    def __init__(self, parser: OutputParser | None, one_call: bool) -> None:
        super().__init__(parser, one_call)
        self.content: list[str] = []
        self.reasoning: list[str] = []
        self.names: list[str] = []
        self.arguments: dict[int, list[str]] = {}
        self.entries: list[Entry] = []
        self.reason: EndReason = "stop"

    def add(self, pieces: Iterable[Piece]) -> None:
        """Keep pieces."""
        for piece in pieces:
            if type(piece) is Content:
                self.content.append(piece.text)
            elif type(piece) is Reasoning:
                self.reasoning.append(piece.text)
            elif type(piece) is CallStart:
                self.names.append(piece.name)
            elif type(piece) is CallArguments:
                self.arguments.setdefault(piece.index, []).append(piece.text)

    def message(self) -> dict[str, Any]:
        """Return the message."""
        text = "".join(self.content)
        message: dict[str, Any] = {"role": "assistant", "content": text if text or not self.names else None}
        if self.reasoning:
            message["reasoning_content"] = "".join(self.reasoning)
        if self.names:
            message["tool_calls"] = [
                {
                    "id": make_call_id(),
                    "type": "function",
                    "function": {"name": name, "arguments": "".join(self.arguments.get(number, ()))},
                }
                for number, name in enumerate(self.names)
            ]
        return message


class ChatCollector(Collector):
    """A chat completion in one piece.

    Args:
        parser: makes the parsers of choices; None: all is content.
    """

    object = "chat.completion"
    prefix = "chatcmpl"

    def __init__(self, call: Call, want: Want, parser: MakeParser | None, names: TokenNames) -> None:
        super().__init__(call, want)
        self._choices = [_Message(parser() if parser is not None else None, want.one_call) for _ in range(want.n)]
        self._names = names

    def add(self, index: int, text: str, entries: list[Entry]) -> None:
        """Keep a choice's further text."""
        choice = self._choices[index]
        choice.add(choice.feed(text))
        choice.entries.extend(entries)

    def close_choice(self, index: int, text: str, entries: list[Entry], reason: EndReason) -> None:
        """Keep a choice's last text and the reason of its end."""
        self.add(index, text, entries)
        choice = self._choices[index]
        choice.add(choice.finish())
        choice.reason = reason

    def answers(self) -> list[dict[str, Any]]:
        """Return the choices."""
        return [self._answer(index, choice) for index, choice in enumerate(self._choices)]

    def _answer(self, index: int, choice: _Message) -> dict[str, Any]:
        alternatives = self.want.logprobs
        logprobs = None
        if alternatives is not None:
            logprobs = chat_logprobs(choice.entries, self._names, alternatives)
        finish = "tool_calls" if choice.names and choice.reason == "stop" else choice.reason
        return {"index": index, "message": choice.message(), "logprobs": logprobs, "finish_reason": finish}
