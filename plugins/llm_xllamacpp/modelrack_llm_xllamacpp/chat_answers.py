"""Chat completions out of llama.cpp's events."""

from collections.abc import Mapping
from typing import Any

from modelrack.api.common import make_id, now
from modelrack.worker import Call

from .answers import CREATED, Answer, Collector, Part, Streamer, Want
from .logprobs import Entry, chat_entry, read_entries
from .speed import Speed
from .text_answers import plain_text, read_text
from .tools import ForcedTools

__all__ = ["ChatCollector", "ChatStream"]

_PLAIN = b'{"choices":[{"finish_reason":null,"index":0,"delta":{"content":"'
"""How events begin that add text to the first answer."""
_CHUNK_END = b'},"logprobs":null,"finish_reason":null}]}'


class ChatStream(Streamer):
    """A streamed chat completion."""

    _object = "chat.completion.chunk"
    _prefix = "chatcmpl"

    def __init__(self, call: Call, want: Want, speed: Speed, calls: int) -> None:
        super().__init__(call, want, speed, calls)
        self._texts: dict[int, list[str]] = {}

    def part(self, prompt: int, first: int) -> Part:
        """Return what takes the events of one call."""
        if not self.is_plain or first != 0:
            return Part(self, prompt, first)
        return (_TextToChatPart if self.want.from_text else _ChatPart)(self, prompt, first)

    def take(self, part: Part, index: int, choice: dict[str, Any]) -> None:
        """Take one choice of an event."""
        if index not in self.started:
            self.started.add(index)
            self._send(index, {"role": "assistant", "content": ""})
        delta, finish, entries = read_choice(self, part, index, choice)
        forced = self.want.forced
        if forced is not None:
            delta, finish = self._force(forced, index, delta, finish)
        if delta or entries:
            self._send(index, delta, entries)
        if finish is not None:
            self._send(index, {}, finish=finish)

    def _force(
        self, forced: ForcedTools, index: int, delta: dict[str, Any], finish: str | None
    ) -> tuple[dict[str, Any], str | None]:
        """Turn the text of a forced call into the call. The arguments of a named tool stream as they are written."""
        text = delta.pop("content", None)
        texts = self._texts.setdefault(index, [])
        if text:
            texts.append(text)
            if forced.name is not None:
                first = len(texts) == 1
                call: dict[str, Any] = {"index": 0, "function": {"arguments": text}}
                if first:
                    call = {**forced.read(text)[0], "index": 0}
                delta["tool_calls"] = [call]
        if finish is not None and forced.name is None:
            calls = forced.read("".join(texts))
            if calls:
                delta["tool_calls"] = [{**one, "index": number} for number, one in enumerate(calls)]
        return delta, "tool_calls" if finish == "stop" else finish

    def _send(
        self, index: int, delta: dict[str, Any], entries: list[Entry] | None = None, finish: str | None = None
    ) -> None:
        delta.setdefault("content", "")
        alternatives = self.want.logprobs
        logprobs = None
        if entries and alternatives is not None:
            logprobs = {"content": [chat_entry(entry, alternatives) for entry in entries]}
        self.write({"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": finish})


class _ChatPart(Part):
    """Passes plain text on without parsing it: only what stands around the choices is exchanged."""

    __slots__ = ()

    def feed(self, event: bytes) -> bool:
        """Take an event; True stops the call."""
        answer = self.answer
        assert isinstance(answer, ChatStream)
        # The event that names the role does not come if the first token is half a character.
        if not event.startswith(_PLAIN) or 0 not in answer.started:
            return super().feed(event)
        # What follows the choices holds no free text but the model's uid, so the last match is the end of them.
        return not answer.stream.put(answer.head + event[12 : event.rindex(CREATED)] + b"]}")


class _TextToChatPart(Part):
    """Makes chunks of a chat of a completion's events, without parsing those that are plain text."""

    __slots__ = ()

    def feed(self, event: bytes) -> bool:
        """Take an event; True stops the call."""
        answer = self.answer
        assert isinstance(answer, ChatStream)
        text = plain_text(event) if 0 in answer.started else None
        if text is None:
            return super().feed(event)
        return not answer.stream.put(answer.head + b'{"index":0,"delta":{"content":' + text + _CHUNK_END)


class _ChatChoice:
    """One answer of a chat while it is collected."""

    __slots__ = ("calls", "content", "entries", "finish", "reasoning")

    def __init__(self) -> None:
        self.content: list[str] = []
        self.reasoning: list[str] = []
        self.calls: list[dict[str, Any]] = []
        self.entries: list[Entry] = []
        self.finish: str | None = None

    def add(self, delta: Mapping[str, Any]) -> None:
        """Add a delta."""
        content = delta.get("content")
        if content:
            self.content.append(content)
        reasoning = delta.get("reasoning_content")
        if reasoning:
            self.reasoning.append(reasoning)
        for piece in delta.get("tool_calls") or ():
            position = piece.get("index", len(self.calls))
            while len(self.calls) <= position:
                self.calls.append({"id": "", "type": "function", "function": {"name": "", "arguments": ""}})
            call = self.calls[position]
            call["id"] = piece.get("id") or call["id"]
            function = piece.get("function") or {}
            call["function"]["name"] += function.get("name") or ""
            call["function"]["arguments"] += function.get("arguments") or ""


class ChatCollector(Collector):
    """A chat completion in one piece."""

    def __init__(self, call: Call, want: Want, speed: Speed, calls: int) -> None:
        super().__init__(call, want, speed, calls)
        self._choices: dict[int, _ChatChoice] = {}

    def take(self, part: Part, index: int, choice: dict[str, Any]) -> None:
        """Take one choice of an event, or a whole one."""
        one = self._choices.get(index)
        if one is None:
            one = self._choices[index] = _ChatChoice()
        delta, finish, entries = read_choice(self, part, index, choice)
        one.add(delta)
        one.entries.extend(entries)
        if finish is not None:
            one.finish = finish

    def answer(self) -> dict[str, Any]:
        """Return the whole answer, but for its usage."""
        choices = [self._choice(index, one) for index, one in sorted(self._choices.items())]
        return {
            "id": make_id("chatcmpl"),
            "object": "chat.completion",
            "created": now(),
            "model": self.call.model_uid,
            "choices": choices,
        }

    def _choice(self, index: int, one: _ChatChoice) -> dict[str, Any]:
        text: str | None = "".join(one.content)
        calls, finish = one.calls, one.finish or "stop"
        forced = self.want.forced
        if forced is not None:
            calls, text = forced.read(text or ""), ""
            finish = "tool_calls" if finish == "stop" else finish
        message: dict[str, Any] = {"role": "assistant", "content": text if text or not calls else None}
        if one.reasoning:
            message["reasoning_content"] = "".join(one.reasoning)
        if calls:
            message["tool_calls"] = calls
        logprobs = None
        alternatives = self.want.logprobs
        if alternatives is not None:
            logprobs = {"content": [chat_entry(entry, alternatives) for entry in one.entries]}
        return {"index": index, "message": message, "logprobs": logprobs, "finish_reason": finish}


def read_choice(
    answer: Answer, part: Part, index: int, choice: dict[str, Any]
) -> tuple[dict[str, Any], str | None, list[Entry]]:
    """Return delta, reason of the end and tokens of a choice, as far as stop strings let them through."""
    delta, finish, entries = _read_chat(part, choice, answer.want)
    if answer.want.stop is not None:
        text, finish, entries = answer.check_stop(part, index, delta.pop("content", ""), finish, entries)
        if text:
            delta["content"] = text
    return delta, finish, entries


def _read_chat(part: Part, choice: dict[str, Any], want: Want) -> tuple[dict[str, Any], str | None, list[Entry]]:
    """Return delta, reason of the end and tokens of a choice: of a chunk, of a whole answer, or of a completion's."""
    if want.from_text:
        text, finish, entries = read_text(part, choice, want)
        return ({"content": text} if text else {}), finish, entries
    delta: dict[str, Any] = choice.get("delta") or choice.get("message") or {}
    delta = {key: value for key, value in delta.items() if value and key != "role"}
    return delta, choice["finish_reason"], read_entries(choice) if want.logprobs is not None else []
