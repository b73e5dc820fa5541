"""What a launch can add to a model: other templates, adapters, draft models."""

from pathlib import Path
from typing import Any

import orjson
import pytest
from llama_worker import Start

CHAT = "/v1/chat/completions"
HELLO = [{"role": "user", "content": "hello"}]
TOOL = {
    "type": "function",
    "function": {
        "name": "switch",
        "parameters": {
            "type": "object",
            "properties": {"on": {"type": "boolean"}},
            "required": ["on"],
            "additionalProperties": False,
        },
    },
}
HERMES = r"""
{%- if tools %}{{- '<|im_start|>system\n# Tools\n<tools>' }}{%- for tool in tools %}{{- "\n" }}{{- tool | tojson }}
{%- endfor %}{{- "\n</tools>\nCall one with a JSON object in <tool_call></tool_call> tags:\n<tool_call>\n
{\"name\": <function-name>, \"arguments\": <args-json-object>}\n</tool_call><|im_end|>\n" }}{%- endif %}
{%- for message in messages %}{%- if message.role == "assistant" and message.tool_calls %}
{{- '<|im_start|>assistant' }}{%- if message.content %}{{- '\n' + message.content }}{%- endif %}
{%- for tool_call in message.tool_calls %}{%- set tool_call = tool_call.function %}
{{- '\n<tool_call>\n{"name": "' + tool_call.name + '", "arguments": ' }}{{- tool_call.arguments | tojson }}
{{- '}\n</tool_call>' }}{%- endfor %}{{- '<|im_end|>\n' }}{%- else %}
{{- '<|im_start|>' + message.role + '\n' + message.content + '<|im_end|>\n' }}{%- endif %}{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n' }}{%- endif %}
"""
THINKING = r"""
{%- for m in messages %}{%- if m.role == 'assistant' and m.reasoning_content %}
{{- '<|im_start|>assistant\n<think>\n' + m.reasoning_content + '\n</think>\n\n' + m.content + '<|im_end|>\n' }}
{%- else %}{{- '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{%- endif %}{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n' }}
{%- if enable_thinking is defined and not enable_thinking %}{{- '<think>\n\n</think>\n\n' }}{% endif %}{% endif %}
"""


def test_a_template_with_tools(start: Start, tiny_model: Path) -> None:
    worker = start(tiny_model, chat_template=HERMES, n_parallel=1)
    worker.wait("ready")
    plain = worker.ok(CHAT, messages=HELLO, max_tokens=3, temperature=0)
    with_tools = worker.ok(CHAT, messages=HELLO, max_tokens=3, temperature=0, tools=[TOOL])
    assert with_tools["usage"]["prompt_tokens"] > plain["usage"]["prompt_tokens"] + 50
    for choice in ("required", {"type": "function", "function": {"name": "switch"}}):
        answer = worker.ok(CHAT, messages=HELLO, max_tokens=60, tools=[TOOL], tool_choice=choice)["choices"][0]
        (call,) = answer["message"]["tool_calls"]
        assert isinstance(orjson.loads(call["function"]["arguments"])["on"], bool)
        assert answer["finish_reason"] == "tool_calls"
        calls = [{**call, "id": "c"}]
        messages = [*HELLO, {"role": "assistant", "content": None, "tool_calls": calls}]
        messages.append({"role": "tool", "tool_call_id": "c", "content": "done"})
        assert worker.ok(CHAT, messages=messages, max_tokens=3)["choices"]
    none = worker.ok(CHAT, messages=HELLO, max_tokens=3, tools=[TOOL], tool_choice="none")
    assert "tool_calls" not in none["choices"][0]["message"]
    assert worker.stop() == 0


@pytest.mark.parametrize("stream", [False, True])
def test_reasoning_is_told_apart(start: Start, tiny_model: Path, stream: bool) -> None:
    """A grammar makes the random model think; what it thinks is not its answer."""
    worker = start(tiny_model, chat_template=THINKING, n_parallel=1)
    worker.wait("ready")
    body: dict[str, Any] = {
        "messages": HELLO,
        "guided_grammar": 'root ::= "<think>\\nabc\\n</think>\\n\\ndef"',
        "max_tokens": 60,
    }
    if stream:
        deltas = [event["choices"][0]["delta"] for event in worker.events(CHAT, **body)]
        assert all(isinstance(delta["content"], str) for delta in deltas)
        found = {name: "".join(delta.get(name) or "" for delta in deltas) for name in ("reasoning_content", "content")}
    else:
        found = worker.ok(CHAT, **body)["choices"][0]["message"]
    assert found["reasoning_content"].strip() == "abc"
    assert found["content"].strip() == "def"
    assert worker.stop() == 0


def write_adapter(path: Path) -> Path:
    """Write a LoRA adapter for the tiny model, with random weights."""
    import gguf
    import numpy as np

    random = np.random.default_rng(1)
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_type("adapter")
    writer.add_string("adapter.type", "lora")
    writer.add_float32("adapter.lora.alpha", 64.0)
    for layer in range(4):
        name = f"blk.{layer}.attn_output.weight"
        writer.add_tensor(f"{name}.lora_a", random.standard_normal((4, 128), dtype=np.float32))
        writer.add_tensor(f"{name}.lora_b", random.standard_normal((128, 4), dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_an_adapter_is_used_when_named(start: Start, tiny_model: Path, tmp_path: Path, bare_text: str) -> None:
    worker = start(tiny_model, n_parallel=2, lora=(("style", str(write_adapter(tmp_path / "lora.gguf"))),))
    worker.wait("ready")

    def ask(**fields: Any) -> str:
        answer = worker.ok(CHAT, messages=HELLO, max_tokens=24, temperature=0, **fields)
        return str(answer["choices"][0]["message"]["content"])

    assert ask() == bare_text
    assert ask(lora_name="style") != bare_text
    assert ask() == bare_text
    response = worker.post(CHAT, messages=HELLO, lora_name="other")
    assert response.status_code == 400
    assert "style" in response.json()["error"]["message"]
    assert worker.stop() == 0


def test_a_draft_model_changes_nothing_but_the_speed(start: Start, tiny_model: Path, bare_text: str) -> None:
    worker = start(tiny_model, n_parallel=1, draft_model=str(tiny_model))
    worker.wait("ready")
    answer = worker.ok(CHAT, messages=HELLO, max_tokens=24, temperature=0)
    assert answer["choices"][0]["message"]["content"] == bare_text
    assert answer["usage"]["completion_tokens"] == 24
    assert worker.stop() == 0


def test_one_cache_for_all(start: Start, tiny_model: Path) -> None:
    worker = start(tiny_model, n_ctx=1024, kv_unified=True, n_parallel=4)
    assert worker.wait("ready")["facts"]["context_length"] == 1024
    assert worker.ok(CHAT, messages=HELLO, max_tokens=3, n=4)["usage"]["completion_tokens"] == 12
    assert worker.stop() == 0


def test_stop_strings_of_the_family_end_a_chat(start: Start, tiny_model: Path, bare_text: str) -> None:
    worker = start(tiny_model, n_parallel=1, stop=(bare_text[5:8],))
    worker.wait("ready")
    for _ in range(2):
        choice = worker.ok(CHAT, messages=HELLO, max_tokens=24, temperature=0)["choices"][0]
        assert choice["message"]["content"] == bare_text[: bare_text.index(bare_text[5:8])]
        assert choice["finish_reason"] == "stop"
    assert worker.stop() == 0
