"""Answers the ability `rerank`."""

from collections.abc import Mapping
from typing import Any

import orjson

from ..api.common import make_id
from ..api.rerank import RerankRequest
from ..batching import Batcher
from ..embedding.errors import too_long
from ..errors import BadRequest
from ..hooks.types import LoadPlan
from ..worker.contract import Call, Handler
from .contract import RerankModel, RerankWork

__all__ = ["RerankHandler", "make_handlers"]

_CHARACTERS_PER_TOKEN = 64


def make_handlers(model: RerankModel, plan: LoadPlan) -> Mapping[str, Handler]:
    """Return the handlers of a rerank model by ability."""
    return {"rerank": RerankHandler(model)}


class RerankHandler:
    """Puts the documents of a request into order."""

    def __init__(self, model: RerankModel) -> None:
        self._model = model
        self._batcher: Batcher[RerankWork, float] = Batcher(model, model.traits.limits)
        self.supported = ("instruction",) if model.traits.takes_instruction else ()
        self.unsupported = dict(model.traits.unsupported)

    async def __call__(self, request: RerankRequest, call: Call) -> bytes:
        """Score the documents and answer the best first."""
        truncate = request.truncate is not False
        most = self._model.traits.max_tokens * _CHARACTERS_PER_TOKEN
        if len(request.query) > most:
            raise BadRequest(
                f"'query' is far too long: this model reads {self._model.traits.max_tokens} tokens.", param="query"
            )
        texts = [_text(document, request.rank_fields) for document in request.documents]
        works = []
        for index, text in enumerate(texts):
            if len(text) > most and not truncate:
                raise too_long(index, None, self._model.traits.max_tokens, field="documents")
            works.append(
                RerankWork(
                    index, request.query, text[:most], request.instruction or "", truncate, request.max_tokens_per_doc
                )
            )
        done = await self._batcher.run(works)
        tokens = sum(one.tokens for one in done)
        call.usage(tokens, 0)
        relevance = (lambda score: score) if request.raw_scores else self._model.relevance
        ranked = sorted(enumerate(done), key=lambda pair: -pair[1].result)[: request.top_n]
        results: list[dict[str, Any]] = [
            {
                "index": index,
                "relevance_score": relevance(one.result),
                "document": {"text": texts[index]} if request.return_documents else None,
            }
            for index, one in ranked
        ]
        return orjson.dumps(
            {
                "id": make_id("rerank"),
                "model": call.model_uid,
                "results": results,
                "meta": {
                    "api_version": {"version": call.path.split("/")[1].removeprefix("v")},
                    "billed_units": {"search_units": 1},
                    "tokens": {"input_tokens": tokens, "output_tokens": 0},
                    "warnings": None,
                },
                "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
            }
        )


def _text(document: str | dict[str, Any], fields: list[str] | None) -> str:
    """Return what is ranked of a document."""
    if isinstance(document, str):
        return document
    if fields:
        return "\n".join(str(document[name]) for name in fields if name in document)
    text: str = document["text"]
    return text
