"""The engine's worker half: handlers that repeat, and the faults."""

import asyncio
import ctypes
import itertools
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NoReturn

from modelrack.api.chat import ChatRequest, ChatWriter, chat_answer, text_of
from modelrack.api.common import FinishReason, SamplingRequest, usage_dict
from modelrack.api.completions import CompletionRequest, CompletionWriter, completion_answer
from modelrack.api.tokenize import ConvertIdsRequest, DetokenizeRequest, TokenizeRequest
from modelrack.errors import BadRequest, LaunchFailed
from modelrack.llm.errors import context_overflow
from modelrack.worker import Call, Handler, Loader, Reply, Report

from .options import EchoOptions
from .tokens import Vocabulary, split, visible

__all__ = ["EchoLoader"]

_NO_MODEL = "the echo engine has no model to do this with"
_UNSUPPORTED = dict.fromkeys(
    (
        *("logprobs", "top_logprobs", "logit_bias", "tools", "tool_choice", "response_format", "guided_json"),
        *("guided_regex", "guided_choice", "guided_grammar", "guided_decoding_backend", "guided_whitespace_pattern"),
        *("lora_name", "stop_token_ids", "enable_thinking", "chat_template_kwargs", "reasoning_effort", "documents"),
        *("continue_final_message", "cache_salt", "min_tokens", "echo", "skip_special_tokens", "repetition_penalty"),
        *("frequency_penalty", "presence_penalty"),
    ),
    _NO_MODEL,
)


class EchoLoader(Loader):
    """Load nothing, as slowly or as badly as asked."""

    def load(self, report: Report) -> Mapping[str, Handler]:
        """Return the handlers after the faults that were asked for."""
        options = EchoOptions.model_validate(self.plan.options)
        self.options = options
        if options.ignore_sigterm:
            # Past Python, as native libraries do. The host takes its handler back after the load; `close` is deaf then.
            ctypes.CDLL(None).signal(int(signal.SIGTERM), 1)
            report(0.0, "deaf to SIGTERM")
        if options.crash_on_load:
            crash()
        while options.hang_on_load:
            time.sleep(3600)
        began = time.monotonic()
        while (passed := time.monotonic() - began) < options.load_delay_s:
            report(passed / options.load_delay_s, "loading")
            time.sleep(min(0.05, options.load_delay_s - passed))
        if options.load_failure is not None:
            raise LaunchFailed(options.load_failure)
        source = _Source(options)
        vocabulary = Vocabulary()
        return {
            "chat": _Chat(source),
            "generate": _Generate(source),
            "tokenize": _Tokenize(vocabulary, options.context_length),
            "detokenize": _Detokenize(vocabulary),
            "convert_ids_to_tokens": _ConvertIds(vocabulary),
        }

    def describe(self) -> Mapping[str, Any]:
        """Return the context length that was asked for."""
        return {"context_length": self.options.context_length}

    def close(self) -> None:
        """Free nothing; never end, if the worker is to be deaf to SIGTERM."""
        while self.options.ignore_sigterm:
            time.sleep(3600)


def crash() -> NoReturn:
    """Die like a process that the kernel has killed."""
    print("echo: crashing, as asked", file=sys.stderr, flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError("unreachable")


@dataclass(slots=True)
class _Plan:
    """What will be answered: the tokens, and why they end."""

    prompt_tokens: int
    tokens: list[str]
    reason: FinishReason


class _Source:
    """Decide what is answered, and show the faults of answering."""

    def __init__(self, options: EchoOptions) -> None:
        self._options = options
        self._left = options.crash_after_tokens
        self.is_paced = bool(options.token_delay_s) or options.hang_after_tokens is not None or self._left is not None

    def plan(self, text: str, request: SamplingRequest, prompt_tokens: int | None = None) -> _Plan:
        """Return the tokens that answer `text`.

        Raises: BadRequest: the prompt is longer than the context.
        """
        pieces = split(text)
        prompt = len(pieces) if prompt_tokens is None else prompt_tokens
        room = self._options.context_length - prompt
        if room <= 0:
            error = context_overflow(prompt, self._options.context_length)
            error.param = "messages" if isinstance(request, ChatRequest) else "prompt"
            raise error
        limit = min(room, request.token_limit or room)
        if (self._options.repeat or request.ignore_eos) and pieces:
            pieces = list(itertools.islice(itertools.cycle(pieces), limit))
            reason: FinishReason = "length"
        else:
            reason = "length" if len(pieces) > limit else "stop"
            pieces = pieces[:limit]
        if request.stop:
            pieces, is_stopped = _cut(pieces, request.stop)
            reason = "stop" if is_stopped else reason
        return _Plan(prompt, pieces, reason)

    async def pace(self, index: int) -> None:
        """Wait, hang or die before the token `index` of an answer, as asked."""
        if self._left is not None:
            if self._left == 0:
                crash()
            self._left -= 1
        if self._options.hang_after_tokens is not None and index >= self._options.hang_after_tokens:
            await asyncio.get_running_loop().create_future()
        if self._options.token_delay_s:
            await asyncio.sleep(self._options.token_delay_s)


def _cut(pieces: list[str], stop: list[str]) -> tuple[list[str], bool]:
    """Cut before the first stop string, which may begin and end within tokens."""
    text = "".join(pieces)
    ends = [at for at in (text.find(word) for word in stop) if at >= 0]
    if not ends:
        return pieces, False
    return split_like(pieces, min(ends)), True


def split_like(pieces: list[str], length: int) -> list[str]:
    """Return the pieces that make up the first `length` characters; the last one may be cut."""
    kept = []
    for piece in pieces:
        if length <= 0:
            break
        kept.append(piece[:length])
        length -= len(piece)
    return kept


class _Answering:
    """What both kinds of completion share."""

    unsupported = _UNSUPPORTED

    def __init__(self, source: _Source) -> None:
        self._source = source

    async def events(
        self, plans: list[_Plan], writer: ChatWriter | CompletionWriter, n: int, request: SamplingRequest, call: Call
    ) -> AsyncIterator[bytes]:
        """Yield the chunks of all choices, one token of each in turn. Choice `i` answers plan `i // n`."""
        choices = [(index, plans[index // n]) for index in range(len(plans) * n)]
        if isinstance(writer, ChatWriter):
            for index, _ in choices:
                yield writer.start(index)
        text = writer.text
        if len(choices) == 1 and not self._source.is_paced:
            for token in plans[0].tokens:
                yield text(token)
        else:
            for step in range(max(len(plan.tokens) for plan in plans)):
                for index, plan in choices:
                    if step < len(plan.tokens):
                        await self._source.pace(step)
                        yield text(plan.tokens[step], index)
        for index, plan in choices:
            yield writer.finish(plan.reason, index)
        prompt, completion = _count(plans, n)
        call.usage(prompt, completion)
        if request.include_usage:
            yield writer.usage(prompt, completion)

    async def gather(self, plan: _Plan) -> str:
        """Return a whole answer, at the pace asked for."""
        if self._source.is_paced:
            for step in range(len(plan.tokens)):
                await self._source.pace(step)
        return "".join(plan.tokens)


def _count(plans: list[_Plan], n: int) -> tuple[int, int]:
    return sum(plan.prompt_tokens for plan in plans), n * sum(len(plan.tokens) for plan in plans)


class _Chat(_Answering):
    async def __call__(self, request: ChatRequest, call: Call) -> Reply:
        """Repeat the last user message."""
        texts = [text_of(m.get("content"), f"messages.{i}") for i, m in enumerate(request.messages)]
        last = ""
        for message, text in zip(request.messages, texts, strict=True):
            if message["role"] == "user":
                last = text
        plan = self._source.plan(last, request, sum(len(split(text)) for text in texts))
        n = request.n or 1
        if request.stream:
            return self.events([plan], ChatWriter(call.model_uid), n, request, call)
        choices = [_chat_choice(index, await self.gather(plan), plan.reason) for index in range(n)]
        prompt, completion = _count([plan], n)
        call.usage(prompt, completion)
        return chat_answer(call.model_uid, choices, usage_dict(prompt, completion))


def _chat_choice(index: int, text: str, reason: FinishReason) -> dict[str, Any]:
    message = {"role": "assistant", "content": text}
    return {"index": index, "message": message, "logprobs": None, "finish_reason": reason}


class _Generate(_Answering):
    async def __call__(self, request: CompletionRequest, call: Call) -> Reply:
        """Repeat each prompt."""
        plans = []
        for prompt in request.prompts:
            if not isinstance(prompt, str):
                raise BadRequest("The echo engine takes prompts as text, not as token ids.", param="prompt")
            plans.append(self._source.plan(prompt, request))
        n = request.n or 1
        if request.stream:
            return self.events(plans, CompletionWriter(call.model_uid), n, request, call)
        choices = []
        for index in range(len(plans) * n):
            plan = plans[index // n]
            text = await self.gather(plan)
            choices.append({"index": index, "text": text, "logprobs": None, "finish_reason": plan.reason})
        prompt_tokens, completion = _count(plans, n)
        call.usage(prompt_tokens, completion)
        return completion_answer(call.model_uid, choices, usage_dict(prompt_tokens, completion))


@dataclass(slots=True)
class _Tokenize:
    vocabulary: Vocabulary
    context_length: int

    async def __call__(self, request: TokenizeRequest, call: Call) -> Reply:
        """Return the ids of a text; of messages, those of their contents."""
        text = request.prompt
        if text is None:
            messages: list[Any] = list(request.messages or ())
            text = "".join(text_of(m.get("content"), f"messages.{i}") for i, m in enumerate(messages))
        ids = self.vocabulary.encode(text)
        answer: dict[str, Any] = {"tokens": ids, "count": len(ids), "max_model_len": self.context_length}
        if request.return_token_strs:
            answer["token_strs"] = [visible(self.vocabulary.token(number)) for number in ids]
        return answer

    @property
    def unsupported(self) -> Mapping[str, str]:
        """Name what has no meaning without a model."""
        return dict.fromkeys(("tools", "chat_template_kwargs", "continue_final_message"), _NO_MODEL)


@dataclass(slots=True)
class _Detokenize:
    vocabulary: Vocabulary

    async def __call__(self, request: DetokenizeRequest, call: Call) -> Reply:
        """Return the text of ids."""
        return {"prompt": "".join(_tokens(self.vocabulary, request.tokens, "tokens"))}


@dataclass(slots=True)
class _ConvertIds:
    vocabulary: Vocabulary

    async def __call__(self, request: ConvertIdsRequest, call: Call) -> Reply:
        """Return ids as visible tokens, in the shape they came in."""
        from orjson import dumps

        def name(ids: Any) -> list[str]:
            return [visible(token) for token in _tokens(self.vocabulary, ids, "input")]

        rows: list[Any] = list(request.input)
        return dumps([name(row) for row in rows] if rows and isinstance(rows[0], list) else name(rows))


def _tokens(vocabulary: Vocabulary, ids: list[int], param: str) -> Iterator[str]:
    for number in ids:
        try:
            yield vocabulary.token(number)
        except IndexError:
            raise BadRequest(f"No token has the id {number}.", param=param) from None
