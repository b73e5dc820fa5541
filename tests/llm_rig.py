"""Requests to the handlers of a scripted model, as the host makes them."""

import asyncio
from collections.abc import Mapping
from typing import Any

import orjson
from pydantic import BaseModel

from llm_scripted import ScriptedModel
from modelrack.api.chat import ChatRequest
from modelrack.api.completions import CompletionRequest
from modelrack.api.tokenize import ConvertIdsRequest, DetokenizeRequest, TokenizeRequest
from modelrack.hooks import Family, LoadPlan, ModelFiles, Variant
from modelrack.llm.contract import MediaPrompt
from modelrack.llm.formats.registered import FORMATS
from modelrack.llm.handlers import make_handlers
from modelrack.worker.validation import make_check, make_parser

__all__ = ["HELLO", "FakeCall", "Rig", "make_plan"]

HELLO = [{"role": "user", "content": "hello"}]
_REQUESTS: Mapping[str, type[BaseModel]] = {
    "chat": ChatRequest,
    "generate": CompletionRequest,
    "tokenize": TokenizeRequest,
    "detokenize": DetokenizeRequest,
    "convert_ids_to_tokens": ConvertIdsRequest,
}


def make_plan(*, feature_engines: Mapping[str, tuple[str, ...]] | None = None, **family: Any) -> LoadPlan:
    """Return a plan as the server makes them."""
    return LoadPlan(
        model_uid="scripted",
        family=Family(name="scripted", model_type="LLM", **family),
        variant=Variant(format="gguf"),
        quantization="none",
        files=ModelFiles(path="scripted", format="gguf"),
        output_formats=FORMATS,
        feature_engines=feature_engines or {},
    )


class FakeCall:
    """A call that keeps its counts."""

    request_id = "r1"
    model_uid = "scripted"
    path = "/"

    def __init__(self) -> None:
        self.counts: tuple[int, int] | None = None

    def usage(self, prompt_tokens: int, completion_tokens: int) -> None:
        """Keep the counts."""
        self.counts = prompt_tokens, completion_tokens

    def progress(self, fraction: float) -> None:
        """Language models tell no progress."""
        raise AssertionError(fraction)

    def save(self, content: bytes, media_type: str) -> str:
        """Language models keep no files."""
        raise AssertionError(media_type)


class Rig:
    """The handlers of a model."""

    def __init__(self, model: ScriptedModel, plan: LoadPlan | None = None) -> None:
        self.model = model
        self.plan = plan or make_plan()
        self.handlers = make_handlers(model, self.plan)
        self.call = FakeCall()

    async def reply(self, ability: str, **fields: Any) -> Any:
        """Ask, and return what the handler returns."""
        handler = self.handlers[ability]
        model = _REQUESTS[ability]
        request = make_parser(model)(orjson.dumps({"model": "scripted", **fields}))
        make_check(model, handler, self.plan.feature_engines)(request)
        reply: Any = handler(request, self.call)
        return await reply if asyncio.iscoroutine(reply) else reply

    async def ask(self, ability: str, **fields: Any) -> Any:
        """Ask for an answer in one piece."""
        reply = await self.reply(ability, **fields)
        return orjson.loads(reply) if isinstance(reply, bytes) else reply

    async def stream(self, ability: str, **fields: Any) -> list[dict[str, Any]]:
        """Ask for a stream, and return its events."""
        return [orjson.loads(event) async for event in await self.reply(ability, stream=True, **fields)]

    def prompt(self) -> str:
        """Return the last prompt, with special tokens written out."""
        prompt = self.model.generations[-1].prompt
        return prompt.text if isinstance(prompt, MediaPrompt) else self.model.text(prompt)

    async def chat(self, **fields: Any) -> Any:
        """Ask for a chat; the only choice of the answer."""
        (choice,) = (await self.ask("chat", **{"messages": HELLO, **fields}))["choices"]
        return choice

    async def chat_stream(self, **fields: Any) -> list[dict[str, Any]]:
        """Ask for a chat's stream."""
        return await self.stream("chat", **{"messages": HELLO, **fields})
