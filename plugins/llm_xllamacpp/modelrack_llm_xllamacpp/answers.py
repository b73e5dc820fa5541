"""From llama.cpp's events to the answers of the contract. Everything here runs in the threads of the calls.

llama.cpp (b11549) differs from the contract in these points, which are put right here: the first delta of a chat has a
`content` of null, completions begin with an event `null`, `usage` comes for each of several answers alone, `created`
and `id` are its own, and its answers carry `timings` and a fingerprint.
"""

import asyncio
import logging
from collections.abc import Mapping
from contextlib import suppress
from threading import Lock
from typing import Any, ClassVar

import orjson

from modelrack.api.common import make_id, now
from modelrack.errors import EngineError, ModelrackError
from modelrack.llm.text import StopStrings
from modelrack.worker import Call
from modelrack.worker.bridge import ThreadStream

from .faults import explain_exception, explain_fault
from .logprobs import Entry
from .speed import Speed
from .stops import StopGate
from .tools import ForcedTools

__all__ = ["CREATED", "Answer", "Collector", "Part", "Streamer", "Want"]

CREATED = b'],"created":'
"""What follows the choices in every event."""

log = logging.getLogger(__name__)


class Want:
    """What the client asked for beyond the plain text.

    Args:
        logprobs: alternatives for each token; None for no log probabilities.
        stop_ids: tokens that end the answer.
        forced: tools that must be called.
        echo: what answers begin with, by the number of the prompt.
        n: answers for each prompt.
        usage: a stream ends with its usage.
        from_text: a chat is answered by events of a completion.
        stop: strings that end the answer.
    """

    __slots__ = ("echo", "forced", "from_text", "logprobs", "n", "stop", "stop_ids", "usage")

    def __init__(
        self,
        *,
        logprobs: int | None = None,
        stop_ids: frozenset[int] = frozenset(),
        forced: ForcedTools | None = None,
        echo: list[str] | None = None,
        n: int = 1,
        usage: bool = False,
        from_text: bool = False,
        stop: StopStrings | None = None,
    ) -> None:
        self.logprobs = logprobs
        self.stop_ids = stop_ids
        self.forced = forced
        self.echo = echo
        self.n = n
        self.usage = usage
        self.from_text = from_text
        self.stop = stop

    @property
    def may_stop(self) -> bool:
        """Tell whether the answer may be ended here, so that each call of the engine can give one only."""
        return bool(self.stop_ids) or self.stop is not None


class Answer:
    """What all answers have in common: several calls of the engine, their counts and their end."""

    def __init__(self, call: Call, want: Want, speed: Speed, calls: int) -> None:
        self.call = call
        self.want = want
        self.speed = speed
        self.error: ModelrackError | None = None
        self._open = calls
        self._lock = Lock()
        self._prompts: dict[int, tuple[int, int]] = {}
        self._completion_tokens: dict[int, int] = {}
        self._gates: dict[int, StopGate] = {}

    @property
    def is_cancelled(self) -> bool:
        """Tell whether nobody waits for this any more."""
        raise NotImplementedError

    def part(self, prompt: int, first: int) -> "Part":
        """Return what takes the events of one call.

        Args:
            prompt: number of the prompt it answers.
            first: index of its first answer.
        """
        return Part(self, prompt, first)

    def take(self, part: "Part", index: int, choice: dict[str, Any]) -> None:
        """Take one choice of an event; `index` is that in the public answer."""
        raise NotImplementedError

    def finish(self) -> None:
        """Do what is to be done when all calls are over."""
        raise NotImplementedError

    def check_stop(
        self, part: "Part", index: int, text: str, finish: str | None, entries: list[Entry]
    ) -> tuple[str, str | None, list[Entry]]:
        """Return as much of a choice's text and tokens as no stop string can begin in; one that is found ends it."""
        strings = self.want.stop
        if strings is None:
            return text, finish, entries
        gate = self._gates.get(index)
        if gate is None:
            gate = self._gates[index] = StopGate(strings)
        elif gate.found:
            return "", None, []
        text, entries = gate.feed(text, entries, is_last=finish is not None)
        if gate.found:
            part.stopped = finish is None
            finish = "stop"
        return text, finish, entries

    def count_usage(self, prompt: int, index: int, usage: Mapping[str, Any]) -> None:
        """Keep the counts of one answer. Answers to the same prompt share its tokens."""
        details = usage.get("prompt_tokens_details") or {}
        self._prompts.setdefault(prompt, (usage["prompt_tokens"], details.get("cached_tokens", 0)))
        self._completion_tokens[index] = usage["completion_tokens"]

    def usage(self) -> dict[str, Any]:
        """Return the counts over all answers, and tell them to the host."""
        prompt = sum(tokens for tokens, _ in self._prompts.values())
        cached = sum(tokens for _, tokens in self._prompts.values())
        completion = sum(self._completion_tokens.values())
        self.call.usage(prompt, completion)
        return {
            "prompt_tokens": prompt,
            "completion_tokens": completion,
            "total_tokens": prompt + completion,
            "prompt_tokens_details": {"cached_tokens": cached},
        }

    def fail(self, error: ModelrackError) -> None:
        """Keep the first error; the other calls then stop."""
        if self.error is None:
            self.error = error

    def end_call(self) -> None:
        """Count one call less."""
        with self._lock:
            self._open -= 1
            is_last = self._open == 0
        if is_last:
            self.finish()


class Part:
    """Takes the events of one call of the engine."""

    __slots__ = ("answer", "count", "first", "prompt", "stopped")

    def __init__(self, answer: Answer, prompt: int, first: int) -> None:
        self.answer = answer
        self.prompt = prompt
        self.first = first
        self.count = 0
        self.stopped = False

    @property
    def is_cancelled(self) -> bool:
        """Tell whether nobody waits for the answer any more."""
        return self.answer.is_cancelled or self.answer.error is not None

    def feed(self, event: bytes) -> bool:
        """Take an event; True stops the call."""
        answer = self.answer
        if answer.is_cancelled or answer.error is not None:
            return True
        try:
            return self._read(orjson.loads(event))
        except Exception as error:
            # It would be lost in the engine's thread, and the client would wait for ever.
            log.exception("an event of llama.cpp cannot be read: %s", event[:500])
            answer.fail(EngineError(f"An event of llama.cpp cannot be read ({type(error).__name__}: {error})."))
            return True

    def _read(self, data: Any) -> bool:
        if data is None or "prompt_progress" in data:
            return False
        fault = data.get("error")
        if fault is not None:
            self.answer.fail(explain_fault(fault))
            return True
        choices = data["choices"]
        for choice in choices:
            self.answer.take(self, self.first + choice["index"], choice)
        usage = data.get("usage")
        if usage is not None:
            # A chat's stream gives the usage of each answer by itself, without saying of which.
            self.answer.count_usage(self.prompt, self.first + self.count, usage)
            self.count += 1
        timings = data.get("timings")
        if timings is None:
            return False
        if self.stopped:
            self.answer.count_usage(self.prompt, self.first, _usage_so_far(timings))
        else:
            self.answer.speed.learn(timings)
        return self.stopped

    def end(self, error: BaseException | None) -> None:
        """Hear that the call is over."""
        if error is not None:
            self.answer.fail(explain_exception(error))
        self.answer.end_call()


def _usage_so_far(timings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the usage of an answer that is ended here, before the engine has told it."""
    return {
        "prompt_tokens": timings["prompt_n"] + timings["cache_n"],
        "completion_tokens": timings["predicted_n"],
        "prompt_tokens_details": {"cached_tokens": timings["cache_n"]},
    }


class Streamer(Answer):
    """A streamed answer: events go to the host as they come."""

    _object: ClassVar[str]
    _prefix: ClassVar[str]

    def __init__(self, call: Call, want: Want, speed: Speed, calls: int) -> None:
        super().__init__(call, want, speed, calls)
        self.stream: ThreadStream[bytes] = ThreadStream()
        head = {"id": make_id(self._prefix), "object": self._object, "created": now(), "model": call.model_uid}
        self.head = orjson.dumps(head)[:-1] + b',"choices":['
        self.started: set[int] = set()
        self.is_plain = want.logprobs is None and not want.may_stop and want.forced is None and want.echo is None

    @property
    def is_cancelled(self) -> bool:
        """Tell whether the client has gone."""
        return self.stream.cancelled.is_set

    def write(self, choice: Mapping[str, Any]) -> None:
        """Send a chunk with one choice."""
        self.stream.put(self.head + orjson.dumps(choice) + b"]}")

    def finish(self) -> None:
        """Send the usage if it was asked for, and end the stream."""
        if self.error is not None:
            self.stream.close(self.error)
            return
        if self._prompts:
            usage = self.usage()
            if self.want.usage:
                self.stream.put(self.head + b'],"usage":' + orjson.dumps(usage) + b"}")
        self.stream.close()


class Collector(Answer):
    """An answer in one piece: `result` is awaited by the handler."""

    def __init__(self, call: Call, want: Want, speed: Speed, calls: int) -> None:
        super().__init__(call, want, speed, calls)
        self._loop = asyncio.get_running_loop()
        self._future: asyncio.Future[bytes] = self._loop.create_future()
        self._is_cancelled = False

    @property
    def is_cancelled(self) -> bool:
        """Tell whether the client has gone."""
        return self._is_cancelled

    async def result(self) -> bytes:
        """Wait for the answer; cancelling this stops the engine's work."""
        try:
            return await self._future
        except asyncio.CancelledError:
            self._is_cancelled = True
            raise

    def answer(self) -> dict[str, Any]:
        """Return the whole answer, but for its usage."""
        raise NotImplementedError

    def finish(self) -> None:
        """Put the answer together and hand it to the event loop."""
        error: BaseException | None = self.error
        body = b""
        if error is None and not self._is_cancelled:
            try:
                body = orjson.dumps({**self.answer(), "usage": self.usage()})
            except Exception as caught:
                error = caught
        with suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._settle, body, error)

    def _settle(self, body: bytes, error: BaseException | None) -> None:
        if self._future.done():
            return
        if error is not None:
            self._future.set_exception(error)
        else:
            self._future.set_result(body)
