"""Messages of every kind, made fit for templates that can less or other things."""

import base64
from typing import Any

import pytest

from llm_rig import Rig, make_plan
from llm_scripted import TEMPLATE, ScriptedModel
from modelrack.errors import BadRequest
from modelrack.llm.contract import MediaPrompt
from modelrack.llm.prompts import find_abilities
from modelrack.llm.template import ChatTemplate

CALL = {"id": "c", "type": "function", "function": {"name": "f", "arguments": '{"a": 1}'}}
CHAT: list[dict[str, Any]] = [
    {"role": "developer", "content": "Be kind.", "name": None},
    {"role": "user", "content": [{"type": "text", "text": "hel"}, {"type": "text", "text": "lo"}]},
    {"role": "assistant", "content": None, "tool_calls": [CALL], "reasoning": "hm", "audio": None},
    {"role": "tool", "tool_call_id": "c", "content": "done", "name": "f"},
]
OPENING = "{% for m in messages %}"
END = "{% endfor %}"


def fits(template: str) -> Any:
    """Return what a template can do."""
    return find_abilities(ChatTemplate(template, {}))


AS_TEXT = '[{"name":"f","arguments":{"a":1}}]'
FIRST = "m.tool_calls[0].function"
STRICT = "{% if m.role not in ['user', 'assistant'] %}{{ raise_exception('no') }}{% endif %}"
NULL = f"{{{{ ({FIRST} | tojson) if m.tool_calls and m.content is none else m.content }}}}"


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ("{{ m.content }}", f"system:Be kind.;user:hello;assistant:{AS_TEXT};tool:done;"),
        (
            f"{{{{ m.content }}}}{{{{ {FIRST} | tojson if m.tool_calls }}}}",
            'system:Be kind.;user:hello;assistant:{"name": "f", "arguments": {"a": 1}};tool:done;',
        ),
        (
            f"{{{{ m.content }}}}{{{{ {FIRST}.name + {FIRST}.arguments if m.tool_calls }}}}",
            'system:Be kind.;user:hello;assistant:f{"a": 1};tool:done;',
        ),
        ("{{ m.content[0].text if m.content }}", f"system:Be kind.;user:hello;assistant:{AS_TEXT};tool:done;"),
        (
            STRICT + "{{ m.content }}",
            f"user:Be kind.\n\nhello;assistant:{AS_TEXT};user:Result of f: done;",
        ),
        (NULL, 'system:Be kind.;user:hello;assistant:{"name": "f", "arguments": {"a": 1}};tool:done;'),
        ("{# developer #}{{ m.content }}", f"developer:Be kind.;user:hello;assistant:{AS_TEXT};tool:done;"),
        (
            "{{ m.content }}<{{ m.reasoning_content }}>",
            f"system:Be kind.<>;user:hello<>;assistant:{AS_TEXT}<hm>;tool:done<>;",
        ),
        (
            "{{ m.content }}{% for tool in tools %}{{ tool }}{% endfor %}",
            f"system:Be kind.;user:hello;assistant:{AS_TEXT};tool:done;",
        ),
    ],
)
async def test_messages_are_made_fit(body: str, expected: str) -> None:
    template = "{% for m in messages %}{{ m.role }}:" + body + ";{% endfor %}"
    rig = Rig(ScriptedModel("x", chat_template=template, adds_bos=False))
    await rig.chat(messages=CHAT)
    assert rig.prompt() == expected


def test_abilities_are_found_by_looking() -> None:
    plain = fits(OPENING + "{{ m.role }}{{ m.content }}" + END)
    assert (plain.system, plain.tools, plain.tool_calls, plain.tool_results) == (True, False, False, True)
    strict = fits(
        OPENING
        + "{% if m.role not in ['user', 'assistant'] %}{{ raise_exception('no') }}{% endif %}{{ m.content }}"
        + END
    )
    assert (strict.system, strict.tool_results) == (False, False)
    assert fits("{{ tools | tojson if tools }}" + OPENING + "{{ m.content }}" + END).tools
    renamed = "{% if custom is defined %}{% set tools = custom %}{% endif %}{{ tools | tojson if tools }}"
    assert fits(renamed + OPENING + "{{ m.content }}" + END).tools


async def test_old_functions_are_tools() -> None:
    rig = Rig(ScriptedModel("x"))
    messages = [
        {"role": "user", "content": "hello"},
        {"role": "assistant", "content": "", "function_call": {"name": "f", "arguments": "{}"}},
        {"role": "function", "name": "f", "content": "done"},
    ]
    await rig.chat(messages=messages)
    assert "<tool>done</tool>" in rig.prompt()


IMAGE = {"type": "image_url", "image_url": {"url": "data:image/png;base64," + base64.b64encode(b"picture").decode()}}


async def test_images_stand_where_they_were() -> None:
    rig = Rig(ScriptedModel("x", media_mark="<image>"))
    parts = [{"type": "text", "text": "a"}, IMAGE, {"type": "text", "text": "b"}]
    await rig.chat(messages=[{"role": "user", "content": parts}])
    prompt = rig.model.generations[-1].prompt
    assert isinstance(prompt, MediaPrompt)
    assert prompt.images == (b"picture",)
    assert prompt.text == "<user>a<image>b</user><assistant>"


@pytest.mark.parametrize(
    ("part", "words"),
    [
        ({"type": "image_url", "image_url": {"url": "http://localhost/x.png"}}, "not public"),
        ({"type": "image_url", "image_url": {"url": "file:///etc/passwd"}}, "http, https and data: URLs"),
        ({"type": "image_url", "image_url": {"url": "data:image/png,abc"}}, "base64"),
        ({"type": "image_url", "image_url": {"url": "data:image/png;base64,%%%"}}, "not base64"),
        ({"type": "image_url", "image_url": {"url": "data:image/png;base64,"}}, "empty"),
        ({"type": "input_audio", "input_audio": {"data": "x", "format": "wav"}}, "reads text and images"),
    ],
)
async def test_images_that_cannot_be_read_are_refused(part: dict[str, Any], words: str) -> None:
    with pytest.raises(BadRequest, match=words) as caught:
        await Rig(ScriptedModel("x", media_mark="<image>")).chat(messages=[{"role": "user", "content": [part]}])
    assert caught.value.param == "messages.0.content.0"


async def test_a_text_cannot_pretend_to_be_an_image() -> None:
    with pytest.raises(BadRequest, match="must not have the text"):
        await Rig(ScriptedModel("x", media_mark="<image>")).chat(messages=[{"role": "user", "content": "<image>"}])


async def test_images_need_a_model_that_sees_and_it_is_said_who_can() -> None:
    rig = Rig(ScriptedModel("x"), make_plan(feature_engines={"images": ("other",)}))
    with pytest.raises(BadRequest) as caught:
        await rig.chat(messages=[{"role": "user", "content": [IMAGE]}])
    assert caught.value.param == "messages.0.content.0"
    assert caught.value.remedy == "Engines that can: other."


async def test_the_template_of_the_launch_wins() -> None:
    rig = Rig(
        ScriptedModel("x", chat_template=TEMPLATE), make_plan(chat_template="{{ raise_exception('the family') }}")
    )
    assert (await rig.chat())["message"]["content"] == "x"
