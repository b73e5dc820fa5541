"""The conformance kit, pointed at vLLM on the CPU, in its own environment."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from modelrack.testing.conformance import LLMConformance, Subject, check_agreement, hf_models

pytestmark = pytest.mark.timeout(600)

QUESTIONS = (
    ("What is the largest animal?", "blue whale"),
    ("你好", "modelrack"),
    ("How do you say hello in Japanese?", "こんにちは"),
)

# One request after the other gives the same rounding only without what is compiled by the batch's size.
SMALL = {"enforce_eager": True, "dtype": "float32", "kv_cache_gb": 0.25, "max_num_seqs": 16}

SEEING = """\
{%- for message in messages %}{{ '<|im_start|>' + message.role + '\\n' }}
{%- if message.content is string %}{{ message.content }}
{%- else %}{% for part in message.content %}{{ '<image>' if part.type == 'image' else part.text }}{% endfor %}
{%- endif %}{{ '<|im_end|>\\n' }}{%- endfor %}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{%- endif %}"""


def _drafting(model: Path) -> Mapping[str, Any]:
    return {"prompt_lookup": 3}


def _models() -> dict[str, Any]:
    models = hf_models(images=True, draft=_drafting)
    # vLLM's own code for LLaVA wants torchvision, and there is none for the CPU's torch. That of Transformers leaves it
    # to the template to say where an image stands.
    models["seeing"] = replace(models["seeing"], options={"model_impl": "transformers", "chat_template": SEEING})
    return models


class TestVllm(LLMConformance):
    subject = Subject(engine="vLLM", models=_models(), options=SMALL, launch_s=300, questions={"demo-chat": QUESTIONS})

    @pytest.fixture(scope="class", autouse=True)
    @classmethod
    def _in_its_environment(cls, vllm_environment: str) -> Iterator[None]:
        plain = cls.subject
        cls.subject = replace(plain, environment=vllm_environment)
        yield
        cls.subject = plain


def test_greedy_answers_are_those_of_other_engines(tmp_path: Path, vllm_environment: str) -> None:
    check_agreement(tmp_path, "vLLM", environment=vllm_environment, options={"vLLM": SMALL}, launch_s=300)
