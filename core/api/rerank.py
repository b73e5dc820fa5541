"""Reranking, in the shapes that the clients of Xinference, Cohere (v1 and v2) and Jina send and read."""

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, Self, TypeAlias

import orjson
from pydantic import BaseModel, BeforeValidator, ConfigDict, FailFast, Field, model_validator

from ..errors import BadRequest
from .common import InferenceRequest, ResponseModel

__all__ = ["MAX_CHARACTERS", "MAX_DOCUMENTS", "Document", "RerankRequest", "RerankResponse", "RerankResult"]

MAX_DOCUMENTS = 2048
"""Most documents of one request."""

MAX_CHARACTERS = 500_000
"""Most characters of a query or a document, whether it would be cut or not."""

Document: TypeAlias = str | dict[str, Any]


def _check_documents(value: Any) -> Any:
    if not isinstance(value, list):
        raise ValueError("must be a list of strings or objects")
    if not value:
        raise ValueError("must not be empty")
    if len(value) > MAX_DOCUMENTS:
        raise ValueError(f"has {len(value)} documents, and {MAX_DOCUMENTS} are taken at most")
    return value


def _check_document(value: Any) -> Any:
    if not isinstance(value, (str, dict)):
        raise ValueError("must be a string, or an object with a 'text'")
    return value


def _check_query(value: Any) -> Any:
    """Take a string, or an object with nothing but a `text` (Jina's)."""
    if isinstance(value, dict) and set(value) == {"text"}:
        value = value["text"]
    if not isinstance(value, str):
        raise ValueError("must be a string, or an object with a 'text' alone")
    if not value.strip():
        raise ValueError("must not be empty")
    if len(value) > MAX_CHARACTERS:
        raise ValueError(f"has {len(value)} characters, and {MAX_CHARACTERS} are taken at most")
    return value


# By hand, and item by item: so an error names the item, and is one, not one for each kind that it might be of.
_Document = Annotated[Any, BeforeValidator(_check_document, json_schema_input_type=Document)]
_Documents = Annotated[
    list[_Document], FailFast(), BeforeValidator(_check_documents, json_schema_input_type=list[Document])
]
_Query = Annotated[str, BeforeValidator(_check_query, json_schema_input_type=str | dict[str, str])]


class RelevantSpans(BaseModel):
    """Cohere's wish for the parts of documents that made them relevant."""

    model_config = ConfigDict(extra="forbid")

    mode: Literal["enabled", "disabled"]
    threshold: float | None = None
    max_spans: int | None = Field(None, ge=1)


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
        "priority": "requests are taken in the order in which they come",
        "relevant_spans": "this engine scores whole documents",
        "return_embeddings": "this engine gives no embeddings of what it ranks",
    }
    neutral: ClassVar[Mapping[str, tuple[Any, ...]]] = {
        "instruction": ("",),
        "max_chunks_per_doc": (1,),
        "priority": (0,),
        "return_embeddings": (False,),
    }

    query: _Query
    documents: _Documents = Field(description="Strings, or objects with a `text` or what `rank_fields` names.")
    top_n: int | None = Field(None, ge=1, description="Most results to answer; default: all.")
    return_documents: bool | None = Field(None, description="Answer the documents too.")
    return_len: bool | None = Field(None, description="Answer the count of tokens in `meta`; default: yes.")
    max_chunks_per_doc: int | None = Field(None, ge=1)
    max_tokens_per_doc: int | None = Field(None, ge=1, description="Cut each document to so many tokens.")
    rank_fields: list[Annotated[str, Field(min_length=1)]] | None = Field(
        None, min_length=1, max_length=64, description="Fields of the documents to rank by, in this order."
    )
    truncate: bool | None = Field(
        None, description="Cut what is too long for the model (default); false: refuse it with a 400."
    )
    truncation: bool | None = Field(None, description="The same as truncate, as Jina's clients spell it.")
    raw_scores: bool | None = Field(None, description="Answer the model's own scores (logits) instead.")
    return_embeddings: bool | None = None
    relevant_spans: RelevantSpans | None = None
    instruction: str | None = Field(None, description="The task, for models that are told it.")
    kwargs: str | None = Field(None, description="Further fields as a JSON string, as Xinference's client sends them.")
    request_id: str | None = Field(None, max_length=256, description="The client's id of this request.")
    priority: int | None = Field(None, ge=0, le=999)
    user: str | None = Field(None, description="Accepted for clients that send it; has no effect on the answer.")

    @model_validator(mode="before")
    @classmethod
    def _unpack(cls, data: Any) -> Any:
        """Take what `kwargs` holds as fields of the request, where it does not say them itself."""
        packed = data.get("kwargs") if isinstance(data, dict) else None
        if not isinstance(packed, str):
            return data
        try:
            fields = orjson.loads(packed)
        except orjson.JSONDecodeError:
            fields = None
        if not isinstance(fields, dict):
            raise BadRequest("'kwargs' must be a JSON object, as a string.", param="kwargs")
        for name, value in fields.items():
            if name not in cls.model_fields or name == "kwargs":
                raise BadRequest(f"'kwargs' has an unknown field '{name}'.", param=f"kwargs.{name}")
            if data.get(name) not in (None, value):
                raise BadRequest(f"'kwargs' has another value for '{name}' than the request.", param=f"kwargs.{name}")
            # In place: errors of these fields are looked up in the request.
            data[name] = value
        return data

    @model_validator(mode="after")
    def _settle(self) -> Self:
        if self.truncate is None:
            self.truncate = self.truncation
        elif self.truncation not in (None, self.truncate):
            raise ValueError("'truncate' and 'truncation' contradict each other")
        if self.relevant_spans is not None and self.relevant_spans.mode == "disabled":
            self.relevant_spans = None
        return self


class RerankDocument(ResponseModel):
    """A document that was asked back; one that was sent as an object has its other fields too."""

    model_config = ConfigDict(extra="allow")

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
    tokens: RerankTokens | None
    warnings: list[str] | None = None


class RerankUsage(ResponseModel):
    """What Jina's clients read."""

    prompt_tokens: int
    total_tokens: int


class RerankResponse(ResponseModel):
    """Results, best first."""

    id: str
    object: Literal["list"]
    model: str
    results: list[RerankResult]
    meta: RerankMeta
    usage: RerankUsage
