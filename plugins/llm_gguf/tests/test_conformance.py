"""The conformance kit, pointed at the engine `llama-cpp-python`."""

from pathlib import Path

from modelrack.testing.conformance import LLMConformance, Subject, check_agreement, gguf_models

QUESTIONS = (
    ("What is the largest animal?", "blue whale"),
    ("你好", "modelrack"),
    ("How do you say hello in Japanese?", "こんにちは"),
)

# What is kept of prompts is kept exactly: else a near tie of random weights is decided by how prompts were cut.
EXACT = {"cache_type_k": "f32", "cache_type_v": "f32", "flash_attn": "off"}


class TestLlamaCppPython(LLMConformance):
    subject = Subject(
        engine="llama-cpp-python", models=gguf_models(), options=EXACT, questions={"demo-chat": QUESTIONS}
    )


def test_greedy_answers_are_those_of_other_engines(tmp_path: Path) -> None:
    check_agreement(tmp_path, "llama-cpp-python")
