"""What of vLLM's answers is exchanged: as little as the public contract wants.

An answer to a chat is read by a format of modelrack where the model writes tool calls or reasoning; log probabilities
are put into the promised order and number. Everything else is passed on byte by byte.
"""

from collections.abc import Mapping
from typing import Any

import orjson

from modelrack.llm.chat_answers import ParsedChoice

from .faults import explain
from .requests import Ask

__all__ = ["Rewriter", "make_rewriter"]

_DATA, _END = b"data: ", b"\n\n"
_FAULT = b'data: {"error"'


class Rewriter:
    """Passes an answer on. Subclasses change what must be changed in it.

    Args:
        names: what stands for the model in vLLM's answer, and what must stand there; None: it is right.
    """

    def __init__(self, names: tuple[bytes, bytes] | None = None) -> None:
        self._names = names
        self._held = b""

    def whole(self, body: bytes) -> bytes:
        """Return an answer that came in one piece."""
        return body if self._names is None else body.replace(*self._names, 1)

    def event(self, event: bytes) -> bytes:
        """Return an event of a stream, with `data: ` before it and an empty line after it; nothing if it says none."""
        if event.startswith(_FAULT):
            return _DATA + orjson.dumps(explain(orjson.loads(event[len(_DATA) :])["error"]).body()) + _END
        return event if self._names is None else event.replace(*self._names, 1)

    def events(self, data: bytes) -> bytes:
        """Return what comes of a piece of a stream. vLLM sends event by event."""
        if not self._held and data.endswith(_END) and data.count(_END) == 1:
            return self.event(data)
        *whole, self._held = (self._held + data).split(_END)
        return b"".join([self.event(event + _END) for event in whole])

    def rest(self) -> bytes:
        """Return what is left of a stream at its end."""
        held, self._held = self._held, b""
        return held


class _Decoding(Rewriter):
    """Changes the choices of answers.

    Args:
        model: what stands for the model in the answer.
        alternatives: log probabilities for each token; None: none.
    """

    def __init__(self, model: str, alternatives: int | None) -> None:
        super().__init__()
        self._model = model
        self._alternatives = alternatives

    def whole(self, body: bytes) -> bytes:
        answer = orjson.loads(body)
        answer["model"] = self._model
        answer["choices"] = [self.choice(choice) for choice in answer["choices"]]
        return orjson.dumps(answer)

    def event(self, event: bytes) -> bytes:
        if not event.startswith(b'data: {"id"'):
            return super().event(event)
        chunk = orjson.loads(event[len(_DATA) :])
        chunk["model"] = self._model
        if chunk["choices"]:
            chunk["choices"] = [each for choice in chunk["choices"] if (each := self.part(choice)) is not None]
            if not chunk["choices"]:
                return b""
        return _DATA + orjson.dumps(chunk) + _END

    def choice(self, choice: dict[str, Any]) -> dict[str, Any]:
        """Return a choice of a whole answer."""
        return choice

    def part(self, choice: dict[str, Any]) -> dict[str, Any] | None:
        """Return a choice of an event; None if there is nothing in it."""
        return self.choice(choice)


def _ends_with_token(choice: Mapping[str, Any]) -> bool:
    """Tell whether the last token of a choice is the one that ended it: it has no part in the text."""
    return choice["finish_reason"] in ("stop", "tool_calls") and not isinstance(choice.get("stop_reason"), str)


class TextRewriter(_Decoding):
    """Completions with log probabilities."""

    def choice(self, choice: dict[str, Any]) -> dict[str, Any]:
        """Put alternatives in order, as many as were asked for, and leave the token that ended the text out."""
        logprobs = choice.get("logprobs")
        if logprobs:
            if _ends_with_token(choice) and logprobs["tokens"]:
                for values in logprobs.values():
                    if values:
                        values.pop()
            tops = logprobs.get("top_logprobs") or []
            logprobs["top_logprobs"] = [top and self._best(top) for top in tops]
        return choice

    def _best(self, top: Mapping[str, float]) -> dict[str, float]:
        ranked = sorted(top.items(), key=lambda item: -item[1])
        return dict(ranked[: self._alternatives])


class ChatRewriter(_Decoding):
    """Chats with log probabilities, or with answers that are read by a format.

    Args:
        reader: makes what reads a choice; None: the content stands as it is, or vLLM has read it.
        one_call: of several calls, only the first is given.
    """

    def __init__(self, model: str, ask: Ask, *, one_call: bool = False) -> None:
        super().__init__(model, ask.logprobs)
        self._make_reader = ask.reader
        self._one_call = one_call
        self._readers: dict[int, ParsedChoice] = {}
        self._callers: set[int] = set()

    def choice(self, choice: dict[str, Any]) -> dict[str, Any]:
        """Read the message of a whole answer."""
        self._order(choice)
        message: dict[str, Any] = choice["message"]
        if self._make_reader is not None:
            delta = {**_reasoning(message), **self._reader().delta(message.get("content") or "", is_last=True)}
            message = {"role": "assistant", "content": "", **delta}
        else:
            message = _renamed(message)
            message["content"] = message.get("content") or ""
        calls = message.get("tool_calls")
        if calls:
            message["tool_calls"] = [{key: one for key, one in call.items() if key != "index"} for call in calls]
            message["content"] = message["content"] or None
        choice["message"] = message
        choice["finish_reason"] = _finish(choice["finish_reason"], has_calls=bool(calls))
        return choice

    def part(self, choice: dict[str, Any]) -> dict[str, Any] | None:
        """Read what an event adds to a message."""
        self._order(choice)
        index, finish = choice["index"], choice.get("finish_reason")
        delta = _renamed(choice["delta"])
        is_opening = "role" in delta
        if self._make_reader is not None and not is_opening:
            reader = self._readers.get(index)
            if reader is None:
                reader = self._readers[index] = self._reader()
            read = reader.delta(delta.get("content") or "", is_last=finish is not None)
            delta = {**_reasoning(delta), **read}
        if delta.get("tool_calls"):
            self._callers.add(index)
        if not delta and finish is None and not choice.get("logprobs"):
            return None
        delta["content"] = delta.get("content") or ""
        choice["delta"] = delta
        choice["finish_reason"] = _finish(finish, has_calls=index in self._callers)
        return choice

    def _order(self, choice: dict[str, Any]) -> None:
        """Put alternatives in order, as many as were asked for, and leave the token that ended the answer out."""
        logprobs = choice.get("logprobs")
        entries = logprobs and logprobs.get("content")
        if not entries:
            return
        if _ends_with_token(choice):
            entries.pop()
        for entry in entries:
            ranked = sorted(entry["top_logprobs"], key=lambda other: -other["logprob"])
            entry["top_logprobs"] = ranked[: self._alternatives]
        if not entries and "delta" in choice:
            choice["logprobs"] = None

    def _reader(self) -> ParsedChoice:
        return ParsedChoice(self._make_reader(), self._one_call)


def _renamed(message: Mapping[str, Any]) -> dict[str, Any]:
    """Return a message or delta with the reasoning under the name that clients know, and without what is null."""
    named = {key: value for key, value in message.items() if value is not None and value != []}
    if "reasoning" in named:
        named["reasoning_content"] = named.pop("reasoning")
    return named


def _reasoning(message: Mapping[str, Any]) -> dict[str, Any]:
    """Return the reasoning that vLLM itself has read."""
    return {key: value for key, value in _renamed(message).items() if key == "reasoning_content"}


def _finish(reason: str | None, *, has_calls: bool) -> str | None:
    """Return why a choice ended; a choice with calls did so for them unless it was cut off."""
    if reason in ("stop", "tool_calls"):
        return "tool_calls" if has_calls else "stop"
    return reason


def make_rewriter(model: str, ask: Ask, *, reads_natively: bool, one_call: bool) -> Rewriter:
    """Return what passes an answer on.

    Args:
        model: the model's uid.
        reads_natively: vLLM tells tool calls or reasoning from the content itself.
        one_call: of several calls, only the first is given.
    """
    is_chat = ask.path.endswith("chat/completions")
    if is_chat and (ask.reader is not None or ask.logprobs is not None or reads_natively):
        return ChatRewriter(model, ask, one_call=one_call)
    if not is_chat and ask.logprobs is not None:
        return TextRewriter(model, ask.logprobs)
    theirs, ours = (b'"model":' + orjson.dumps(one) for one in (ask.body["model"], model))
    return Rewriter() if theirs == ours else Rewriter((theirs, ours))
