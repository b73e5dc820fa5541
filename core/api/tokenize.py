"""Tokens and text: tokenize and detokenize as vLLM has them, convert_ids_to_tokens as Xinference does."""

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Self

from pydantic import BeforeValidator, ConfigDict, Field, RootModel, model_validator

from .common import InferenceRequest, ResponseModel
from .messages import Message, Tool

__all__ = [
    "ConvertIdsRequest",
    "ConvertIdsResponse",
    "DetokenizeRequest",
    "DetokenizeResponse",
    "TokenizeRequest",
    "TokenizeResponse",
]

TokenId = Annotated[int, Field(ge=0, strict=True)]


class TokenizeRequest(InferenceRequest):
    """What to turn into tokens: a prompt, or the messages of a chat."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"model": "demo-chat", "prompt": "The largest animal"}]})

    prompt: str | None = None
    messages: list[Message] | None = Field(None, min_length=1)
    add_special_tokens: bool | None = Field(None, description="Default: for a prompt yes, for messages no.")
    return_token_strs: bool | None = Field(None, description="Also answer each token as a string.")
    add_generation_prompt: bool | None = None
    continue_final_message: bool | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    tools: list[Tool] | None = None

    neutral: ClassVar[Mapping[str, tuple[Any, ...]]] = {
        "add_generation_prompt": (True,),
        "chat_template_kwargs": ({},),
        "continue_final_message": (False,),
        "return_token_strs": (False,),
        "tools": ([],),
    }

    @model_validator(mode="after")
    def _one_of_both(self) -> Self:
        if (self.prompt is None) == (self.messages is None):
            raise ValueError("either 'prompt' or 'messages' is needed, and not both")
        return self


class TokenizeResponse(ResponseModel):
    """Token ids."""

    tokens: list[int]
    count: int
    max_model_len: int | None
    token_strs: list[str] | None = None


class DetokenizeRequest(InferenceRequest):
    """Token ids to turn into text."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"model": "demo-chat", "tokens": [4, 5, 6]}]})

    tokens: list[TokenId]


class DetokenizeResponse(ResponseModel):
    """Text."""

    prompt: str


def _check_ids(value: Any) -> Any:
    def is_ids(items: Any) -> bool:
        return isinstance(items, list) and all(type(item) is int and item >= 0 for item in items)

    if is_ids(value) or (isinstance(value, list) and all(is_ids(item) for item in value)):
        return value
    raise ValueError("must be a list of token ids, or a list of such lists")


class ConvertIdsRequest(InferenceRequest):
    """Token ids to name, one sequence or several."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"model": "demo-chat", "input": [4, 5, 6]}]})

    input: Annotated[list[int] | list[list[int]], BeforeValidator(_check_ids)]
    user: str | None = Field(None, description="Accepted for clients that send it; has no effect on the answer.")


class ConvertIdsResponse(RootModel[list[str] | list[list[str]]]):
    """The tokens as strings, in the shape of the input: a bare list, as Xinference's client returns it."""
