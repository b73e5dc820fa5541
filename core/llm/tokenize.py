"""Answers the abilities `tokenize`, `detokenize` and `convert_ids_to_tokens`."""

from collections.abc import Mapping
from typing import Any

import orjson

from ..api.tokenize import ConvertIdsRequest, DetokenizeRequest, TokenizeRequest
from ..errors import BadRequest, UnsupportedParameter
from ..worker.contract import Call
from .prompts import ChatPrompts
from .requests import check_ids
from .served import ServedModel
from .tools import clean_tool

__all__ = ["ConvertIdsHandler", "DetokenizeHandler", "TokenizeHandler"]


class TokenizeHandler:
    """Returns the tokens of a prompt, or of a chat as the model's template writes it."""

    def __init__(self, served: ServedModel, prompts: ChatPrompts | None) -> None:
        self._served = served
        self._prompts = prompts

    async def __call__(self, request: TokenizeRequest, call: Call) -> Mapping[str, Any]:
        """Return tokens."""
        model = self._served.model
        if request.messages is not None:
            text = self._render(request)
            special = bool(request.add_special_tokens)
        else:
            text = request.prompt or ""
            special = request.add_special_tokens is not False
        tokens = await self._served.encode(text, add_special=special)
        answer: dict[str, Any] = {"tokens": tokens, "count": len(tokens), "max_model_len": model.traits.n_ctx}
        if request.return_token_strs:
            names = self._served.names
            answer["token_strs"] = [names[token][0] for token in tokens]
        call.usage(len(tokens), 0)
        return answer

    def _render(self, request: TokenizeRequest) -> str:
        prompts = self._prompts
        assert request.messages is not None
        if prompts is None:
            raise BadRequest(
                "This model has no chat template, so it takes a 'prompt', not 'messages'.", param="messages"
            )
        tools = [clean_tool(tool) for tool in request.tools or ()]
        if tools and not prompts.abilities.tools:
            raise UnsupportedParameter(
                "'tools' cannot be honoured: this model's chat template knows no tools.", param="tools"
            )
        prompt = prompts.render(
            request.messages,
            tools=tools,
            variables=prompts.variables(request.chat_template_kwargs or {}, "chat_template_kwargs"),
            add_generation_prompt=request.add_generation_prompt,
            continue_final_message=bool(request.continue_final_message),
        )
        if prompt.images:
            raise UnsupportedParameter("Images cannot be tokenized here.", param="messages")
        return prompt.text


class DetokenizeHandler:
    """Returns the text of tokens."""

    def __init__(self, served: ServedModel) -> None:
        self._served = served

    async def __call__(self, request: DetokenizeRequest, call: Call) -> Mapping[str, Any]:
        """Return text."""
        check_ids(request.tokens, self._served.model.traits.n_vocab, "tokens")
        return {"prompt": self._served.text_of(request.tokens)}


class ConvertIdsHandler:
    """Names tokens."""

    def __init__(self, served: ServedModel) -> None:
        self._served = served

    async def __call__(self, request: ConvertIdsRequest, call: Call) -> bytes:
        """Return the tokens' names, in the shape of the input."""
        model = self._served.model
        given: Any = request.input
        nested = bool(given) and isinstance(given[0], list)
        for ids in given if nested else [given]:
            check_ids(ids, model.traits.n_vocab, "input")
        name = model.token_name
        named = [[name(one) for one in ids] for ids in given] if nested else [name(one) for one in given]
        return orjson.dumps(named)
