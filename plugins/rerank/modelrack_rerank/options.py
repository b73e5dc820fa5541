"""The engine's typed options: validation, `modelrack engine` and the docs from one declaration."""

from typing import Literal

from pydantic import Field, field_validator

from modelrack.encoders import EncoderOptions

__all__ = ["RerankOptions"]


class RerankOptions(EncoderOptions):
    """How a model is loaded, how its pairs are batched, and what is made of its scores."""

    activation: Literal["model", "sigmoid", "none"] = Field(
        "model",
        description="What turns the model's scores into those that are answered. model: what its files say, else a "
        "sigmoid; sigmoid: from 0 to 1 whatever the files say; none: the scores as they are.",
    )
    instruction: str | None = Field(
        None,
        max_length=10_000,
        description="The task, for requests that name none, of models that are told it. Default: the model's own.",
    )
    prompt: str | None = Field(
        None,
        max_length=100_000,
        description="How a decoder reads a pair: a text with {query}, {document} and, if it is told the task, "
        "{instruction}. Default: as the family or the model's files say.",
    )
    true_token: str | None = Field(
        None, max_length=100, description="The answer of a decoder that a document is relevant. Default: yes."
    )
    false_token: str | None = Field(
        None,
        max_length=100,
        description="The answer that it is not; empty: the score is the logit of true_token alone. Default: no.",
    )

    @field_validator("prompt")
    @classmethod
    def _check_prompt(cls, value: str | None) -> str | None:
        if value is not None and not (value.count("{query}") == value.count("{document}") == 1):
            raise ValueError("must have {query} and {document} in it, each once")
        if value is not None and value.index("{query}") > value.index("{document}"):
            raise ValueError("must have {query} before {document}")
        return value
