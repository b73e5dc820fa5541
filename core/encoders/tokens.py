"""Answers the routes of tokens for models that read texts and write none."""

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Protocol

import orjson

from ..api.tokenize import ConvertIdsRequest, DetokenizeRequest, TokenizeRequest
from ..errors import BadRequest
from ..worker.contract import Call, Handler

__all__ = ["TextTokenizer", "make_token_handlers"]

_SHORT = 4096
"""Characters that are tokenized on the event loop; more in a thread."""


class TextTokenizer(Protocol):
    """Turns texts into token ids and back. Callable from any thread."""

    def encode(self, text: str, *, add_special: bool) -> list[int]:
        """Return the token ids of a text."""

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of token ids, special ones among them."""

    def names(self, ids: Sequence[int]) -> list[str]:
        """Return tokens as the vocabulary writes them."""


def make_token_handlers(tokenizer: TextTokenizer, n_vocab: int, max_tokens: int | None) -> dict[str, Handler]:
    """Return the handlers of `tokenize`, `detokenize` and `convert_ids_to_tokens`."""
    return {
        "tokenize": _Tokenize(tokenizer, max_tokens),
        "detokenize": _Detokenize(tokenizer, n_vocab),
        "convert_ids_to_tokens": _ConvertIds(tokenizer, n_vocab),
    }


class _Tokenize:
    unsupported: ClassVar[Mapping[str, str]] = dict.fromkeys(
        ("messages", "tools", "chat_template_kwargs", "add_generation_prompt", "continue_final_message"),
        "this model takes texts, not conversations; send a 'prompt'",
    )

    def __init__(self, tokenizer: TextTokenizer, max_tokens: int | None) -> None:
        self._tokenizer = tokenizer
        self._max_tokens = max_tokens

    async def __call__(self, request: TokenizeRequest, call: Call) -> Mapping[str, Any]:
        text, special = request.prompt or "", request.add_special_tokens is not False
        if len(text) <= _SHORT:
            tokens = self._tokenizer.encode(text, add_special=special)
        else:
            tokens = await asyncio.to_thread(self._tokenizer.encode, text, add_special=special)
        answer: dict[str, Any] = {"tokens": tokens, "count": len(tokens), "max_model_len": self._max_tokens}
        if request.return_token_strs:
            answer["token_strs"] = self._tokenizer.names(tokens)
        call.usage(len(tokens), 0)
        return answer


class _Detokenize:
    def __init__(self, tokenizer: TextTokenizer, n_vocab: int) -> None:
        self._tokenizer = tokenizer
        self._n_vocab = n_vocab

    async def __call__(self, request: DetokenizeRequest, call: Call) -> Mapping[str, Any]:
        _check_ids(request.tokens, self._n_vocab, "tokens")
        return {"prompt": self._tokenizer.decode(request.tokens)}


class _ConvertIds:
    def __init__(self, tokenizer: TextTokenizer, n_vocab: int) -> None:
        self._tokenizer = tokenizer
        self._n_vocab = n_vocab

    async def __call__(self, request: ConvertIdsRequest, call: Call) -> bytes:
        given: Any = request.input
        nested = bool(given) and isinstance(given[0], list)
        for ids in given if nested else [given]:
            _check_ids(ids, self._n_vocab, "input")
        names = self._tokenizer.names
        return orjson.dumps([names(ids) for ids in given] if nested else names(given))


def _check_ids(ids: Sequence[int], n_vocab: int, field: str) -> None:
    wrong = next((one for one in ids if one >= n_vocab), None)
    if wrong is not None:
        raise BadRequest(f"'{field}': {wrong} is no token id; this model's are 0 to {n_vocab - 1}.", param=field)
