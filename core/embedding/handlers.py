"""Answers the ability `embed`."""

import base64
import math
from collections.abc import Sequence
from typing import Any

import orjson

from ..api.embeddings import EmbeddingRequest, Input
from ..batching import Batcher, Done
from ..encoders.tokens import make_token_handlers
from ..errors import BadRequest, EngineError, UnsupportedParameter
from ..hooks.types import LoadPlan
from ..worker.contract import Call
from .contract import Embedding, EmbeddingModel, EmbeddingWork
from .errors import too_long
from .prompts import CHARACTERS_PER_TOKEN, Prompts

__all__ = ["EmbedHandler", "make_handlers"]

_USUAL_CHARACTERS_PER_TOKEN = 4
_MOST_WEIGHT = 4
"""Times the model's limit that the longest text counts for."""


def make_handlers(model: EmbeddingModel, plan: LoadPlan) -> dict[str, Any]:
    """Return the handlers of an embedding model by ability; `close` the one of `embed` at the end."""
    handlers: dict[str, Any] = {"embed": EmbedHandler(model)}
    tokenizer = getattr(model, "tokenizer", None)
    if tokenizer is not None:
        handlers |= make_token_handlers(tokenizer, model.traits.n_vocab, model.traits.max_tokens)
    return handlers


class EmbedHandler:
    """Embeds the inputs of a request."""

    def __init__(self, model: EmbeddingModel) -> None:
        traits = model.traits
        self._traits = traits
        self._prompts = Prompts(traits)
        self._batcher: Batcher[EmbeddingWork, Embedding] = Batcher(model, traits.limits, self._weigh)
        self.unsupported: dict[str, str] = {}
        for name in ("sparse", "multi_vector"):
            if name not in traits.outputs:
                self.unsupported[f"return_{name}"] = f"this model makes no {name.replace('_', '-')} embeddings"
        if traits.instruction_template is None:
            self.unsupported["instruction"] = "this model takes no instruction; 'prompt' is put before the text"
        self.unsupported |= traits.unsupported

    async def __call__(self, request: EmbeddingRequest, call: Call) -> bytes:
        """Embed the inputs."""
        self._check_dimensions(request.dimensions)
        outputs = frozenset({"dense"}) & self._traits.outputs
        outputs |= {name for name in ("sparse", "multi_vector") if getattr(request, f"return_{name}")}
        if not outputs:
            only = min(self._traits.outputs)
            raise BadRequest(
                f"This model makes {only.replace('_', '-')} embeddings alone, so 'return_{only}' must be true.",
                param=f"return_{only}",
            )
        inputs = request.inputs
        prompt, task = self._prompts.choose(request, are_ids=not isinstance(inputs[0], str))
        truncate = bool(request.truncate)
        works = [
            EmbeddingWork(index, self._checked(index, item, truncate), prompt, task, truncate, outputs)
            for index, item in enumerate(inputs)
        ]
        done = await self._batcher.run(works)
        tokens = sum(one.tokens for one in done)
        call.usage(tokens, 0)
        return self._answer(request, call, done, tokens)

    def close(self) -> None:
        """End the threads; requests that wait fail."""
        self._batcher.close()

    def _weigh(self, work: EmbeddingWork) -> int:
        """Return about how many tokens an input costs; what will be cut off is read by the tokenizer alone."""
        size, most = len(work.input), self._traits.max_tokens
        if isinstance(work.input, str):
            size = 1 + (size + len(work.prompt)) // _USUAL_CHARACTERS_PER_TOKEN
        return size if most is None else min(size, _MOST_WEIGHT * most)

    def _check_dimensions(self, dimensions: int | None) -> None:
        own, shorter = self._traits.dimensions, self._traits.shorter_dimensions
        if dimensions is None or dimensions == own:
            return
        if not own:
            raise BadRequest("'dimensions': this model makes no dense embeddings.", param="dimensions")
        if shorter is None and dimensions < own:
            return
        if not shorter or dimensions not in shorter:
            can = f"can be cut to {', '.join(map(str, shorter))}" if shorter else "cannot be cut"
            if shorter is None:
                can = "can be cut to any length below"
            raise BadRequest(
                f"'dimensions': this model's embeddings have {own} dimensions and {can}, not to {dimensions}."
                if dimensions < own
                else f"'dimensions': this model's embeddings have {own} dimensions, not {dimensions}.",
                param="dimensions",
            )

    def _checked(self, index: int, item: Input, truncate: bool) -> Input:
        """Return an input that is worth its tokenizing.

        Raises: BadRequest: it is far too long, or has ids that are none.
        """
        traits = self._traits
        if isinstance(item, str):
            most = None if traits.max_tokens is None else traits.max_tokens * CHARACTERS_PER_TOKEN
            if traits.max_tokens is not None and most is not None and len(item) > most:
                if not truncate:
                    raise too_long(index, None, traits.max_tokens)
                return item[:most]
            return item
        if not traits.takes_token_ids:
            raise UnsupportedParameter("'input' cannot be token ids: this model takes texts.", param="input")
        if traits.max_tokens is not None and len(item) > traits.max_tokens:
            if not truncate:
                raise too_long(index, len(item), traits.max_tokens)
            item = item[: traits.max_tokens]
        if max(item) >= traits.n_vocab:
            wrong = next(one for one in item if one >= traits.n_vocab)
            raise BadRequest(
                f"'input': {wrong} (item {index}) is no token id; this model's are 0 to {traits.n_vocab - 1}.",
                param=f"input.{index}",
            )
        return item

    def _answer(self, request: EmbeddingRequest, call: Call, done: Sequence[Done[Embedding]], tokens: int) -> bytes:
        in_base64 = request.encoding_format == "base64"
        normalize = request.normalize is not False
        data = []
        for index, one in enumerate(done):
            found = one.result
            if not _is_finite(found):
                raise EngineError(f"The model's embedding of item {index} has values that are no numbers.")
            entry: dict[str, Any] = {"object": "embedding", "index": index, "embedding": []}
            if found.dense is not None:
                entry["embedding"] = _encode(self._finish(found.dense, request.dimensions, normalize), in_base64)
            if found.sparse is not None:
                entry["sparse_embedding"] = {str(token): weight for token, weight in found.sparse.items()}
            if found.multi_vector is not None:
                rows = found.multi_vector
                entry["multi_vector"] = [_encode(row, True) for row in rows] if in_base64 else _encode(rows, False)
            data.append(entry)
        usage = {"prompt_tokens": tokens, "total_tokens": tokens}
        answer = {"object": "list", "model": call.model_uid, "data": data, "usage": usage}
        return orjson.dumps(answer, option=orjson.OPT_SERIALIZE_NUMPY)

    def _finish(self, dense: Any, dimensions: int | None, normalize: bool) -> Any:
        """Cut a vector and scale it; a cut one of a model that scales its vectors is scaled anew."""
        if dimensions is not None and dimensions < len(dense):
            dense = dense[:dimensions]
        elif self._traits.is_normalized:
            return dense
        if not normalize:
            return dense
        import numpy as np

        length = float(np.linalg.norm(dense))
        return dense / np.float32(length) if length > 0 else dense


def _is_finite(embedding: Embedding) -> bool:
    import numpy as np

    arrays = [array for array in (embedding.dense, embedding.multi_vector) if array is not None]
    weights = (embedding.sparse or {}).values()
    return all(np.isfinite(array).all() for array in arrays) and all(map(math.isfinite, weights))


def _encode(vector: Any, in_base64: bool) -> Any:
    import numpy as np

    vector = np.ascontiguousarray(vector, dtype="<f4")
    return base64.b64encode(vector).decode() if in_base64 else vector
