"""The conformance kit, pointed at the engine `Transformers`."""

from pathlib import Path

from modelrack.testing.conformance import LLMConformance, Subject, check_agreement, hf_models

QUESTIONS = (
    ("What is the largest animal?", "blue whale"),
    ("你好", "modelrack"),
    ("How do you say hello in Japanese?", "こんにちは"),
)

# In float32 a batch rounds almost as one sequence does, so that no near tie is decided another way.
EXACT = {"dtype": "float32"}


class TestTransformers(LLMConformance):
    subject = Subject(
        engine="Transformers",
        models=hf_models(draft=lambda model: {"draft_model": str(model)}),
        options=EXACT,
        questions={"demo-chat": QUESTIONS},
    )


def test_greedy_answers_are_those_of_other_engines(tmp_path: Path) -> None:
    check_agreement(tmp_path, "Transformers", options={"Transformers": EXACT})
