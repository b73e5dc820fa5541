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
    _tokenizer_route("/v1/tokenize", "tokenize", "Tokenize", "Cut a text into token ids."),
    _tokenizer_route("/tokenize", "tokenize", "Tokenize", "Cut a text into token ids."),
    _tokenizer_route("/v1/detokenize", "detokenize", "Detokenize", "Join token ids into a text."),
    _tokenizer_route("/detokenize", "detokenize", "Detokenize", "Join token ids into a text."),
    _tokenizer_route("/v1/convert_ids_to_tokens", "convert_ids_to_tokens", "ConvertIds", "Name the token of each id."),
)


@hookimpl
def register_model_types() -> list[ModelType]:
    """Describe the types that the core names; only `LLM` has routes here, the others get theirs from plugins."""
    return [
        ModelType(
            name="LLM",
            routes=_LLM_ROUTES,
            abilities=("chat", "generate", "vision", "tools", "reasoning", "hybrid", "audio", "omni"),
        ),
        ModelType(name="embedding"),
        ModelType(name="rerank"),
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
