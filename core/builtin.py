"""The core's own plugin, through the same hooks as any other: model types with their routes, hubs, output formats."""

from .hooks.specs import hookimpl
from .hooks.types import Hub, ModelType, OutputFormat, Route
from .llm.formats.registered import FORMATS

MODELRACK_API = 1


def _tokenizer_route(path: str, ability: str, model: str, summary: str) -> Route:
    return Route(
        path=path,
        ability=ability,
        request=f"modelrack.api.tokenize:{model}Request",
        response=f"modelrack.api.tokenize:{model}Response",
        summary=summary,
    )


_TOKENIZER_ROUTES = (
    _tokenizer_route("/v1/tokenize", "tokenize", "Tokenize", "Cut a text into token ids."),
    _tokenizer_route("/tokenize", "tokenize", "Tokenize", "Cut a text into token ids."),
    _tokenizer_route("/v1/detokenize", "detokenize", "Detokenize", "Join token ids into a text."),
    _tokenizer_route("/detokenize", "detokenize", "Detokenize", "Join token ids into a text."),
    _tokenizer_route("/v1/convert_ids_to_tokens", "convert_ids_to_tokens", "ConvertIds", "Name the token of each id."),
)

_LLM_ROUTES = (
    Route(
        path="/v1/chat/completions",
        ability="chat",
        request="modelrack.api.chat:ChatRequest",
        response="modelrack.api.chat:ChatCompletion",
        chunk="modelrack.api.chat:ChatChunk",
        summary="Answer a conversation.",
        needs=("chat",),
    ),
    Route(
        path="/v1/completions",
        ability="generate",
        request="modelrack.api.completions:CompletionRequest",
        response="modelrack.api.completions:Completion",
        chunk="modelrack.api.completions:CompletionChunk",
        summary="Continue a text.",
    ),
    *_TOKENIZER_ROUTES,
)

_EMBEDDING_ROUTES = (
    Route(
        path="/v1/embeddings",
        ability="embed",
        request="modelrack.api.embeddings:EmbeddingRequest",
        response="modelrack.api.embeddings:EmbeddingResponse",
        summary="Embed texts.",
    ),
    *_TOKENIZER_ROUTES,
)


def _rerank_route(path: str) -> Route:
    return Route(
        path=path,
        ability="rerank",
        request="modelrack.api.rerank:RerankRequest",
        response="modelrack.api.rerank:RerankResponse",
        summary="Order documents by their relevance to a query.",
    )


_RERANK_ROUTES = (_rerank_route("/v1/rerank"), _rerank_route("/v2/rerank"))


@hookimpl
def register_model_types() -> list[ModelType]:
    """Describe the types that the core names; those for which several plugins bring engines have their routes here."""
    return [
        ModelType(
            name="LLM",
            routes=_LLM_ROUTES,
            abilities=("chat", "generate", "vision", "tools", "reasoning", "hybrid", "audio", "omni"),
        ),
        ModelType(name="embedding", routes=_EMBEDDING_ROUTES, abilities=("embed", "vision", "sparse", "multi_vector")),
        ModelType(name="rerank", routes=_RERANK_ROUTES, abilities=("rerank", "vision")),
        ModelType(name="image"),
        ModelType(name="audio"),
        ModelType(name="video"),
    ]


@hookimpl
def register_hubs() -> list[Hub]:
    """Describe the two hubs; their packages are imported only by the process that downloads."""
    return [
        Hub(
            name="huggingface",
            fetch="modelrack.catalog.hubs:fetch_huggingface",
            requires=("huggingface_hub",),
            remedy="Install it with: pip install huggingface_hub",
        ),
        Hub(
            name="modelscope",
            fetch="modelrack.catalog.hubs:fetch_modelscope",
            requires=("modelscope",),
            remedy="Install it with: pip install modelscope",
        ),
    ]


@hookimpl
def register_output_formats() -> list[OutputFormat]:
    """Describe how language models write tool calls and reasoning; workers import the parsers."""
    return list(FORMATS)
