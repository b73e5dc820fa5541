"""Embeddings, as OpenAI has them, with what Xinference, Jina and vLLM add to a request."""

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, Self, TypeAlias

from pydantic import BeforeValidator, ConfigDict, Field, model_validator

from .common import InferenceRequest, ResponseModel

__all__ = ["MAX_INPUTS", "EmbeddingObject", "EmbeddingRequest", "EmbeddingResponse", "EmbeddingUsage"]

MAX_INPUTS = 2048
"""Most inputs of one request, as OpenAI's."""

Input: TypeAlias = str | list[int]

_SHAPES = "a string, a list of strings, a list of token ids, or a list of such lists"


def _check_input(value: Any) -> Any:
    """Take the four shapes of `input` by hand: pydantic's errors for unions of long lists are long as well."""
    if value == "":
        raise ValueError("must not be empty")
    if isinstance(value, str):
        return value
    if not isinstance(value, list):
        raise ValueError(f"must be {_SHAPES}")
    if not value:
        raise ValueError("must not be empty")
    if _is_ids(value):
        return value
    if len(value) > MAX_INPUTS:
        raise ValueError(f"has {len(value)} items, and {MAX_INPUTS} are taken at most")
    kind = type(value[0])
    for index, item in enumerate(value):
        if type(item) is not kind or not (kind is str or (kind is list and _is_ids(item))):
            raise ValueError(f"must be {_SHAPES} (item {index} does not fit)")
        if not item:
            raise ValueError(f"must have no empty item, but item {index} is empty")
    return value


def _is_ids(value: list[Any]) -> bool:
    return all(type(item) is int and 0 <= item < 2**31 for item in value)


class EmbeddingRequest(InferenceRequest):
    """Texts, or token ids, to embed."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"model": "demo-embedding", "input": ["The largest animal", "A blue whale"]}]}
    )

    refused: ClassVar[Mapping[str, str]] = {}
    neutral: ClassVar[Mapping[str, tuple[Any, ...]]] = {
        "return_sparse": (False,),
        "return_multi_vector": (False,),
    }

    input: Annotated[
        str | list[Any],
        BeforeValidator(_check_input, json_schema_input_type=str | list[str] | list[int] | list[list[int]]),
    ]
    encoding_format: Literal["float", "base64"] | None = Field(None, description="base64: little-endian float32.")
    dimensions: int | None = Field(
        None,
        ge=1,
        le=2**20,
        description="Length of the answer's embeddings, of models that can be cut short (Matryoshka).",
    )
    normalize: bool | None = Field(None, description="Scale embeddings to length 1; default: yes.")
    normalize_embeddings: bool | None = Field(None, description="The same as normalize, which wins.")
    truncate: bool | None = Field(
        None, description="Cut what is too long for the model; default: refuse it with a 400."
    )
    prompt_name: str | None = Field(None, description="Name of the model's prompt to put before each text.")
    prompt: str | None = Field(None, description="Text to put before each text; empty: none, not even the default.")
    instruction: str | None = Field(None, description="The task in words, for models that are told it.")
    input_type: str | None = Field(
        None,
        description="What the texts are for: query or document, or another that the model knows. It stands for the "
        "prompt of that name, and for all else by which the model tells them apart; models that do not embed both "
        "alike.",
    )
    task: str | None = Field(None, description="The same as input_type, as Jina's clients spell it.")
    return_sparse: bool | None = Field(None, description="Also answer weights by token (lexical embeddings).")
    return_multi_vector: bool | None = Field(
        None, description="Also answer one vector for each token (late interaction)."
    )
    request_id: str | None = Field(None, max_length=256, description="The client's id of this request.")
    user: str | None = Field(None, description="Accepted for clients that send it; has no effect on the answer.")

    @model_validator(mode="after")
    def _settle(self) -> Self:
        if self.normalize is None:
            self.normalize = self.normalize_embeddings
        for group in (("prompt", "prompt_name", "instruction"), ("task", "input_type")):
            named = [name for name in group if getattr(self, name) is not None]
            if len(named) > 1:
                raise ValueError(f"only one of {' and '.join(repr(name) for name in named)} can be given")
        return self

    @property
    def inputs(self) -> list[Input]:
        """Return the inputs, one by one: texts or lists of token ids."""
        given: Any = self.input
        if isinstance(given, str) or (given and isinstance(given[0], int)):
            return [given]
        return list(given)


class EmbeddingObject(ResponseModel):
    """The embedding of one input."""

    object: Literal["embedding"]
    index: int
    embedding: list[float] | str
    sparse_embedding: dict[str, float] | None = None
    multi_vector: list[list[float]] | list[str] | None = None


class EmbeddingUsage(ResponseModel):
    """Tokens that the model read: special tokens and prompts count, what was cut off does not."""

    prompt_tokens: int
    total_tokens: int


class EmbeddingResponse(ResponseModel):
    """Embeddings in the order of the inputs."""

    object: Literal["list"]
    model: str
    data: list[EmbeddingObject]
    usage: EmbeddingUsage
