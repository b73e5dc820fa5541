"""Answers the ability `rerank`."""

import math
from collections.abc import Sequence
from typing import Any

import orjson

from ..api.common import make_id
from ..api.rerank import RerankRequest
from ..batching import Batcher, Done
from ..errors import EngineError
from ..hooks.types import LoadPlan
from ..worker.contract import Call
from .contract import RerankModel, RerankWork
from .documents import as_answered, texts_of
from .errors import document_too_long, query_too_long

__all__ = ["RerankHandler", "make_handlers"]

_CHARACTERS_PER_TOKEN = 64
"""No text has fewer tokens than its characters divided by this, but for texts that no model is meant for."""

_USUAL_CHARACTERS_PER_TOKEN = 4

_DOCUMENTS_PER_UNIT = 100
"""Documents that Cohere counts as one search."""


def make_handlers(model: RerankModel, plan: LoadPlan) -> "dict[str, RerankHandler]":
    """Return the handler of a rerank model by its ability."""
    return {"rerank": RerankHandler(model)}


class RerankHandler:
    """Puts the documents of a request into order."""

    def __init__(self, model: RerankModel) -> None:
        self._model = model
        self._batcher: Batcher[RerankWork, float] = Batcher(model, model.traits.limits, self._weigh)
        self.supported = ("instruction",) if model.traits.takes_instruction else ()
        self.unsupported = dict(model.traits.unsupported)

    async def __call__(self, request: RerankRequest, call: Call) -> bytes:
        """Score the documents and answer the best first."""
        texts = texts_of(request.documents, request.rank_fields)
        done = await self._batcher.run(self._works(request, texts))
        call.usage(sum(one.tokens for one in done), 0)
        return self._answer(request, call, texts, done)

    def close(self) -> None:
        """End the threads of the batches; requests that wait fail."""
        self._batcher.close()

    def _weigh(self, work: RerankWork) -> int:
        """Return about how many tokens a pair has, by its characters."""
        most = self._model.traits.max_tokens
        return min(1 + (len(work.query) + len(work.document)) // _USUAL_CHARACTERS_PER_TOKEN, most)

    def _works(self, request: RerankRequest, texts: Sequence[str]) -> list[RerankWork]:
        """Return the pairs, with texts no longer than what is worth its tokenizing.

        Raises: InputTooLong: that is not all of a text, and it shall not be cut.
        """
        most_tokens = self._model.traits.max_tokens
        most = most_tokens * _CHARACTERS_PER_TOKEN
        if len(request.query) > most:
            raise query_too_long(None, most_tokens)
        truncate = request.truncate is not False
        works = []
        for index, text in enumerate(texts):
            if len(text) > most and not truncate and request.max_tokens_per_doc is None:
                raise document_too_long(index, None, most_tokens)
            works.append(
                RerankWork(
                    index=index,
                    query=request.query,
                    document=text[:most],
                    instruction=request.instruction or "",
                    truncate=truncate,
                    max_document_tokens=request.max_tokens_per_doc,
                )
            )
        return works

    def _answer(self, request: RerankRequest, call: Call, texts: Sequence[str], done: Sequence[Done[float]]) -> bytes:
        for index, one in enumerate(done):
            if not math.isfinite(one.result):
                raise EngineError(f"The model's score of document {index} is no number.")
        relevance = float if request.raw_scores else self._model.relevance
        # Sorting keeps equals in the order of the request.
        ranked = sorted(range(len(done)), key=lambda index: -done[index].result)[: request.top_n]
        results: list[dict[str, Any]] = [
            {
                "index": index,
                "relevance_score": relevance(done[index].result),
                "document": as_answered(request.documents[index], texts[index]) if request.return_documents else None,
            }
            for index in ranked
        ]
        tokens = sum(one.tokens for one in done)
        return orjson.dumps(
            {
                "id": make_id("rerank"),
                "object": "list",
                "model": call.model_uid,
                "results": results,
                "meta": {
                    "api_version": {"version": call.path.split("/")[1].removeprefix("v")},
                    "billed_units": {"search_units": math.ceil(len(texts) / _DOCUMENTS_PER_UNIT)},
                    "tokens": None if request.return_len is False else {"input_tokens": tokens, "output_tokens": 0},
                    "warnings": None,
                },
                "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
            }
        )
