"""The formats that the core brings, as its plugin registers them. The parsers are imported in workers only.

Marks are strings of the chat templates that models of these formats come with.
"""

from typing import Literal

from ...hooks.types import OutputFormat

__all__ = ["FORMATS"]


def _format(
    name: str,
    kind: Literal["tools", "reasoning", "both"],
    parser: str,
    marks: tuple[tuple[str, ...], ...],
    aliases: tuple[str, ...] = (),
) -> OutputFormat:
    return OutputFormat(
        name=name, kind=kind, parser=f"modelrack.llm.formats.known:{parser}", aliases=aliases, marks=marks
    )


_TOOLS = (
    _format(
        "hermes",
        "tools",
        "ToolCallTags",
        (("<tool_call>", "</tool_call>"), ("<tool_call>", "<function=", "<parameter=")),
        ("qwen", "qwen2", "qwen2.5", "qwen3", "qwen3-coder", "qwen3_coder", "granite4", "ernie", "mimo"),
    ),
    _format(
        "glm4",
        "tools",
        "Glm",
        (("<tool_call>", "<arg_key>", "<arg_value>"), ("[gMASK]", "<sop>", "<|observation|>")),
        ("glm", "glm45", "glm4.5", "glm47", "glm4.7", "glm5"),
    ),
    _format(
        "llama3",
        "tools",
        "Llama",
        (
            ("<|python_tag|>",),
            ('{"name": function name, "parameters": dictionary of argument name and its value}',),
            ("<|header_start|>", "<|python_start|>"),
            ("[func_name1(params_name1=params_value1",),
        ),
        ("llama", "llama3.1", "llama3.2", "llama4", "llama3_json", "llama4_pythonic", "pythonic"),
    ),
    _format("mistral", "tools", "Mistral", (("[TOOL_CALLS]",), ("[TOOL_CALLS]", "[ARGS]")), ("ministral", "devstral")),
    _format(
        "deepseek_v3",
        "tools",
        "DeepSeek",
        (
            ("<｜tool▁calls▁begin｜>", "<｜tool▁call▁begin｜>", "<｜tool▁sep｜>"),
            ("｜DSML｜", "invoke", "parameter"),
        ),
        (
            "deepseek",
            "deepseek-r1",
            "deepseek-v3",
            "deepseek-v3.1",
            "deepseek-v3.2",
            "deepseek-v4",
            "deepseek_v31",
            "deepseek_v32",
            "deepseek_v4",
        ),
    ),
    _format(
        "gemma",
        "tools",
        "Gemma",
        (
            ("<|tool_call>", "<tool_call|>"),
            ("<start_function_call>", "<end_function_call>"),
            ("```tool_code",),
        ),
        ("gemma3", "gemma4", "functiongemma"),
    ),
    _format(
        "minimax",
        "tools",
        "MiniMax",
        (
            ("<minimax:tool_call>", "<invoke", "<parameter"),
            ("]<]minimax[>[",),
            ("<beginning_of_sentence>", "<tool_calls>", "</tool_calls>"),
        ),
        ("minimax-m1", "minimax_m1", "minimax-m2", "minimax_m2", "minimax-m3", "minimax_m3"),
    ),
    _format(
        "kimi_k2",
        "tools",
        "KimiK2",
        (("<|tool_calls_section_begin|>", "<|tool_call_begin|>", "<|tool_call_argument_begin|>"),),
        ("kimi", "kimi-k2"),
    ),
    _format("granite", "tools", "Granite", (("<|start_of_role|>", "<|tool_call|>"),), ("granite3",)),
    _format(
        "phi4_mini",
        "tools",
        "Phi",
        (("<|tool|>", "<|/tool|>"), ("functools[",)),
        ("phi4", "phi4-mini", "firefunction"),
    ),
    _format(
        "cohere",
        "tools",
        "Cohere",
        (("<|START_ACTION|>", "<|END_ACTION|>"), ("<|START_OF_TURN_TOKEN|>", "Action:")),
        ("command-r", "command_r", "command-a"),
    ),
    _format("internlm", "tools", "InternLm", (("<|action_start|>", "<|plugin|>"),), ("internlm2", "internlm3")),
    _format("nemotron", "tools", "Nemotron", (("<TOOLCALL>", "</TOOLCALL>"),), ("nemotron_json",)),
    _format("xlam", "tools", "Xlam", (), ()),
    _format(
        "hunyuan",
        "tools",
        "Hunyuan",
        (("<tool_calls>", "</tool_calls>"), ("<tool_calls>", "<tool_sep>", "<arg_key>", "<arg_value>")),
        ("hunyuan_a13b", "hy_v3", "jamba"),
    ),
    _format("seed_oss", "tools", "SeedOss", (("<seed:tool_call>", "</seed:tool_call>"),), ("seed", "seed-oss")),
    _format(
        "step3",
        "tools",
        "Step",
        (("<｜tool_calls_begin｜>", "<｜tool_call_begin｜>", "<steptml:invoke"),),
        ("step3p5",),
    ),
    _format("lfm2", "tools", "Lfm2", (("<|tool_call_start|>", "<|tool_call_end|>"), ("<|tool_list_start|>",)), ()),
    _format("olmo3", "tools", "Olmo", (("<function_calls>", "</function_calls>"),), ("olmo",)),
    _format("longcat", "tools", "LongCat", (("<longcat_tool_call>",),), ()),
)

_REASONING = (
    _format("think", "reasoning", "Think", (("<think>", "</think>"),)),
    _format("think_unopened", "reasoning", "UnopenedThink", (("</think>",),)),
    _format("think_mistral", "reasoning", "MistralThink", (("[THINK]", "[/THINK]"),)),
    _format("think_seed", "reasoning", "SeedThink", (("<seed:think>", "</seed:think>"),)),
    _format("think_cohere", "reasoning", "CohereThinking", (("<|START_THINKING|>", "<|END_THINKING|>"),)),
    _format("think_kimi", "reasoning", "KimiThink", (("◁think▷", "◁/think▷"),)),
    _format("think_gemma", "reasoning", "GemmaThought", (("<|channel>", "<channel|>"),)),
    _format("think_minimax", "reasoning", "MiniMaxThink", (("<mm:think>", "</mm:think>"),)),
    _format(
        "think_granite",
        "reasoning",
        "GraniteWords",
        (("Here is my thought process:", "Here is my response:"), ("<|start_of_role|>", "<think>", "<response>")),
    ),
    _format("think_hunyuan", "reasoning", "HunyuanThink", (("<think>", "</think>", "<answer>"),)),
    _format("think_ernie", "reasoning", "Ernie", (("<think>", "</think>", "<response>"),)),
    _format("thought", "reasoning", "Thought", (("<thought>", "</thought>"),)),
    _format("think_words", "reasoning", "BeginOfThought", (("<|begin_of_thought|>", "<|end_of_thought|>"),)),
    _format("think_apriel", "reasoning", "Apriel", (("Here are my reasoning steps:", "[BEGIN FINAL RESPONSE]"),)),
)

_BOTH = (
    _format(
        "harmony", "both", "Harmony", (("<|channel|>", "<|message|>", "<|start|>"),), ("gpt-oss", "gpt_oss", "openai")
    ),
)

FORMATS = (*_TOOLS, *_REASONING, *_BOTH)
