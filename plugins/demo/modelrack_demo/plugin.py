"""What the plugin registers: three small models, whose files lie in this package."""

from pathlib import Path

from modelrack.hooks import Family, Source, Variant, hookimpl

MODELRACK_API = 1

MODELS = Path(__file__).resolve().parent / "models"

CHAT_PARAMETERS_B = 0.0035
"""Parameters of demo-chat, in billions."""

CHAT_CONTEXT_LENGTH = 2048
"""Tokens that demo-chat was trained to look at."""

BERT_PARAMETERS_B = 0.0014
"""Parameters of demo-embedding and of demo-rerank, in billions."""

BERT_MAX_TOKENS = 512
"""Tokens of a text, or of a query and a document together, that the two look at."""

DIMENSIONS = 128
"""Length of a vector of demo-embedding."""

SHORTER_DIMENSIONS = (32, 64, 128)
"""Lengths that its vectors were trained to be cut to, the whole one included."""


def _file(path: str, quantization: str) -> Source:
    return Source(hub="file", repo=str(MODELS / path), quantizations=(quantization,))


def _variants(gguf: str, quantization: str, folder: str, size_b: float) -> tuple[Variant, Variant]:
    return (
        Variant(format="gguf", size_b=size_b, sources=(_file(gguf, quantization),)),
        Variant(format="pytorch", size_b=size_b, sources=(_file(folder, "none"),)),
    )


@hookimpl
def register_families() -> list[Family]:
    """Describe the demo models, each as GGUF and as a folder that Transformers reads."""
    return [
        Family(
            name="demo-chat",
            model_type="LLM",
            abilities=("chat", "generate"),
            languages=("en",),
            description="A tiny chat model that answers a few hundred simple questions; it needs no download.",
            context_length=CHAT_CONTEXT_LENGTH,
            architectures=("LlamaForCausalLM",),
            variants=_variants(
                "demo-chat/demo-chat-q8_0.gguf", "Q8_0", "demo-chat/safetensors", size_b=CHAT_PARAMETERS_B
            ),
        ),
        Family(
            name="demo-embedding",
            model_type="embedding",
            abilities=("embed",),
            languages=("en",),
            description="A tiny embedding model that finds simple facts in English; it needs no download.",
            context_length=BERT_MAX_TOKENS,
            architectures=("BertModel",),
            variants=_variants(
                "demo-embedding/demo-embedding-f16.gguf",
                "F16",
                "demo-embedding/safetensors",
                size_b=BERT_PARAMETERS_B,
            ),
            facts={
                "dimensions": DIMENSIONS,
                "matryoshka_dimensions": list(SHORTER_DIMENSIONS),
                "max_tokens": BERT_MAX_TOKENS,
            },
        ),
        Family(
            name="demo-rerank",
            model_type="rerank",
            abilities=("rerank",),
            languages=("en",),
            description="A tiny rerank model that puts the documents that answer first; it needs no download.",
            context_length=BERT_MAX_TOKENS,
            architectures=("BertForSequenceClassification",),
            variants=_variants(
                "demo-rerank/demo-rerank-f16.gguf", "F16", "demo-rerank/safetensors", size_b=BERT_PARAMETERS_B
            ),
            facts={"type": "normal", "max_tokens": BERT_MAX_TOKENS},
        ),
    ]
