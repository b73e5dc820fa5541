"""Completions out of llama.cpp's events."""

from typing import Any

from modelrack.api.common import make_id, now
from modelrack.worker import Call

from .answers import CREATED, Collector, Part, Streamer, Want
from .logprobs import Entry, legacy_logprobs, read_entries
from .speed import Speed

__all__ = ["TextCollector", "TextStream", "read_text"]

_START = b'{"choices":[{"text":"'
_END = b'","index":0,"logprobs":null,"finish_reason":null}'
"""What stands before and after the text of a choice that has nothing else; without text, a quote follows the start."""
_CHUNK_END = b',"logprobs":null,"finish_reason":null}]}'


class TextStream(Streamer):
    """A streamed completion."""

    _object = "text_completion"
    _prefix = "cmpl"

    def __init__(self, call: Call, want: Want, speed: Speed, calls: int) -> None:
        super().__init__(call, want, speed, calls)
        self._lengths: dict[int, int] = {}

    def part(self, prompt: int, first: int) -> Part:
        """Return what takes the events of one call."""
        return _TextStreamPart(self, prompt, first) if self.is_plain and first == 0 else Part(self, prompt, first)

    def take(self, part: Part, index: int, choice: dict[str, Any]) -> None:
        """Take one choice of an event."""
        text, finish, entries = self.check_stop(part, index, *read_text(part, choice, self.want))
        if index not in self.started:
            self.started.add(index)
            if self.want.echo is not None:
                text = self.want.echo[part.prompt] + text
        logprobs = None
        alternatives = self.want.logprobs
        if entries and alternatives is not None:
            logprobs = legacy_logprobs(entries, alternatives, self._lengths.get(index, 0))
            self._lengths[index] = self._lengths.get(index, 0) + sum(len(entry["token"]) for entry in entries)
        if text or logprobs:
            self.write({"index": index, "text": text, "logprobs": logprobs, "finish_reason": None})
        if finish is not None:
            self.write({"index": index, "text": "", "logprobs": None, "finish_reason": finish})


class _TextStreamPart(Part):
    """Passes plain text on without parsing it; events without text and the last one go the long way."""

    __slots__ = ()

    def feed(self, event: bytes) -> bool:
        """Take an event; True stops the call."""
        answer = self.answer
        assert isinstance(answer, TextStream)
        text = plain_text(event)
        if text is None:
            return super().feed(event)
        return not answer.stream.put(answer.head + b'{"index":0,"text":' + text + _CHUNK_END)


def plain_text(event: bytes) -> bytes | None:
    """Return the text of a completion's event as JSON; None if there is none, or more than text."""
    end = event.rfind(CREATED)
    if event.startswith(_START) and event.endswith(_END, 0, end) and not event.startswith(b'"', len(_START)):
        return event[len(_START) - 1 : end - len(_END) + 1]
    return None


class TextCollector(Collector):
    """A completion in one piece."""

    def __init__(self, call: Call, want: Want, speed: Speed, calls: int) -> None:
        super().__init__(call, want, speed, calls)
        self._texts: dict[int, list[str]] = {}
        self._finish: dict[int, str] = {}
        self._entries: dict[int, list[Entry]] = {}

    def take(self, part: Part, index: int, choice: dict[str, Any]) -> None:
        """Take one choice of an event, or a whole one."""
        text, finish, entries = self.check_stop(part, index, *read_text(part, choice, self.want))
        texts = self._texts.get(index)
        if texts is None:
            echo = self.want.echo
            texts = self._texts[index] = [] if echo is None else [echo[part.prompt]]
        if text:
            texts.append(text)
        if entries:
            self._entries.setdefault(index, []).extend(entries)
        if finish is not None:
            self._finish[index] = finish

    def answer(self) -> dict[str, Any]:
        """Return the whole answer, but for its usage."""
        choices = []
        for index in sorted(self._texts):
            text = "".join(self._texts[index])
            logprobs = None
            alternatives = self.want.logprobs
            if alternatives is not None:
                entries = _within(self._entries.get(index, []), text)
                logprobs = legacy_logprobs(entries, alternatives, 0)
            finish = self._finish.get(index, "stop")
            choices.append({"index": index, "text": text, "logprobs": logprobs, "finish_reason": finish})
        return {
            "id": make_id("cmpl"),
            "object": "text_completion",
            "created": now(),
            "model": self.call.model_uid,
            "choices": choices,
        }


def _within(entries: list[Entry], text: str) -> list[Entry]:
    """Return the tokens that lie within the text: those of a stop string come after it."""
    kept, length = [], 0
    for entry in entries:
        if length >= len(text):
            break
        kept.append(entry)
        length += len(entry["token"])
    return kept


def read_text(part: Part, choice: dict[str, Any], want: Want) -> tuple[str, str | None, list[Entry]]:
    """Return text, reason of the end and tokens of a completion's choice; a stop token ends the call here."""
    text: str = choice["text"]
    finish: str | None = choice["finish_reason"]
    if want.stop_ids and finish is None:
        logprobs = choice["logprobs"]
        if logprobs and any(entry["id"] in want.stop_ids for entry in logprobs["content"]):
            part.stopped = True
            return "", "stop", []
    return text, finish, read_entries(choice) if want.logprobs is not None else []
