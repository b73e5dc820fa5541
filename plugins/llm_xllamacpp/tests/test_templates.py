"""Which chat templates are plain, and that what is made of them is what the engine makes; the first part is pure."""

from pathlib import Path
from typing import Any

import pytest
from llama_worker import Start

from modelrack.testing.gguf import CHATML
from modelrack_llm_xllamacpp.templates import is_plain

CHAT = "/v1/chat/completions"

PLAIN = [
    CHATML,
    "{%- for m in messages -%}{{ m.role + ': ' + m.content }}\n{% endfor %}{% if add_generation_prompt %}A:{% endif %}",
    "{{ bos_token }}{% for message in messages %}{% if message['role'] == 'user' %}{{ '[INST] ' + message['content'] }}"
    "{% elif message['role'] == \"system\" and loop.first %}<<{{ message['content'] }}>>{% else %}"
    "{{ message['content'] + eos_token }}{% endif %}{% endfor %}",
]
OTHER = [
    "",
    "no loop",
    "{% for m in messages %}{{ m.content | trim }}{% endfor %}",
    "{% for m in messages %}{{ m.content.strip() }}{% endfor %}",
    "{% for m in messages %}{% if m.content %}{{ m.content }}{% endif %}{% endfor %}",
    "{% for m in messages %}{% if 'x' in m.content %}!{% endif %}{{ m.content }}{% endfor %}",
    "{% for m in messages %}{% if m['content'] == 'x' %}!{% endif %}{{ m.content }}{% endfor %}",
    "{% for m in messages %}{{ m.content if m.role == 'user' else '' }}{% endfor %}",
    "{% for m in messages %}{{ m.content }}{% endfor %}{{ strftime_now('%Y') }}",
    "{% for m in messages %}{{ m.content }}{% endfor %}{{ tools }}",
    "{% for m in messages %}{{ m.content }}{% endfor %}{{ mood }}",
    "{% set x = 1 %}{% for m in messages %}{{ m.content }}{% endfor %}",
    "{% for m in messages[1:] %}{{ m.content }}{% endfor %}",
    "{# note #}{% for m in messages %}{{ m.content }}{% endfor %}",
    "{% for m in messages %}{{ m.content[0] }}{% endfor %}",
    "{% for m in messages %}{{ raise_exception('no') }}{% endfor %}",
    "{% for content in messages %}{% if content %}x{% endif %}{% endfor %}",
]


@pytest.mark.parametrize("template", PLAIN)
def test_plain_templates(template: str) -> None:
    assert is_plain(template)


@pytest.mark.parametrize("template", OTHER)
def test_templates_that_look_at_more_than_roles(template: str) -> None:
    assert not is_plain(template)


CONVERSATIONS = [
    [{"role": "user", "content": "hello"}],
    [{"role": "user", "content": "  hello <|im_end|>\n\n"}],
    [{"role": "system", "content": "be"}, {"role": "user", "content": ""}],
    [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b "}, {"role": "user", "content": "{{ c }}"}],
]


@pytest.mark.parametrize("template", PLAIN)
def test_prompts_are_what_the_engine_makes(start: Start, tiny_model: Path, template: str) -> None:
    """The first chat with its roles is the engine's, later ones are put together here: both have the same prompt."""
    worker = start(tiny_model, chat_template=template, n_parallel=1, cache_prompt=False)
    worker.wait("ready")
    for messages in CONVERSATIONS:
        body: dict[str, Any] = {"messages": messages, "max_tokens": 8, "temperature": 0}
        answers = [worker.ok(CHAT, **body) for _ in range(3)]
        told = [(answer["choices"], answer["usage"]["prompt_tokens"]) for answer in answers]
        assert told[0] == told[1] == told[2]
        count = worker.ok("/v1/tokenize", messages=messages)["count"]
        assert told[0][1] == count
        streamed = "".join(event["choices"][0]["delta"]["content"] for event in worker.events(CHAT, **body))
        assert streamed == told[0][0][0]["message"]["content"]
    assert worker.stop() == 0
