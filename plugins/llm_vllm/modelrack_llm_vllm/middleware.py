"""What stands between modelrack's gateway and vLLM's server, in its process: an ASGI middleware.

Only the paths of the public API are let through. Requests are checked with modelrack's models and put into vLLM's
terms; errors are put into modelrack's shape; good answers are passed on (see `rewrite`).
"""

import asyncio
import logging
import os
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import orjson

from modelrack.api.chat import ChatRequest
from modelrack.api.completions import CompletionRequest
from modelrack.api.tokenize import ConvertIdsRequest, DetokenizeRequest, TokenizeRequest
from modelrack.errors import BadRequest, EngineError, ModelrackError, NotFound
from modelrack.llm.constraints import read_constraint
from modelrack.llm.contract import Constraint
from modelrack.llm.errors import context_overflow
from modelrack.llm.guided.vetting import Vetting
from modelrack.llm.images import inline_images
from modelrack.llm.requests import check_ids
from modelrack.worker.validation import make_check, make_parser

from .chats import ask_chat, chat_prompt
from .faults import is_overflow, read_fault, rendered
from .requests import Ask, completion_body, structured
from .rewrite import Rewriter, make_rewriter
from .served import UNSUPPORTED, UNSUPPORTED_DRAFTING, Served, Tokens
from .settings import VARIABLE, Settings
from .templates import folder_template
from .trailers import TRAILERS, add_trailers

__all__ = ["PublicApi"]

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

log = logging.getLogger(__name__)

_READY = "/_worker/ready"
_SLEEP = ("/sleep", "/wake_up", "/is_sleeping")
_MOST_ID = 128
_USAGE = b"x-modelrack-usage"


class _Left(Exception):
    """The client has gone before its request was read."""


class _Refuser:
    """Names what is refused, for the check of requests."""

    def __init__(self, unsupported: Mapping[str, str]) -> None:
        self.unsupported = unsupported


class PublicApi:
    """The middleware; vLLM makes one for its application."""

    def __init__(self, app: App) -> None:
        self._app = app
        self._settings = Settings.load(os.environ[VARIABLE])
        self._served: Served | None = None
        add_trailers()
        self._vetting = Vetting()
        self._threads = ThreadPoolExecutor(1, thread_name_prefix="vetting")
        self._count = 0
        handlers: dict[str, tuple[Any, Callable[[Any, _Exchange], Awaitable[None]]]] = {
            "/v1/chat/completions": (ChatRequest, self._chat),
            "/v1/completions": (CompletionRequest, self._complete),
            **dict.fromkeys(("/v1/tokenize", "/tokenize"), (TokenizeRequest, self._tokenize)),
            **dict.fromkeys(("/v1/detokenize", "/detokenize"), (DetokenizeRequest, self._detokenize)),
            "/v1/convert_ids_to_tokens": (ConvertIdsRequest, self._convert_ids),
        }
        settings = self._settings
        refuser = _Refuser(UNSUPPORTED_DRAFTING if settings.drafts else UNSUPPORTED)
        self._routes = {
            path: (
                make_parser(model, settings.request_defaults),
                make_check(model, refuser, settings.feature_engines),
                handle,
            )
            for path, (model, handle) in handlers.items()
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, or pass on what is none."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":
            await send({"type": "websocket.close", "code": 1008})
            return
        path = scope["path"]
        exchange = _Exchange(self._app, scope, receive, send)
        try:
            if path == _READY:
                await self._ready(exchange)
            elif path in ("/health", "/metrics") or (self._settings.sleeps and path in _SLEEP):
                await self._app(scope, receive, send)
            elif path in self._routes and scope["method"] == "POST":
                parse, check, handle = self._routes[path]
                request = parse(await exchange.read())
                check(request)
                await handle(request, exchange)
            else:
                raise NotFound(f"There is no {scope['method']} {path} here.")
        except ModelrackError as error:
            await exchange.refuse(error)
        except _Left:
            return
        except Exception as error:
            log.exception("%s has failed", path)
            await exchange.refuse(EngineError(f"The request has failed ({type(error).__name__})."))

    async def _ready(self, exchange: "_Exchange") -> None:
        """Answer 200 with the model's facts once it can answer."""
        status, _, _ = await exchange.ask("GET", "/health")
        served = self._model(exchange.scope)
        facts = {"context_length": served.n_ctx}
        await exchange.answer(status, orjson.dumps({"facts": facts} if status == 200 else {}))

    def _model(self, scope: Scope) -> Served:
        """Return the model, found out of vLLM's application when it is first asked for."""
        if self._served is None:
            state = scope["app"].state
            config = state.vllm_config.model_config
            tokenizer = state.online_renderer.renderer.get_tokenizer()
            template = self._settings.template
            if template is None:
                template = folder_template(Path(config.model))
            tokens = Tokens(tokenizer, int(config.max_model_len), int(config.get_vocab_size()), template)
            self._served = Served(
                self._settings, tokens, template=template, takes_images=bool(config.is_multimodal_model)
            )
        return self._served

    def _request_id(self, request: Any, scope: Scope) -> str:
        """Return an id that no other request has: clients may use theirs twice."""
        self._count += 1
        given = request.request_id or dict(scope["headers"]).get(b"x-request-id", b"").decode("latin-1") or "request"
        return f"{given[:_MOST_ID]}-{self._count:x}"

    # Generating

    async def _chat(self, request: ChatRequest, exchange: "_Exchange") -> None:
        served = self._model(exchange.scope)
        if served.takes_images:
            messages = await inline_images(request.messages, self._settings.fetch_hosts)
            request = request.model_copy(update={"messages": messages})
        ask = ask_chat(request, served, self._request_id(request, exchange.scope))
        await self._generate(request, ask, served, exchange, one_call=request.parallel_tool_calls is False)

    async def _complete(self, request: CompletionRequest, exchange: "_Exchange") -> None:
        served = self._model(exchange.scope)
        body = completion_body(request, served, self._request_id(request, exchange.scope))
        ask = Ask("/v1/completions", body, constraint=read_constraint(request), logprobs=request.logprobs)
        ask.count = list(request.prompts)
        await self._generate(request, ask, served, exchange, one_call=False)

    async def _generate(self, request: Any, ask: Ask, served: Served, exchange: "_Exchange", *, one_call: bool) -> None:
        if ask.constraint is not None:
            ask.body["structured_outputs"] = await self._grammar(ask.constraint)
        settings = self._settings
        natively = settings.own_tools or settings.own_reasoning
        rewriter = make_rewriter(settings.model_uid, ask, reads_natively=natively, one_call=one_call)
        try:
            error = await exchange.forward(ask, rewriter, streams=bool(request.stream))
        except AssertionError as broken:
            if not ask.has_media:
                raise
            raise BadRequest(f"The images cannot be put into the prompt: {broken}.", param="messages") from broken
        if error is not None:
            raise self._explained(error, ask, served)

    async def _grammar(self, constraint: Constraint) -> dict[str, Any]:
        """Return a constraint in vLLM's terms, tried out in a process of its own: the engine's must not end of it."""
        loop = asyncio.get_running_loop()
        grammar = await loop.run_in_executor(self._threads, self._vetting.grammar, constraint)
        return structured(grammar)

    def _explained(self, error: ModelrackError, ask: Ask, served: Served) -> ModelrackError:
        if not is_overflow(error):
            if error.status == 400 and error.param is None and ask.constraint is not None:
                error.param = ask.constraint.field
            elif error.status == 400 and error.param is None and "chat" in ask.path:
                error.param = "messages"
            return error
        lengths = [
            len(one) if isinstance(one, list) else len(served.tokens.encode(one, add_special=True)) for one in ask.count
        ]
        longest = max(lengths, default=0)
        if longest >= served.n_ctx:
            return context_overflow(longest, served.n_ctx)
        return error

    # Tokens

    async def _tokenize(self, request: TokenizeRequest, exchange: "_Exchange") -> None:
        served = self._model(exchange.scope)
        if request.messages is not None:
            text, special = chat_prompt(request, served), bool(request.add_special_tokens)
        else:
            text, special = request.prompt or "", request.add_special_tokens is not False
        tokens = await asyncio.to_thread(served.tokens.encode, text, add_special=special)
        answer: dict[str, Any] = {"tokens": tokens, "count": len(tokens), "max_model_len": served.n_ctx}
        if request.return_token_strs:
            answer["token_strs"] = [served.tokens.decode([token]) for token in tokens]
        await exchange.answer(200, orjson.dumps(answer))

    async def _detokenize(self, request: DetokenizeRequest, exchange: "_Exchange") -> None:
        served = self._model(exchange.scope)
        check_ids(request.tokens, served.n_vocab, "tokens")
        text = served.tokens.decode(request.tokens) if request.tokens else ""
        await exchange.answer(200, orjson.dumps({"prompt": text}))

    async def _convert_ids(self, request: ConvertIdsRequest, exchange: "_Exchange") -> None:
        served = self._model(exchange.scope)
        given: Any = request.input
        is_nested = bool(given) and isinstance(given[0], list)
        rows = given if is_nested else [given]
        for ids in rows:
            check_ids(ids, served.n_vocab, "input")
        named = [served.tokens.names(ids) if ids else [] for ids in rows]
        await exchange.answer(200, orjson.dumps(named if is_nested else named[0]))


class _Exchange:
    """A request of the gateway, and its answer.

    Args:
        app: vLLM's application.
    """

    def __init__(self, app: App, scope: Scope, receive: Receive, send: Send) -> None:
        self.scope = scope
        self._app = app
        self._receive = receive
        self._send = send
        self._is_started = False

    async def read(self) -> bytes:
        """Return the body of the request; the gateway has bounded it."""
        parts = []
        while True:
            message = await self._receive()
            if message["type"] != "http.request":
                raise _Left
            parts.append(message.get("body", b""))
            if not message.get("more_body"):
                return b"".join(parts)

    async def answer(self, status: int, body: bytes, headers: list[tuple[bytes, bytes]] | None = None) -> None:
        """Answer with JSON in one piece."""
        head = headers or [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
        self._is_started = True
        await self._send({"type": "http.response.start", "status": status, "headers": head})
        await self._send({"type": "http.response.body", "body": body})

    async def refuse(self, error: ModelrackError) -> None:
        """Answer with an error; an answer that has begun is cut off."""
        if self._is_started:
            raise error
        status, headers, body = rendered(error)
        await self.answer(status, body, headers)

    def _inner(self, method: str, path: str, body: bytes) -> tuple[Scope, Receive]:
        """Return a request to vLLM's application: this one, with another body."""
        headers = [
            (b"content-type", b"application/json"),
            (b"content-length", str(len(body)).encode()),
        ]
        inner = {**self.scope, "method": method, "path": path, "raw_path": path.encode(), "headers": headers}
        inner["query_string"] = b""
        inner["state"] = dict(self.scope.get("state", {}))
        given = False

        async def receive() -> Message:
            nonlocal given
            if given:
                return await self._receive()  # that the client leaves
            given = True
            return {"type": "http.request", "body": body, "more_body": False}

        return inner, receive

    async def ask(self, method: str, path: str) -> tuple[int, list[tuple[bytes, bytes]], bytes]:
        """Return status, headers and body of vLLM's answer to a request of our own."""
        status, headers, parts = 500, [], []

        async def send(message: Message) -> None:
            nonlocal status, headers
            if message["type"] == "http.response.start":
                status, headers = message["status"], list(message["headers"])
            else:
                parts.append(message.get("body", b""))

        scope, receive = self._inner(method, path, b"")
        await self._app(scope, receive, send)
        return status, headers, b"".join(parts)

    async def forward(self, ask: Ask, rewriter: Rewriter, *, streams: bool) -> ModelrackError | None:
        """Ask vLLM, and pass its answer on; return the error that it answers with, if it does."""
        scope, receive = self._inner("POST", ask.path, orjson.dumps(ask.body))
        kind = _Streamed if streams else _Whole
        answer = kind(self._send, rewriter, scope["state"])
        await self._app(scope, receive, answer)
        self._is_started = answer.is_started
        return answer.error


class _Answer:
    """Takes vLLM's answer: good ones are passed on, others kept.

    Args:
        state: of the request, where vLLM tells what the answer took.
    """

    def __init__(self, send: Send, rewriter: Rewriter, state: Mapping[str, Any]) -> None:
        self._send = send
        self._rewriter = rewriter
        self._state = state
        self._start: Message = {}
        self._parts: list[bytes] = []
        self.is_started = False
        self.error: ModelrackError | None = None

    async def __call__(self, message: Message) -> None:
        """Take a message of vLLM's application."""
        if message["type"] == "http.response.start":
            self._start = message
            return
        body, is_last = message.get("body", b""), not message.get("more_body")
        if self._start["status"] == 200:
            await self.take(body, is_last)
            return
        self._parts.append(body)
        if is_last:
            self.error = read_fault(self._start["status"], b"".join(self._parts))

    async def take(self, body: bytes, is_last: bool) -> None:
        """Take a piece of a good answer."""
        raise NotImplementedError

    def usage(self) -> bytes | None:
        """Return the counts of tokens as modelrack's workers tell them; None while vLLM has not told them."""
        usage = getattr(self._state.get("request_metadata"), "final_usage_info", None)
        return None if usage is None else b"%d,%d" % (usage.prompt_tokens, usage.completion_tokens or 0)


class _Whole(_Answer):
    """An answer in one piece."""

    async def take(self, body: bytes, is_last: bool) -> None:
        """Keep it until it is whole; then it can be counted."""
        self._parts.append(body)
        if not is_last:
            return
        whole = self._rewriter.whole(b"".join(self._parts))
        headers = [(b"content-type", b"application/json"), (b"content-length", str(len(whole)).encode())]
        usage = self.usage()
        if usage is not None:
            headers.append((_USAGE, usage))
        self.is_started = True
        await self._send({**self._start, "headers": headers})
        await self._send({"type": "http.response.body", "body": whole})


class _Streamed(_Answer):
    """A stream of events."""

    async def take(self, body: bytes, is_last: bool) -> None:
        """Pass each piece on as it comes."""
        if not self.is_started:
            self.is_started = True
            await self._send({**self._start, "headers": [*self._start["headers"], (b"trailer", _USAGE)]})
        events = self._rewriter.events(body) if body else b""
        if not is_last:
            if events:
                await self._send({"type": "http.response.body", "body": events, "more_body": True})
            return
        last: Message = {"type": "http.response.body", "body": events + self._rewriter.rest()}
        usage = self.usage()
        if usage is not None:
            last[TRAILERS] = b"%b: %b\r\n" % (_USAGE, usage)
        await self._send(last)
