"""The handlers: from a validated request to calls of the engine, and what becomes of their events."""

from collections.abc import AsyncIterator, Awaitable, Mapping, Sequence
from functools import lru_cache
from typing import Any, ClassVar, cast

import orjson

from modelrack.api.chat import ChatRequest
from modelrack.api.completions import CompletionRequest
from modelrack.api.tokenize import ConvertIdsRequest, DetokenizeRequest, TokenizeRequest
from modelrack.catalog.gguf import read_metadata
from modelrack.errors import BadRequest, UnsupportedParameter
from modelrack.llm.images import inline_images, names_addresses
from modelrack.llm.text import StopStrings
from modelrack.worker import Call

from .answers import Collector, Streamer, Want
from .chat_answers import ChatCollector, ChatStream
from .embedded import Embedded
from .facts import ModelFacts
from .grammars import GrammarCheck
from .requests import DRY, UNSUPPORTED, chat_body, constraint, generate_body, logprobs_of, prepare_messages
from .speed import Speed
from .templates import PlainTemplate
from .text_answers import TextCollector, TextStream
from .threads import Method, Threads, Work
from .tools import apply_tools

__all__ = ["Chat", "ConvertIds", "Detokenize", "Generate", "Tokenize"]

_SEEDS = 2**32 - 1


class _Answering:
    """What both ways to generate have in common.

    Args:
        chat, text: the engine's calls.
    """

    unsupported: ClassVar[Mapping[str, str]] = UNSUPPORTED

    def __init__(
        self,
        chat: Method,
        text: Method,
        threads: Threads,
        embedded: Embedded,
        facts: ModelFacts,
        speed: Speed,
        grammars: GrammarCheck,
        template: PlainTemplate | None = None,
    ) -> None:
        self._chat = chat
        self._text = text
        self._threads = threads
        self._embedded = embedded
        self._facts = facts
        self._speed = speed
        self._grammars = grammars
        self._template = template

    def _start(
        self,
        answer: Streamer | Collector,
        method: Method,
        bodies: Sequence[dict[str, Any]],
        limit: int | None,
        want: Want,
        may_be_whole: bool = True,
    ) -> None:
        """Make the calls for an answer: for each body as many as `n` needs.

        One call gives at most as many answers as there are slots. Seeds go on from call to call.
        """
        slots = 1 if want.may_stop else self._facts.n_parallel
        for number, body in enumerate(bodies):
            for first in range(0, want.n, slots):
                count = min(slots, want.n - first)
                one = body
                if count > 1 or first > 0:
                    one = {**body, "n": count}
                    if first > 0 and "seed" in body:
                        one["seed"] = (body["seed"] + first) % _SEEDS
                whole = may_be_whole and count == 1 and isinstance(answer, Collector) and not want.may_stop
                data = self._encode(one, limit, whole, want)
                self._threads.submit(Work(method, data, answer.part(number, number * want.n + first)))

    def _encode(self, body: dict[str, Any], limit: int | None, may_be_whole: bool, want: Want) -> bytes:
        """Return the body as JSON, with how it is to be answered.

        Answers come as streams inside, also those that the client gets in one piece: only at an event can a call be
        stopped. What is sure to be short is asked for in one piece. Long prompts report their progress: so can they.
        """
        data = orjson.dumps(body)
        if may_be_whole and self._speed.is_short(len(data), limit, 1):
            return data
        extra = b',"stream":true,"stream_options":{"include_usage":true}'
        if len(data) > 2 * self._facts.n_batch:
            extra += b',"return_progress":true'
        if want.may_stop:
            extra += b',"timings_per_token":true'
        return data[:-1] + extra + b"}"


class Chat(_Answering):
    """Answers `chat`."""

    supported: ClassVar[tuple[str, ...]] = DRY

    def __call__(self, request: ChatRequest, call: Call) -> Awaitable[Any]:
        """Answer a conversation. What is returned may also be an iterator of events, which need not be awaited."""
        if self._facts.takes_media and names_addresses(request.messages):
            return self._fetch_first(request, call)
        body = chat_body(request, self._facts)
        limits = constraint(request, self._facts)
        forced = apply_tools(request, body, self._facts, is_constrained=limits is not None)
        if forced is not None:
            limits = "tools", forced.limits
        want = Want(
            logprobs=logprobs_of(request),
            stop_ids=frozenset(request.stop_token_ids or ()),
            forced=forced,
            n=request.n or 1,
            usage=request.include_usage,
            from_text=bool(request.stop_token_ids),
            stop=StopStrings([*request.stop, *self._facts.stop]) if request.stop else None,
        )
        if want.logprobs is not None and request.stream and request.tools and forced is None:
            raise UnsupportedParameter("'logprobs' cannot be had with tools in a stream.", param="logprobs")
        if limits is not None or want.stop_ids:
            return self._answer_slowly(request, call, body, want, limits)
        if self._template is not None and body.keys().isdisjoint(_BEYOND_PLAIN):
            prompt = self._template.write(body["messages"])
            if prompt is not None:
                want.from_text = True
                return cast(Awaitable[Any], self._answer(request, call, self._text, _as_text(body, prompt, want), want))
        return cast(Awaitable[Any], self._answer(request, call, self._chat, body, want))

    async def _fetch_first(self, request: ChatRequest, call: Call) -> Any:
        messages = await inline_images(request.messages, self._facts.fetch_hosts)
        answer: Any = self(request.model_copy(update={"messages": messages}), call)
        return await answer if isinstance(answer, Awaitable) else answer

    def _answer(
        self, request: ChatRequest, call: Call, method: Method, body: dict[str, Any], want: Want
    ) -> AsyncIterator[bytes] | Awaitable[bytes]:
        calls = _count_calls(1, want, self._facts)
        if request.stream:
            stream = ChatStream(call, want, self._speed, calls)
            self._start(stream, method, [body], request.token_limit, want)
            return stream.stream
        answer = ChatCollector(call, want, self._speed, calls)
        # In one piece, llama.cpp repeats the message that was to be continued.
        may_be_whole = not request.continue_final_message
        self._start(answer, method, [body], request.token_limit, want, may_be_whole)
        return answer.result()

    async def _answer_slowly(
        self,
        request: ChatRequest,
        call: Call,
        body: dict[str, Any],
        want: Want,
        limits: tuple[str, dict[str, Any]] | None,
    ) -> AsyncIterator[bytes] | bytes:
        """Answer a request that takes more than one call: for the check of its grammar, or for its prompt.

        With stop tokens it becomes a completion of the templated prompt: only its events tell the ids of all tokens.
        """
        method = self._chat
        if limits is not None:
            await self._grammars.check(*limits)
            body = {**body, **limits[1]}
        if want.stop_ids:
            if want.forced is None and request.tools and request.tool_choice != "none":
                raise UnsupportedParameter("'stop_token_ids' cannot be had with tools.", param="stop_token_ids")
            prompt = await self._embedded.apply_template({key: body[key] for key in _TEMPLATE_FIELDS & body.keys()})
            body, method = _as_text(body, prompt, want), self._text
        reply = self._answer(request, call, method, body, want)
        return reply if isinstance(reply, AsyncIterator) else await reply


def _as_text(body: dict[str, Any], prompt: str, want: Want) -> dict[str, Any]:
    """Return a chat's body as that of a completion."""
    text = {key: value for key, value in body.items() if key not in _CHAT_FIELDS}
    text["prompt"] = prompt
    if want.logprobs is not None or want.stop_ids:
        text["n_probs"] = max(1, want.logprobs or 0)
    return text


_BEYOND_PLAIN = frozenset(("tools", "chat_template_kwargs", "add_generation_prompt", "continue_final_message"))
_TEMPLATE_FIELDS = frozenset(
    ("messages", "tools", "tool_choice", "chat_template_kwargs", "add_generation_prompt", "continue_final_message")
)
_CHAT_FIELDS = _TEMPLATE_FIELDS | {"logprobs", "top_logprobs", "parallel_tool_calls"}


class Generate(_Answering):
    """Answers `generate`."""

    @property
    def supported(self) -> tuple[str, ...]:
        """Return the fields that depend on the model and that this one can honour."""
        return (*DRY, "suffix") if self._facts.fill_in else DRY

    async def __call__(self, request: CompletionRequest, call: Call) -> AsyncIterator[bytes] | bytes:
        """Continue each prompt."""
        common = generate_body(request, self._facts)
        limits = constraint(request, self._facts)
        if limits is not None:
            await self._grammars.check(*limits)
            common |= limits[1]
        if request.stop_token_ids:
            common.setdefault("n_probs", 1)
        prompts = [await self._prompt(prompt, request) for prompt in request.prompts]
        bodies = [{**common, "prompt": prompt} for prompt in prompts]
        want = Want(
            logprobs=request.logprobs,
            stop_ids=frozenset(request.stop_token_ids or ()),
            echo=await self._echo(request) if request.echo else None,
            n=request.n or 1,
            usage=request.include_usage,
            stop=StopStrings(request.stop) if request.stop else None,
        )
        calls = _count_calls(len(bodies), want, self._facts)
        if request.stream:
            stream = TextStream(call, want, self._speed, calls)
            self._start(stream, self._text, bodies, request.token_limit, want)
            return stream.stream
        answer = TextCollector(call, want, self._speed, calls)
        self._start(answer, self._text, bodies, request.token_limit, want)
        return await answer.result()

    async def _prompt(self, prompt: str | list[int], request: CompletionRequest) -> Any:
        """Return a prompt as llama.cpp takes it: text, or a list of tokens and texts."""
        facts = self._facts
        if isinstance(prompt, list):
            if max(prompt) >= facts.n_vocab:
                raise BadRequest(
                    f"'prompt': {max(prompt)} is no token id; this model's are 0 to {facts.n_vocab - 1}.",
                    param="prompt",
                )
            return prompt
        if request.suffix:
            assert facts.fill_in is not None
            before, after, middle = facts.fill_in
            return [piece for piece in (before, prompt, after, request.suffix, middle) if piece != ""]
        if not prompt:
            if facts.bos_id is None:
                raise BadRequest("'prompt' is empty, and this model has no token to begin a text with.", param="prompt")
            return [facts.bos_id]
        if request.add_special_tokens is False:
            return await self._embedded.tokenize(prompt, add_special=False)
        return prompt

    async def _echo(self, request: CompletionRequest) -> list[str]:
        return [
            prompt if isinstance(prompt, str) else await self._embedded.detokenize(prompt) for prompt in request.prompts
        ]


def _count_calls(prompts: int, want: Want, facts: ModelFacts) -> int:
    slots = 1 if want.may_stop else facts.n_parallel
    return prompts * -(-want.n // slots)


class Tokenize:
    """Answers `tokenize`."""

    def __init__(self, embedded: Embedded, facts: ModelFacts) -> None:
        self._embedded = embedded
        self._facts = facts

    async def __call__(self, request: TokenizeRequest, call: Call) -> Mapping[str, Any]:
        """Return the tokens of a prompt, or of a chat as the model's template writes it."""
        if request.messages is not None:
            text = await self._template(request)
            special = bool(request.add_special_tokens)
        else:
            text = request.prompt or ""
            special = request.add_special_tokens is not False
        found = await self._embedded.tokenize(text, add_special=special, pieces=bool(request.return_token_strs))
        answer: dict[str, Any] = {"max_model_len": self._facts.n_ctx, "count": len(found), "tokens": found}
        if request.return_token_strs:
            answer["tokens"] = [one["id"] for one in found]
            answer["token_strs"] = [_piece(one["piece"]) for one in found]
        call.usage(len(found), 0)
        return answer

    async def _template(self, request: TokenizeRequest) -> str:
        assert request.messages is not None
        body: dict[str, Any] = {"messages": prepare_messages(request.messages, self._facts)}
        if request.tools:
            body["tools"] = request.tools
        if request.chat_template_kwargs:
            body["chat_template_kwargs"] = request.chat_template_kwargs
        if request.add_generation_prompt is not None:
            body["add_generation_prompt"] = request.add_generation_prompt
        if request.continue_final_message:
            body["continue_final_message"], body["add_generation_prompt"] = True, False
        return await self._embedded.apply_template(body)


def _piece(piece: str | list[int]) -> str:
    """Return a token's text; llama.cpp gives one that is no UTF-8 by itself as its bytes."""
    return piece if isinstance(piece, str) else bytes(piece).decode("utf-8", "replace")


class Detokenize:
    """Answers `detokenize`."""

    def __init__(self, embedded: Embedded, facts: ModelFacts) -> None:
        self._embedded = embedded
        self._facts = facts

    async def __call__(self, request: DetokenizeRequest, call: Call) -> Mapping[str, Any]:
        """Return the text of tokens."""
        _check_ids(request.tokens, self._facts, "tokens")
        return {"prompt": await self._embedded.detokenize(request.tokens) if request.tokens else ""}


class ConvertIds:
    """Answers `convert_ids_to_tokens`, from the vocabulary in the model's file."""

    def __init__(self, path: str, facts: ModelFacts) -> None:
        self._path = path
        self._facts = facts

    async def __call__(self, request: ConvertIdsRequest, call: Call) -> bytes:
        """Return the tokens' names, in the shape of the input."""
        tokens = _vocabulary(self._path)
        given: Any = request.input
        nested = bool(given) and isinstance(given[0], list)
        for ids in given if nested else [given]:
            _check_ids(ids, self._facts, "input")
        named = [[tokens[one] for one in ids] for ids in given] if nested else [tokens[one] for one in given]
        return orjson.dumps(named)


@lru_cache(maxsize=1)
def _vocabulary(path: str) -> list[str]:
    return list(read_metadata(path, arrays=("tokenizer.ggml.tokens",)).keys["tokenizer.ggml.tokens"])


def _check_ids(ids: list[int], facts: ModelFacts, param: str) -> None:
    if ids and max(ids) >= facts.n_vocab:
        raise BadRequest(
            f"'{param}': {max(ids)} is no token id; this model's are 0 to {facts.n_vocab - 1}.", param=param
        )
