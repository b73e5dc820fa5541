"""What the plugin registers: the model `demo-chat`, whose files lie in this package."""

from pathlib import Path

from modelrack.hooks import Family, Source, Variant, hookimpl

MODELRACK_API = 1

MODELS = Path(__file__).resolve().parent / "models"

CHAT_PARAMETERS_B = 0.0035
"""Parameters of demo-chat, in billions."""

CHAT_CONTEXT_LENGTH = 2048
"""Tokens that demo-chat was trained to look at."""


def _file(path: str, quantization: str) -> Source:
    return Source(hub="file", repo=str(MODELS / path), quantizations=(quantization,))


@hookimpl
def register_families() -> list[Family]:
    """Describe the demo model, as GGUF and as a folder that Transformers reads."""
    return [
        Family(
            name="demo-chat",
            model_type="LLM",
            abilities=("chat", "generate"),
            languages=("en",),
            description="A tiny chat model that answers a few hundred simple questions; it needs no download.",
            context_length=CHAT_CONTEXT_LENGTH,
            architectures=("LlamaForCausalLM",),
            variants=(
                Variant(
                    format="gguf",
                    size_b=CHAT_PARAMETERS_B,
                    sources=(_file("demo-chat/demo-chat-q8_0.gguf", "Q8_0"),),
                ),
                Variant(
                    format="pytorch",
                    size_b=CHAT_PARAMETERS_B,
                    sources=(_file("demo-chat/safetensors", "none"),),
                ),
            ),
        )
    ]
