"""Reranking, in the shapes that the clients of Xinference, Cohere (v1 and v2) and Jina send and read."""

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Self, TypeAlias

from pydantic import BeforeValidator, ConfigDict, Field, model_validator

from .common import InferenceRequest, ResponseModel

__all__ = ["MAX_DOCUMENTS", "RerankRequest", "RerankResponse", "RerankResult"]

MAX_DOCUMENTS = 2048
"""Most documents of one request."""


def _check_documents(value: Any) -> Any:
    """Take strings and objects with a `text`, by hand: errors of unions of long lists are long as well."""
    if not isinstance(value, list):
        raise ValueError("must be a list of strings, or of objects with a 'text'")
    if not value:
        raise ValueError("must not be empty")
    if len(value) > MAX_DOCUMENTS:
        raise ValueError(f"has {len(value)} documents, and {MAX_DOCUMENTS} are taken at most")
    for index, item in enumerate(value):
        text = item.get("text") if isinstance(item, dict) else item
        if not isinstance(text, str):
            raise ValueError(f"must hold strings, or objects with a 'text' (document {index} is neither)")
        if not text:
            raise ValueError(f"must have no empty document, but document {index} is empty")
    return value


def _text(value: Any) -> Any:
    return value["text"] if isinstance(value, dict) and set(value) == {"text"} else value


Document: TypeAlias = str | dict[str, Any]


class RerankRequest(InferenceRequest):
    """A query, and documents to put into the order of their relevance to it."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "model": "demo-rerank",
                    "query": "What is the largest animal?",
                    "documents": ["The blue whale is the largest animal.", "Honey never spoils."],
                }
            ]
        }
    )

    refused: ClassVar[Mapping[str, str]] = {
        "instruction": "this model takes no instruction",
        "max_chunks_per_doc": "documents are not cut into chunks; 'truncate' cuts what is too long",
    }
    neutral: ClassVar[Mapping[str, tuple[Any, ...]]] = {"max_chunks_per_doc": (1,), "instruction": ("",)}

    query: Annotated[str, Field(min_length=1), BeforeValidator(_text, json_schema_input_type=str | dict[str, str])]
    documents: Annotated[list[Document], BeforeValidator(_check_documents, json_schema_input_type=list[Document])]
    top_n: int | None = Field(None, ge=1, description="Most results to answer; default: all.")
    return_documents: bool | None = Field(None, description="Answer the documents' texts too.")
    return_len: bool | None = Field(None, description="Accepted as Xinference's: the token counts are always answered.")
    max_chunks_per_doc: int | None = Field(None, ge=1)
    max_tokens_per_doc: int | None = Field(None, ge=1, description="Cut each document to so many tokens.")
    rank_fields: list[str] | None = Field(None, min_length=1, description="Fields of the documents to rank by.")
    truncate: bool | None = Field(
        None, description="Cut documents that are too long for the model (default), or refuse."
    )
    truncation: bool | None = Field(None, description="The same as truncate, as Jina's clients spell it.")
    raw_scores: bool | None = Field(None, description="Answer the model's own scores (logits), not 0 to 1.")
    return_embeddings: bool | None = None
    instruction: str | None = Field(None, description="The task, for models that are told it.")
    kwargs: str | None = Field(None, description="The same fields as a JSON string, as Xinference's client sends them.")
    request_id: str | None = Field(None, max_length=256, description="The client's id of this request.")
    priority: int | None = Field(None, description="Accepted for clients that send it; has no effect on the answer.")
    user: str | None = Field(None, description="Accepted for clients that send it; has no effect on the answer.")

    @model_validator(mode="after")
    def _settle(self) -> Self:
        if self.truncate is None:
            self.truncate = self.truncation
        return self


class RerankDocument(ResponseModel):
    """A document that was asked back."""

    text: str


class RerankResult(ResponseModel):
    """One document's place; `index` is where it stood in the request."""

    index: int
    relevance_score: float
    document: RerankDocument | None = None


class RerankTokens(ResponseModel):
    """Tokens that the model read."""

    input_tokens: int
    output_tokens: int


class RerankMeta(ResponseModel):
    """What Xinference's and Cohere's clients read."""

    api_version: dict[str, str]
    billed_units: dict[str, int]
    tokens: RerankTokens
    warnings: list[str] | None = None


class RerankUsage(ResponseModel):
    """What Jina's clients read."""

    prompt_tokens: int
    total_tokens: int


class RerankResponse(ResponseModel):
    """Results, best first."""

    id: str
    model: str
    results: list[RerankResult]
    meta: RerankMeta
    usage: RerankUsage
