"""The model that vLLM serves, as far as requests depend on it; it is reached through vLLM's app."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from modelrack.hooks import Family
from modelrack.llm.chat_rules import ChatRules
from modelrack.llm.contract import ModelTraits
from modelrack.llm.errors import Refusals
from modelrack.llm.formats.choice import Chosen, choose
from modelrack.llm.prompts import ChatPrompts
from modelrack.llm.template import ChatTemplate

from .settings import Settings

__all__ = ["UNSUPPORTED", "UNSUPPORTED_DRAFTING", "Served", "Tokens"]

UNSUPPORTED: Mapping[str, str] = {
    "guided_decoding_backend": "there is only one",
    "guided_whitespace_pattern": "no choice of white space is left in JSON",
}
"""Request fields that are refused, with the reason."""

_DRAFTING = "vLLM cannot do this while tokens are drafted ahead"
UNSUPPORTED_DRAFTING: Mapping[str, str] = {
    **UNSUPPORTED,
    **dict.fromkeys(("logit_bias", "min_p", "typical_p"), _DRAFTING),
}
"""The same where tokens are drafted ahead: vLLM would leave them out without a word."""


class Tokens:
    """The model's tokenizer, as the chat layer wants it.

    Args:
        tokenizer: one of Transformers.
    """

    def __init__(self, tokenizer: Any, n_ctx: int, n_vocab: int, template: str | None) -> None:
        self.tokenizer = tokenizer
        bos = getattr(tokenizer, "bos_token_id", None)
        names = ("bos_token", "eos_token", "pad_token", "unk_token", "sep_token", "cls_token")
        variables = {name: str(value) for name in names if (value := getattr(tokenizer, name, None)) is not None}
        self.traits = ModelTraits(
            n_ctx=n_ctx, n_vocab=n_vocab, bos_id=bos, chat_template=template, template_variables=variables
        )

    def encode(self, text: str, *, add_special: bool, parse_special: bool = True) -> list[int]:
        """Return the tokens of a text."""
        return list(self.tokenizer.encode(text, add_special_tokens=add_special))

    def special_bytes(self, token: int) -> bytes:
        """Return what a special token is written as."""
        return str(self.tokenizer.convert_ids_to_tokens(token) or "").encode()

    def token_of(self, mark: str) -> int | None:
        """Return the token that a mark is, or None if it is several."""
        ids = self.encode(mark, add_special=False)
        return ids[0] if len(ids) == 1 else None

    def decode(self, ids: list[int]) -> str:
        """Return the text of tokens."""
        return str(self.tokenizer.decode(ids, skip_special_tokens=False))

    def names(self, ids: list[int]) -> list[str]:
        """Return tokens as the vocabulary writes them; an id beyond the tokenizer's has none."""
        return [name if name is not None else "" for name in self.tokenizer.convert_ids_to_tokens(ids)]


class Served:
    """The model.

    Args:
        tokens: its tokenizer.
        template: the chat template's source; None: it answers no chats.
        takes_images: it reads images.
    """

    def __init__(self, settings: Settings, tokens: Any, *, template: str | None, takes_images: bool) -> None:
        self.settings = settings
        self.tokens = tokens
        self.takes_images = takes_images
        self.n_ctx: int = tokens.traits.n_ctx
        self.n_vocab: int = tokens.traits.n_vocab
        self.refuse = Refusals(settings.feature_engines)
        family = Family(
            name="", model_type="LLM", tool_format=settings.tool_format, reasoning_tags=settings.reasoning_tags
        )
        self.format: Chosen = choose(settings.output_formats, family, template)
        if settings.own_reasoning:
            self.format = replace(self.format, reasoning=None, tags=None)
        self.prompts: ChatPrompts | None = None
        self.rules: ChatRules | None = None
        if template is not None and not settings.own_prompts:
            source = ChatTemplate(template, tokens.traits.template_variables)
            can_think = self.format.reasoning is not None
            self.prompts = ChatPrompts(tokens, source, self.refuse, can_think=can_think)
            self.rules = ChatRules(self.prompts, self.format)
        special = set(getattr(tokens.tokenizer, "all_special_tokens", ()))
        self.has_special_marks = any(mark in special for mark in self.format.marks)
