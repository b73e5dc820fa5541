"""From what an engine tells of a generation to one answer: counts, ends, errors, and the text of each choice."""

import asyncio
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import orjson

from ..api.common import make_id, now
from ..errors import EngineError, ModelrackError
from ..worker.contract import Call
from .contract import EndReason, Ticket, TokenLogprob
from .logprobs import Entry, LogprobTrack
from .streams import ChunkStream
from .text import StopFinder, StopStrings, TextDecoder, TokenTexts

__all__ = ["Answer", "ChoiceText", "Collector", "Part", "Streamer", "Want", "as_many"]

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Want:
    """What the client asked for, as far as answers depend on it.

    Args:
        texts: what tokens add to this answer.
        prompts: number of prompts.
        n: answers to each prompt.
        logprobs: alternatives for each token; None for no log probabilities.
        usage: a stream ends with its usage.
        one_call: of several tool calls, only the first is given.
    """

    texts: TokenTexts
    prompts: int = 1
    n: int = 1
    stop: StopStrings | None = None
    logprobs: int | None = None
    usage: bool = False
    one_call: bool = False


class ChoiceText:
    """The text of one choice, as it grows."""

    __slots__ = ("_decoder", "_finder", "_track", "given", "is_over", "tokens")

    def __init__(self, want: Want) -> None:
        self._decoder = TextDecoder(want.texts)
        self._finder = StopFinder(want.stop) if want.stop is not None else None
        self._track = LogprobTrack() if want.logprobs is not None else None
        self.given = 0
        self.tokens = 0
        self.is_over = False

    @property
    def is_stopped(self) -> bool:
        """Tell whether a stop string has come."""
        return self._finder is not None and self._finder.found

    def take(self, tokens: Sequence[int], logprobs: Sequence[TokenLogprob] | None) -> str:
        """Take tokens, and return the text that is certain by now."""
        track = self._track
        if track is not None:
            text = self._take_each(tokens, logprobs or (), track)
        elif self._finder is not None and len(tokens) > 1:
            text = self._take_until(tokens)
        else:
            self.tokens += len(tokens)
            text = self._search(self._decoder.feed(tokens))
        self.given += len(text)
        return text

    def _search(self, text: str) -> str:
        return text if self._finder is None else self._finder.feed(text)

    def _take_until(self, tokens: Sequence[int]) -> str:
        """Take tokens up to the one that completes a stop string: what the engine has run ahead is not counted."""
        pieces = []
        for token in tokens:
            self.tokens += 1
            pieces.append(self._search(self._decoder.feed((token,))))
            if self.is_stopped:
                break
        return "".join(pieces)

    def _take_each(self, tokens: Sequence[int], logprobs: Sequence[TokenLogprob], track: LogprobTrack) -> str:
        pieces = []
        for token, logprob in zip(tokens, as_many(logprobs, len(tokens)), strict=True):
            self.tokens += 1
            text = self._decoder.feed((token,))
            track.add(token, logprob, len(text))
            pieces.append(self._search(text))
            if self.is_stopped:
                break
        return "".join(pieces)

    def finish(self) -> str:
        """Return the rest of the text; nothing after a stop string."""
        if self.is_stopped:
            return ""
        text = self._search(self._decoder.finish())
        if self._finder is not None and not self._finder.found:
            text += self._finder.finish()
        self.given += len(text)
        return text

    def entries(self, *, is_last: bool = False) -> list[Entry]:
        """Return the tokens whose text has been given out since the last call; at the end, all that are left."""
        if self._track is None:
            return []
        found = self._track.release(self.given)
        return found + self._track.finish(self.given, self.is_stopped) if is_last else found


def as_many(logprobs: Sequence[TokenLogprob | None], count: int) -> Sequence[TokenLogprob | None]:
    """Return the log probabilities of so many tokens; None for those that the engine has not given."""
    if len(logprobs) == count:
        return logprobs
    log.warning("the engine was asked for log probabilities and gave %d for %d tokens", len(logprobs), count)
    return [*logprobs[:count], *[None] * (count - len(logprobs))]


class Part:
    """Hears of the answers to one prompt.

    Args:
        number: of the prompt.
    """

    __slots__ = ("answer", "choices", "first", "number", "ticket")

    def __init__(self, answer: "Answer", number: int) -> None:
        self.answer = answer
        self.number = number
        self.first = number * answer.want.n
        self.ticket: Ticket | None = None
        self.choices = [ChoiceText(answer.want) for _ in range(answer.want.n)]

    def begin(
        self, prompt_tokens: int, cached_tokens: int, prompt_logprobs: Sequence[TokenLogprob | None] | None = None
    ) -> None:
        """Hear that the prompt has been read."""
        try:
            self.answer.begin(self, prompt_tokens, cached_tokens, prompt_logprobs)
        except Exception as error:
            self.answer.break_off(error)

    def take(self, index: int, tokens: Sequence[int], logprobs: Sequence[TokenLogprob] | None) -> None:
        """Take further tokens of a choice."""
        choice = self.choices[index]
        if choice.is_over or self.answer.is_closed:
            return
        try:
            text = choice.take(tokens, logprobs)
            if choice.is_stopped:
                if self.ticket is not None:
                    self.ticket.cancel(index)
                self._end(index, text, "stop", choice.tokens)
            else:
                self.answer.add(self.first + index, text, choice.entries())
        except Exception as error:
            self.answer.break_off(error)

    def end(self, index: int, reason: EndReason, tokens: int) -> None:
        """Hear that a choice is over."""
        choice = self.choices[index]
        if choice.is_over or self.answer.is_closed:
            return
        try:
            text = self._rest(index)
            # A character's broken rest may yet have made a stop string.
            self._end(index, text, "stop" if choice.is_stopped else reason, tokens)
        except Exception as error:
            self.answer.break_off(error)

    def _rest(self, index: int) -> str:
        """Return what is left of a choice's text."""
        return self.choices[index].finish()

    def _end(self, index: int, text: str, reason: EndReason, tokens: int) -> None:
        choice = self.choices[index]
        choice.is_over = True
        self.answer.end(self.first + index, text, choice.entries(is_last=True), reason, tokens)

    def fail(self, error: ModelrackError) -> None:
        """Hear that nothing more comes."""
        self.answer.fail(error)


class Answer:
    """What all answers have in common. Its parts are listeners of the engine; everything is on the event loop."""

    object: ClassVar[str]
    prefix: ClassVar[str]

    def __init__(self, call: Call, want: Want) -> None:
        self.call = call
        self.want = want
        self._open = want.prompts * want.n
        self._tickets: list[Ticket] = []
        self._prompt_tokens = 0
        self._cached_tokens = 0
        self._completion_tokens = 0
        self.is_closed = False

    def part(self, number: int) -> Part:
        """Return what hears of the answers to one prompt."""
        return Part(self, number)

    def watch(self, part: Part, ticket: Ticket) -> None:
        """Keep the ticket of a part's generation."""
        part.ticket = ticket
        self._tickets.append(ticket)

    def begin(
        self,
        part: Part,
        prompt_tokens: int,
        cached_tokens: int,
        prompt_logprobs: Sequence[TokenLogprob | None] | None,
    ) -> None:
        """Hear that a prompt has been read."""
        self._prompt_tokens += prompt_tokens
        self._cached_tokens += cached_tokens

    def add(self, index: int, text: str, entries: list[Entry]) -> None:
        """Take a choice's further text."""
        raise NotImplementedError

    def close_choice(self, index: int, text: str, entries: list[Entry], reason: EndReason) -> None:
        """Take a choice's last text and the reason of its end."""
        raise NotImplementedError

    def finish(self) -> None:
        """Do what is to be done when all choices are over."""
        raise NotImplementedError

    def abort(self, error: ModelrackError) -> None:
        """Tell the client of an error."""
        raise NotImplementedError

    def end(self, index: int, text: str, entries: list[Entry], reason: EndReason, tokens: int) -> None:
        """Hear that a choice is over."""
        self._completion_tokens += tokens
        self.close_choice(index, text, entries, reason)
        self._open -= 1
        if not self._open and not self.is_closed:
            self.is_closed = True
            self.finish()

    def fail(self, error: ModelrackError) -> None:
        """Hear that one of the prompts fails: so do all."""
        if not self.is_closed:
            self.cancel()
            self.abort(error)

    def break_off(self, error: Exception) -> None:
        """Answer with a fault of our own: raised into the engine, it would be lost, and the client would wait."""
        log.error("the answer to request %s failed", self.call.request_id, exc_info=error)
        text = f"The answer could not be put together; the model's log has the details under {self.call.request_id}."
        self.fail(EngineError(text))

    def cancel(self) -> None:
        """Stop the engine's work; nothing more is heard of it."""
        self.is_closed = True
        for ticket in self._tickets:
            ticket.cancel()
        if self._prompt_tokens:
            self.call.usage(self._prompt_tokens, self._completion_tokens)

    def usage(self) -> dict[str, Any]:
        """Return the counts over all choices, and tell them to the host."""
        prompt, completion = self._prompt_tokens, self._completion_tokens
        self.call.usage(prompt, completion)
        return {
            "prompt_tokens": prompt,
            "completion_tokens": completion,
            "total_tokens": prompt + completion,
            "prompt_tokens_details": {"cached_tokens": self._cached_tokens},
        }

    def head(self) -> dict[str, Any]:
        """Return what an answer and its chunks begin with."""
        return {"id": make_id(self.prefix), "object": self.object, "created": now(), "model": self.call.model_uid}


class Streamer(Answer):
    """A streamed answer: `stream` has its chunks."""

    def __init__(self, call: Call, want: Want) -> None:
        super().__init__(call, want)
        self.stream = ChunkStream(self.cancel)
        self.start = orjson.dumps(self.head())[:-1] + b',"choices":['

    def write(self, choice: dict[str, Any]) -> None:
        """Send a chunk with one choice."""
        self.stream.put(self.start + orjson.dumps(choice) + b"]}")

    def finish(self) -> None:
        """Send the usage if it was asked for, and end the stream."""
        usage = self.usage()
        if self.want.usage:
            self.stream.put(self.start + b'],"usage":' + orjson.dumps(usage) + b"}")
        self.stream.close()

    def abort(self, error: ModelrackError) -> None:
        """End the stream with the error."""
        self.stream.close(error)


class StreamPart(Part):
    """Sends the text of a single choice without detours: no stop strings, no log probabilities, nothing to parse.

    Args:
        tails: what follows an answer's head in the chunk that adds a token.
    """

    __slots__ = ("_decoder", "_is_open", "_put", "_start", "_tails")

    def __init__(self, answer: "Streamer", number: int, tails: "ChunkTails") -> None:
        super().__init__(answer, number)
        self._decoder = TextDecoder(answer.want.texts)
        self._tails = tails
        self._start = answer.start
        self._put = answer.stream.put
        self._is_open = False

    def take(self, index: int, tokens: Sequence[int], logprobs: Sequence[TokenLogprob] | None) -> None:
        """Take further tokens."""
        try:
            if self._is_open and len(tokens) == 1 and self._decoder.is_whole:
                tail = self._tails[tokens[0]]
                if tail is not None:
                    self._put(self._start + tail)
                    return
            text = self._decoder.feed(tokens)
            if text:
                self._is_open = True
                self.answer.add(self.first, text, [])
        except Exception as error:
            self.answer.break_off(error)

    def _rest(self, index: int) -> str:
        return self._decoder.finish()


class ChunkTails(dict[int, bytes | None]):
    """What follows the head of a chunk that adds one token to the first choice; None: the token is no whole text.

    Args:
        write: makes it of a text.
    """

    def __init__(self, texts: TokenTexts, write: Callable[[str], bytes]) -> None:
        super().__init__()
        self._texts = texts
        self._write = write

    def __missing__(self, token: int) -> bytes | None:
        text = self._texts[token]
        tail = self[token] = self._write(text) if text else None
        return tail


class Collector(Answer):
    """An answer in one piece: `result` is awaited by the handler."""

    def __init__(self, call: Call, want: Want) -> None:
        super().__init__(call, want)
        self._future: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

    def part(self, number: int) -> Part:
        """Return what hears of the answers to one prompt."""
        is_plain = self.want.stop is None and self.want.logprobs is None
        return CollectingPart(self, number) if is_plain else Part(self, number)

    async def result(self) -> bytes:
        """Wait for the answer; cancelling this stops the engine's work."""
        try:
            return await self._future
        except asyncio.CancelledError:
            self.cancel()
            raise

    def answers(self) -> list[dict[str, Any]]:
        """Return the choices."""
        raise NotImplementedError

    def finish(self) -> None:
        """Put the answer together."""
        if self._future.done():
            return
        try:
            body = orjson.dumps({**self.head(), "choices": self.answers(), "usage": self.usage()})
        except Exception as error:
            self._future.set_exception(error)
        else:
            self._future.set_result(body)

    def abort(self, error: ModelrackError) -> None:
        """Answer with the error."""
        if not self._future.done():
            self._future.set_exception(error)
            # Nobody may be waiting yet, or ever: that is no reason to log it.
            self._future.exception()


class CollectingPart(Part):
    """Keeps tokens until the end: without stop strings nothing depends on their text before."""

    __slots__ = ("_tokens",)

    def __init__(self, answer: Collector, number: int) -> None:
        super().__init__(answer, number)
        self._tokens: list[list[int]] = [[] for _ in self.choices]

    def take(self, index: int, tokens: Sequence[int], logprobs: Sequence[TokenLogprob] | None) -> None:
        """Take further tokens of a choice."""
        self._tokens[index].extend(tokens)

    def _rest(self, index: int) -> str:
        choice = self.choices[index]
        return choice.take(self._tokens[index], None) + choice.finish()
