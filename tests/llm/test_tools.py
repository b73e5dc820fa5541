"""Tool calls and reasoning: of the model's own accord, forced, streamed, and what constraints have to do with them."""

from typing import Any

import orjson
import pytest

from llm_rig import HELLO, Rig, make_plan
from llm_scripted import SPECIAL, TEMPLATE, ScriptedModel, ids
from modelrack.errors import BadRequest
from modelrack.llm.formats.base import CallArguments, CallStart, Content, ParserContext, Piece
from modelrack.llm.tools import ForcedParser, ForcedTools, introduce

TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "get_weather",
            "description": "Tell the weather.",
            "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
        },
    },
    {"type": "function", "function": {"name": "now", "strict": True}},
]
TOOL_TEMPLATE = (
    "{% if tools %}<tools>{{ tools | tojson }}</tools> Write <tool_call>{}</tool_call>.{% endif %}"
    "{% for m in messages %}<{{ m.role }}>{{ m.content }}"
    "{% for call in m.tool_calls or [] %}<tool_call>{{ call.function | tojson }}</tool_call>{% endfor %}"
    "</{{ m.role }}>{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}"
)  # fmt: skip
THINKING = TEMPLATE + "{% if enable_thinking is defined and not enable_thinking %}<think>\n\n</think>\n\n{% endif %}"
CALL = '<tool_call>{"name": "get_weather", "arguments": {"city": "Köln"}}</tool_call>'


def add_up(events: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the message that a stream's chunks add up to."""
    message: dict[str, Any] = {"content": "", "reasoning_content": "", "calls": []}
    for event in events:
        for choice in event["choices"]:
            delta = choice["delta"]
            message["content"] += delta["content"]
            message["reasoning_content"] += delta.get("reasoning_content", "")
            for call in delta.get("tool_calls", ()):
                if "id" in call:
                    message["calls"].append([call["function"]["name"], ""])
                message["calls"][call["index"]][1] += call["function"]["arguments"]
            message["finish"] = choice["finish_reason"]
    return message


@pytest.mark.parametrize("step_tokens", [1, 4])
@pytest.mark.parametrize(
    ("script", "content", "calls"),
    [
        ("Let me see.\n" + CALL, "Let me see.", [("get_weather", {"city": "Köln"})]),
        (CALL + "\n" + CALL, None, [("get_weather", {"city": "Köln"})] * 2),
        ("No call here.", "No call here.", []),
        ("<tool_call>no JSON", "<tool_call>no JSON", []),
    ],
)
async def test_calls_of_its_own_accord(script: str, content: str | None, calls: list[Any], step_tokens: int) -> None:
    rig = Rig(ScriptedModel(script, chat_template=TOOL_TEMPLATE, step_tokens=step_tokens))
    choice = await rig.chat(tools=TOOLS)
    message = choice["message"]
    found = message.get("tool_calls", [])
    assert [(one["function"]["name"], orjson.loads(one["function"]["arguments"])) for one in found] == calls
    assert (message["content"] or "").strip() == (content or "")
    assert choice["finish_reason"] == ("tool_calls" if calls else "stop")
    assert len({one["id"] for one in found}) == len(found)
    streamed = add_up(await rig.chat_stream(tools=TOOLS))
    assert streamed["content"] == (message["content"] or "")
    assert streamed["calls"] == [[one["function"]["name"], one["function"]["arguments"]] for one in found]
    assert streamed["finish"] == choice["finish_reason"]


async def test_parallel_calls_may_be_forbidden() -> None:
    rig = Rig(ScriptedModel(CALL + CALL, chat_template=TOOL_TEMPLATE))
    assert len((await rig.chat(tools=TOOLS))["message"]["tool_calls"]) == 2
    assert len((await rig.chat(tools=TOOLS, parallel_tool_calls=False))["message"]["tool_calls"]) == 1
    assert len(add_up(await rig.chat_stream(tools=TOOLS, parallel_tool_calls=False))["calls"]) == 1


async def test_tools_are_shown_but_not_called_with_none() -> None:
    rig = Rig(ScriptedModel(CALL, chat_template=TOOL_TEMPLATE))
    choice = await rig.chat(tools=TOOLS, tool_choice="none")
    assert "get_weather" in rig.prompt()
    assert '"strict"' not in rig.prompt()
    assert "tool_calls" not in choice["message"]
    assert choice["finish_reason"] == "stop"


@pytest.mark.parametrize("template", [TEMPLATE, TOOL_TEMPLATE])
@pytest.mark.parametrize("step_tokens", [1, 9])
async def test_a_named_call_is_forced_and_streams_as_it_is_written(template: str, step_tokens: int) -> None:
    rig = Rig(ScriptedModel('{"city": "Köln"}', chat_template=template, step_tokens=step_tokens))
    named = {"type": "function", "function": {"name": "get_weather"}}
    choice = await rig.chat(tools=TOOLS, tool_choice=named)
    constraint = rig.model.generations[-1].constraint
    assert constraint is not None
    assert constraint.value == TOOLS[0]["function"]["parameters"]  # type: ignore[index]  # an object
    assert constraint.field == "tools"
    assert choice["finish_reason"] == "tool_calls"
    assert choice["message"]["content"] is None
    (call,) = choice["message"]["tool_calls"]
    assert call["function"] == {"name": "get_weather", "arguments": '{"city": "Köln"}'}
    events = await rig.chat_stream(tools=TOOLS, tool_choice=named)
    assert add_up(events)["calls"] == [["get_weather", '{"city": "Köln"}']]
    if step_tokens == 1:
        assert sum(1 for event in events if event["choices"][0]["delta"].get("tool_calls")) > 10
    assert ("get_weather" in rig.prompt()) and ("You can call" in rig.prompt()) == (template == TEMPLATE)


async def test_some_call_is_required() -> None:
    text = '{"name": "get_weather", "arguments": {"city": "a}\\"]{"}}'
    rig = Rig(ScriptedModel(text))
    for streamed in (False, True):
        if streamed:
            (call,) = add_up(await rig.chat_stream(tools=TOOLS, tool_choice="required"))["calls"]
        else:
            (found,) = (await rig.chat(tools=TOOLS, tool_choice="required"))["message"]["tool_calls"]
            call = [found["function"]["name"], found["function"]["arguments"]]
        assert call == ["get_weather", '{"city": "a}\\"]{"}']
    several = f'[{text}, {{"name": "now", "arguments": {{}}}}]'
    rig = Rig(ScriptedModel(several))
    choice = await rig.chat(tools=TOOLS, tool_choice="required", parallel_tool_calls=True)
    assert [one["function"]["name"] for one in choice["message"]["tool_calls"]] == ["get_weather", "now"]
    constraint = rig.model.generations[-1].constraint
    assert constraint is not None
    assert constraint.value["type"] == "array"


def read_forced(pieces: list[str]) -> list[Any]:
    """Return the calls in some pieces of text, and the content."""
    parser = ForcedParser(ParserContext(), ForcedTools(TOOLS, None, True))
    found: list[Any] = []
    parts: list[Piece] = [out for piece in pieces for out in parser.feed(piece)]
    for part in [*parts, *parser.finish()]:
        if isinstance(part, CallStart):
            found.append([part.name, ""])
        elif isinstance(part, CallArguments):
            found[part.index][1] += part.text
        elif isinstance(part, Content):
            found.append(part.text)
    return found


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('{"name": "f", "arguments": {"a": [1, {"b": "}"}]}}', [["f", '{"a": [1, {"b": "}"}]}']]),
        (
            '[{"name":"f","arguments":{}},\n {"name":"g\\"","arguments":{"x":"\\\\"}}]',
            [["f", "{}"], ['g"', '{"x":"\\\\"}']],
        ),
        ('{"name": "f", "arguments": {"a": "cut', [["f", '{"a": "cut']]),
        ('{"name": "f", "argu', ['{"name": "f", "argu']),
        ("no JSON at all", ["no JSON at all"]),
    ],
)  # fmt: skip
def test_forced_calls_are_read_however_they_are_cut(text: str, expected: list[Any]) -> None:
    assert read_forced([text]) == expected
    assert read_forced(list(text)) == expected
    for place in range(len(text)):
        assert read_forced([text[:place], text[place:]]) == expected


async def test_what_tools_cannot_do_is_refused() -> None:
    for template, fields, words in (
        (TEMPLATE, {}, "knows no tools"),
        (TOOL_TEMPLATE, {"response_format": {"type": "json_object"}}, "together with a constraint"),
    ):
        with pytest.raises(BadRequest, match=words) as caught:
            await Rig(ScriptedModel("x", chat_template=template)).chat(tools=TOOLS, **fields)
        assert caught.value.param == "tools"
    with pytest.raises(BadRequest, match="JSON schemas"):
        await Rig(ScriptedModel("x", constraints=frozenset())).chat(tools=TOOLS, tool_choice="required")


@pytest.mark.parametrize("step_tokens", [1, 3])
async def test_reasoning_is_split_off(step_tokens: int) -> None:
    rig = Rig(ScriptedModel("<think>\nHm, 日本.\n</think>\n\nYes.", chat_template=THINKING, step_tokens=step_tokens))
    message = (await rig.chat())["message"]
    assert message == {"role": "assistant", "content": "Yes.", "reasoning_content": "Hm, 日本."}
    streamed = add_up(await rig.chat_stream())
    assert (streamed["content"], streamed["reasoning_content"]) == ("Yes.", "Hm, 日本.")


async def test_thinking_is_switched_under_the_names_that_templates_have() -> None:
    rig = Rig(ScriptedModel("Yes.", chat_template=THINKING))
    await rig.chat(enable_thinking=False)
    assert rig.prompt().endswith("<think>\n\n</think>\n\n")
    await rig.chat(reasoning_effort="none")
    assert rig.prompt().endswith("<think>\n\n</think>\n\n")
    await rig.chat(enable_thinking=True)
    assert rig.prompt().endswith("<assistant>")
    rig = Rig(ScriptedModel("Yes.", chat_template=TEMPLATE + "{% if thinking %}<think>{% else %}</think>{% endif %}"))
    await rig.chat(enable_thinking=True)
    assert rig.prompt().endswith("<think>")
    with pytest.raises(BadRequest, match=r"reads no variable 'mood' .it reads: thinking.") as caught:
        await rig.chat(chat_template_kwargs={"mood": 1})
    assert caught.value.param == "chat_template_kwargs"


async def test_a_constraint_waits_for_the_end_of_the_reasoning() -> None:
    closing = 256 + SPECIAL.index("</think>")
    rig = Rig(ScriptedModel('Hm.</think>{"a": 1}', chat_template=THINKING))
    message = (await rig.chat(response_format={"type": "json_object"}))["message"]
    assert (message["content"], message["reasoning_content"]) == ('{"a": 1}', "Hm.")
    constraint = rig.model.generations[-1].constraint
    assert constraint is not None
    assert constraint.begins_after == (closing,)
    assert rig.prompt().endswith("<assistant><think>\n")
    await rig.chat(response_format={"type": "json_object"}, enable_thinking=False)
    constraint = rig.model.generations[-1].constraint
    assert constraint is not None
    assert constraint.begins_after == ()
    assert rig.prompt().endswith("<think>\n\n</think>\n\n")


async def test_where_the_closing_mark_is_no_token_the_reasoning_is_closed() -> None:
    plan = make_plan(reasoning_tags=("<reason>", "</reason>"))
    rig = Rig(ScriptedModel("[1]"), plan)
    message = (await rig.chat(guided_json={"type": "array"}))["message"]
    assert message["content"] == "[1]"
    assert rig.prompt().endswith("<reason>\n\n</reason>\n\n")
    constraint = rig.model.generations[-1].constraint
    assert constraint is not None
    assert constraint.begins_after == ()


async def test_an_answer_in_channels_begins_with_that_of_the_answer() -> None:
    """Closing a channel that was never opened would leave the answer within the reasoning."""
    template = (
        "{% for m in messages %}<|start|>{{ m.role }}<|message|>{{ m.content }}<|end|>{% endfor %}<|start|>assistant"
        "{# <|channel|>analysis<|message|> <|channel|>final<|message|> #}"
    )
    rig = Rig(ScriptedModel('{"a": 1}', chat_template=template))
    message = (await rig.chat(response_format={"type": "json_object"}))["message"]
    assert message == {"role": "assistant", "content": '{"a": 1}'}
    assert rig.prompt().endswith("<|start|>assistant<|channel|>final<|message|>")


async def test_what_a_model_does_anyway_may_be_asked_for() -> None:
    always = TEMPLATE + "<think>\n{# </think> #}"
    rig = Rig(ScriptedModel("hm</think>yes", chat_template=always))
    assert (await rig.chat(enable_thinking=True))["message"]["reasoning_content"] == "hm"
    with pytest.raises(BadRequest, match="enable_thinking"):
        await rig.chat(enable_thinking=False)


async def test_forced_calls_after_reasoning() -> None:
    rig = Rig(ScriptedModel('Hm.</think>{"city": "x"}', chat_template=THINKING))
    named = {"type": "function", "function": {"name": "get_weather"}}
    for message in (
        (await rig.chat(tools=TOOLS, tool_choice=named))["message"],
        add_up(await rig.chat_stream(tools=TOOLS, tool_choice=named)),
    ):
        assert message["reasoning_content"] == "Hm."
        assert not message["content"]


async def test_logprobs_go_with_tools_and_reasoning() -> None:
    rig = Rig(ScriptedModel("<think>a</think>" + CALL, chat_template=TOOL_TEMPLATE + "{# <think> </think> #}"))
    choice = await rig.chat(tools=TOOLS, logprobs=True)
    events = await rig.chat_stream(tools=TOOLS, logprobs=True)
    streamed = [one for event in events for one in (event["choices"][0]["logprobs"] or {"content": []})["content"]]
    assert streamed == choice["logprobs"]["content"]
    assert len(streamed) == len(ids("<think>a</think>" + CALL))


async def test_a_stop_string_counts_the_tokens_up_to_it() -> None:
    """What an engine has run ahead in the same step belongs to no answer."""
    for step_tokens in (1, 5, 50):
        rig = Rig(ScriptedModel("abcSTOP and much more", step_tokens=step_tokens))
        answer = await rig.ask("chat", messages=HELLO, stop="STOP")
        assert answer["usage"]["completion_tokens"] == 7


DEEP = 600
"""More than orjson writes, less than it reads."""


def test_tools_that_are_nested_too_deeply_are_refused() -> None:
    schema: dict[str, Any] = {"type": "object"}
    for _ in range(DEEP):
        schema = {"type": "array", "items": schema}
    tools = [{"type": "function", "function": {"name": "deep", "parameters": schema}}]
    with pytest.raises(BadRequest) as caught:
        introduce(HELLO, tools, has_system=True)
    assert caught.value.param == "tools"


async def test_arguments_that_are_nested_too_deeply_are_refused() -> None:
    function = {"name": "deep", "arguments": "[" * DEEP + "]" * DEEP}
    call = {"role": "assistant", "tool_calls": [{"id": "a", "type": "function", "function": function}]}
    with pytest.raises(BadRequest) as caught:
        await Rig(ScriptedModel("x")).chat(messages=[{"role": "user", "content": "x"}, call])
    assert caught.value.param == "messages"


def test_forced_calls_that_are_nested_too_deeply_are_given_as_they_came() -> None:
    arguments = '{"a": ' + "[" * DEEP + "]" * DEEP + "}"
    text = f'{{"name": "now", "arguments": {arguments}}}'
    (call,) = ForcedTools(TOOLS, None, False).read(text)
    assert call["function"]["name"] == "now"
    assert call["function"]["arguments"].startswith('{"a": [[[')
