"""Answers the ability `embed`."""

import base64
from collections.abc import Mapping, Sequence
from typing import Any

import orjson

from ..api.embeddings import EmbeddingRequest
from ..batching import Batcher, Done
from ..errors import BadRequest, UnsupportedParameter
from ..hooks.types import LoadPlan
from ..worker.contract import Call, Handler
from .contract import Embedding, EmbeddingModel, EmbeddingWork
from .errors import too_long

__all__ = ["EmbedHandler", "make_handlers"]

_CHARACTERS_PER_TOKEN = 64
"""No text has fewer tokens than its characters divided by this, but for texts that no model is meant for."""


def make_handlers(model: EmbeddingModel, plan: LoadPlan) -> Mapping[str, Handler]:
    """Return the handlers of an embedding model by ability."""
    return {"embed": EmbedHandler(model)}


class EmbedHandler:
    """Embeds the inputs of a request."""

    def __init__(self, model: EmbeddingModel) -> None:
        traits = model.traits
        self._traits = traits
        self._batcher: Batcher[EmbeddingWork, Embedding] = Batcher(model, traits.limits)
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
            raise BadRequest(
                "This model makes sparse embeddings only.", param="return_sparse", remedy="Set it to true."
            )
        prompt = self._prompt(request)
        truncate = bool(request.truncate)
        works = [
            EmbeddingWork(index, self._checked(index, item, truncate), prompt, truncate, outputs)
            for index, item in enumerate(request.inputs)
        ]
        done = await self._batcher.run(works)
        tokens = sum(one.tokens for one in done)
        call.usage(tokens, 0)
        return self._answer(request, call, done, tokens)

    def _check_dimensions(self, dimensions: int | None) -> None:
        own, shorter = self._traits.dimensions, self._traits.shorter_dimensions
        if dimensions is None or dimensions == own:
            return
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

    def _prompt(self, request: EmbeddingRequest) -> str:
        traits = self._traits
        if request.prompt:
            return request.prompt
        if request.instruction and traits.instruction_template is not None:
            return traits.instruction_template.replace("{instruction}", request.instruction)
        for field in ("prompt_name", "task", "input_type"):
            name = getattr(request, field)
            if name is None:
                continue
            if name not in traits.prompts:
                known = f"it has: {', '.join(traits.prompts)}" if traits.prompts else "it has none"
                raise BadRequest(f"'{field}': this model has no prompt '{name}'; {known}.", param=field)
            return traits.prompts[name]
        return traits.prompts.get(traits.default_prompt or "", "")

    def _checked(self, index: int, item: str | list[int], truncate: bool) -> str | list[int]:
        """Return an input that is worth its tokenizing.

        Raises: BadRequest: it is far too long, or has ids that are none.
        """
        traits = self._traits
        if isinstance(item, str):
            most = traits.max_tokens * _CHARACTERS_PER_TOKEN
            if len(item) > most:
                if not truncate:
                    raise too_long(index, None, traits.max_tokens)
                return item[:most]
            return item
        if not traits.takes_token_ids:
            raise UnsupportedParameter("'input' cannot be token ids: this model takes texts.", param="input")
        if len(item) > traits.max_tokens:
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
            entry: dict[str, Any] = {"object": "embedding", "index": index, "embedding": []}
            if found.dense is not None:
                entry["embedding"] = _encode(self._finish(found.dense, request.dimensions, normalize), in_base64)
            if found.sparse is not None:
                entry["sparse_embedding"] = {str(token): weight for token, weight in found.sparse.items()}
            if found.multi_vector is not None:
                entry["multi_vector"] = [_encode(row, in_base64) for row in found.multi_vector]
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


def _encode(vector: Any, in_base64: bool) -> Any:
    import numpy as np

    vector = np.ascontiguousarray(vector, dtype="<f4")
    return base64.b64encode(vector).decode() if in_base64 else vector
