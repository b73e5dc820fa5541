"""Answers that are not quite of their form: what is a call stays one, and the rest comes back as content."""

import pytest

from llm.formats.shapes import TOOLS, Read, named, read
from modelrack.llm.formats import ParserContext
from modelrack.llm.formats.choice import TAGGED, Chosen, make_parser
from modelrack.llm.formats.known import Glm, Llama

W, PARIS = "get_weather", '{"city": "Paris"}'
CALL = '{"name": "get_weather", "arguments": {"city": "Paris"}}'

ANSWERS: list[tuple[str, str, str, str, list[tuple[str, str]]]] = [
    ("a brace is missing", "hermes", f"<tool_call>{CALL[:-1]}</tool_call>", "", [(W, PARIS)]),
    ("a brace too many", "hermes", f"<tool_call>{CALL}}}</tool_call>\nok", "}\nok", [(W, PARIS)]),
    ("no end mark, a second call", "hermes", f"<tool_call>{CALL}\n<tool_call>{CALL}", "", [(W, PARIS)] * 2),
    ("text after the object", "hermes", f"<tool_call>{CALL} sure?</tool_call> yes", "sure? yes", [(W, PARIS)]),
    ("a list", "hermes", f"<tool_call>[{CALL}, {CALL}]</tool_call>", "", [(W, PARIS)] * 2),
    ("nothing", "hermes", "<tool_call></tool_call>", "<tool_call></tool_call>", []),
    ("an empty list", "nemotron", "<TOOLCALL>[]</TOOLCALL>", "<TOOLCALL>[]</TOOLCALL>", []),
    ("a list of others", "nemotron", '<TOOLCALL>[{"a": 1}]', '<TOOLCALL>[{"a": 1}]', []),
    ("a list of a bracket", "nemotron", '<TOOLCALL>[}"name": "f"}', '<TOOLCALL>[}"name": "f"}', []),
    ("a list of no objects", "nemotron", "<TOOLCALL>[1, {}]", "<TOOLCALL>[1, {}]", []),
    ("words", "hermes", "Use <tool_call> and </tool_call>.", "Use <tool_call> and </tool_call>.", []),
    ("no name", "hermes", '<tool_call>{"a": 1}</tool_call>', '<tool_call>{"a": 1}</tool_call>', []),
    ("no arguments", "hermes", '<tool_call>{"name": "get_time"}</tool_call>', "", [("get_time", "{}")]),
    ("null arguments", "hermes", '<tool_call>{"name": "f", "arguments": null}</tool_call>', "", [("f", "{}")]),
    (
        "arguments as a string",
        "hermes",
        '<tool_call>{"name": "f", "arguments": "{\\"city\\": \\"Paris\\"}"}</tool_call>',
        "",
        [("f", PARIS)],
    ),
    (
        "arguments as another string",
        "hermes",
        '<tool_call>{"name": "f", "arguments": "a \\"b\\""}</tool_call>',
        "",
        [("f", '"a \\"b\\""')],
    ),
    (
        "a line break within a string",
        "hermes",
        '<tool_call>{"name": "f", "arguments": {"a": "x\ny"}}</tool_call>',
        "",
        [("f", '{"a": "x\\ny"}')],
    ),
    (
        "arguments that are no JSON",
        "hermes",
        '<tool_call>{"name": "f", "arguments": {"a": <1>}}</tool_call>.',
        "<1>}}.",
        [("f", '{"a": ')],
    ),
    ("cut off within the name", "hermes", '<tool_call>{"name": "get_we', '<tool_call>{"name": "get_we', []),
    ("cut off after the name", "hermes", '<tool_call>{"name": "get_weather", "argu', "", [(W, "")]),
    ("cut off within the arguments", "hermes", f"<tool_call>{CALL[:-4]}", "", [(W, '{"city": "Pari')]),
    ("cut off within the end mark", "hermes", f"<tool_call>{CALL}</tool_", "", [(W, PARIS)]),
    ("cut off within the first mark", "hermes", "I <tool_", "I <tool_", []),
    ("an unknown tool, with its mark", "hermes", f"<tool_call>{CALL.replace(W, 'g')}</tool_call>", "", [("g", PARIS)]),
    ("an unknown tool, bare", "llama3", CALL.replace(W, "g"), CALL.replace(W, "g"), []),
    ("an object that is no call", "llama3", '{"name": "get_weather"}', '{"name": "get_weather"}', []),
    ("a list that is no call", "llama3", "[1, 2]\n[get_weather]", "[1, 2]\n[get_weather]", []),
    ("an object within a line", "llama3", f"So: {CALL}", f"So: {CALL}", []),
    ("an object on a line of its own", "llama3", f"So:\n{CALL}\nDone.", "So:Done.", [(W, PARIS)]),
    ("code behind the mark", "llama3", "<|python_tag|>import os", "<|python_tag|>import os", []),
    ("code in a fence", "gemma", '```tool_code\nprint("x")\n```', '```tool_code\nprint("x")\n```', []),
    ("JSON in a fence", "gemma", '```json\n{"a": 1}\n```', '```json\n{"a": 1}\n```', []),
    ("a positional argument too many", "gemma", "[get_time(1)]", "1)]", [("get_time", "")]),
    ("a word between marks", "glm4", "<tool_call>nothing</tool_call>", "<tool_call>nothing</tool_call>", []),
    (
        "the parameter's end is missing",
        "qwen3-coder",
        "<tool_call><function=f>\n<parameter=a>\n1\n<parameter=b>\n2\n</function></tool_call>",
        "",
        [("f", '{"a": 1, "b": 2}')],
    ),
    (
        "text between parameters",
        "qwen3-coder",
        "<tool_call><function=f><parameter=a>1</parameter>oops</function></tool_call>",
        "oops</function>",
        [("f", '{"a": 1}')],
    ),
    ("fence left out", "deepseek", f"<｜tool▁call▁begin｜>function<｜tool▁sep｜>f\n{PARIS}", "", [("f", PARIS)]),
    ("no separator", "mistral", "[TOOL_CALLS]get weather", "[TOOL_CALLS]get weather", []),
    ("text after the call", "mistral", f"[TOOL_CALLS]f[ARGS]{PARIS} done, ok", "done, ok", [("f", PARIS)]),
    ("plain text", "harmony", "Hello <|world|>.", "Hello <|world|>.", []),
    ("no end between messages", "harmony", "<|channel|>final<|message|>a<|start|>assistant", "a", []),
]


@pytest.mark.parametrize(
    ("format_name", "text", "content", "calls"), [row[1:] for row in ANSWERS], ids=[row[0] for row in ANSWERS]
)
def test_what_is_not_quite_of_its_form(format_name: str, text: str, content: str, calls: list[tuple[str, str]]) -> None:
    chosen = Chosen(named(format_name), named(format_name) if format_name == "harmony" else None)
    expected = Read(content, "", [name for name, _ in calls], [arguments for _, arguments in calls])
    for pieces in ([text], text):
        assert read(make_parser(chosen, ParserContext(tools=TOOLS)), pieces) == expected


def test_a_mark_that_reasoning_is_about_is_reasoning() -> None:
    chosen = Chosen(named("hermes"), TAGGED, ("<think>", "</think>"))
    text = f"<think>I write <tool_call> now.</think>\n<tool_call>{CALL}</tool_call>"
    found = read(make_parser(chosen, ParserContext(tools=TOOLS)), text)
    assert found == Read("", "I write <tool_call> now.", [W], [PARIS])


def test_white_space_is_kept_where_nothing_follows() -> None:
    chosen = Chosen(named("hermes"), None)
    for text in (" a \n\n b \n\n", "\n", "a\n<tool_cal", " " * 10_000):
        for pieces in ([text], text):
            assert read(make_parser(chosen, ParserContext(tools=TOOLS)), pieces) == Read(text)


@pytest.mark.parametrize("parser", [Glm, Llama])
def test_without_tools_a_parser_takes_nothing_that_has_no_mark(parser: type[Glm | Llama]) -> None:
    for text in (CALL, f"get_weather\n{PARIS}", '[get_weather(city="Paris")]', "f\n{}"):
        assert read(parser(ParserContext()), text) == Read(text)
