"""The parsers of the formats that the core registers; each is the data of what its models write.

Sources: the chat templates of the models that the comments name, and where these are silent the models' cards.
"""

from .harmony import Harmony
from .headed_calls import HeadedCalls
from .json_calls import JsonCalls
from .literal_calls import BraceCalls, PythonCalls
from .literals import Dialect
from .nested_calls import NestedCalls
from .reasoning import ReasoningParser, UnopenedReasoning
from .tag_calls import TagCalls
from .tools import Section, ToolParser

__all__ = [
    "Apriel",
    "BeginOfThought",
    "Cohere",
    "CohereThinking",
    "DeepSeek",
    "Ernie",
    "Gemma",
    "GemmaThought",
    "Glm",
    "Granite",
    "GraniteWords",
    "Harmony",
    "Hunyuan",
    "HunyuanThink",
    "InternLm",
    "KimiK2",
    "KimiThink",
    "Lfm2",
    "Llama",
    "LongCat",
    "MiniMax",
    "MiniMaxThink",
    "Mistral",
    "MistralThink",
    "Nemotron",
    "Olmo",
    "Phi",
    "SeedOss",
    "SeedThink",
    "Step",
    "Think",
    "Thought",
    "ToolCallTags",
    "UnopenedThink",
    "Xlam",
]

_JSON = JsonCalls()
_LISTS = ("[{", "[ {", "[\n")
_BARE_JSON = JsonCalls(is_known_only=True, list_starts=_LISTS)
_BARE_PYTHON = PythonCalls(is_known_only=True, is_bare=True)
_KNOWN_PYTHON = PythonCalls(is_known_only=True)
_CODER = TagCalls()
_PAIRS = TagCalls(
    call_open="",
    name_ends=("\n",),
    name_ends_kept=("<arg_key>", "{"),
    call_close="",
    param_open="<arg_key>",
    key_end="</arg_key>",
    value_open="<arg_value>",
    param_close="</arg_value>",
    trims_line=False,
)
_TOOL_CALL = Section(opens=("<tool_call>",), closes=("</tool_call>",), bodies=(_JSON, _CODER, _PAIRS))
_FENCED_JSON = Section(opens=("```json",), closes=("```",), bodies=(_BARE_JSON,))


class ToolCallTags(ToolParser):
    """What stands within `<tool_call>`: it is decided by how it begins.

    An object (Hermes, Qwen, Granite 4, ERNIE), `<function=...>` (Qwen3-Coder, Nemotron 3, Step 3.5), or a name and
    pairs of `<arg_key>` and `<arg_value>` (GLM 4.5). Qwen3-Coder is known to leave out the outer mark.
    """

    sections = (_TOOL_CALL, Section(opens=("<function=",), closes=("</tool_call>",), bodies=(_CODER,)))


class Glm(ToolParser):
    """GLM 4.5 and later as above; GLM-4 writes the name on a line of its own, and the arguments on the next."""

    sections = (_TOOL_CALL, Section(bodies=(HeadedCalls(is_known_only=True),)))


class Llama(ToolParser):
    """Llama 3.1: `{"name": ..., "parameters": ...}`, also after `<|python_tag|>`; 3.2 and 4: `[f(a=1)]`.

    Several objects are set apart by `;` or `,`.
    """

    sections = (
        Section(opens=("<|python_tag|>",), bodies=(_JSON, _KNOWN_PYTHON)),
        Section(
            opens=("<|python_start|>",),
            closes=("<|python_end|>",),
            bodies=(JsonCalls(list_starts=_LISTS), _KNOWN_PYTHON),
        ),
        Section(opens=("<function=",), bodies=(_CODER,)),
        Section(bodies=(_BARE_JSON, _BARE_PYTHON)),
    )


class Mistral(ToolParser):
    """`[TOOL_CALLS] [{"name": ..., "arguments": ...}]`; later `[TOOL_CALLS]name[ARGS]{...}` for each call."""

    sections = (
        Section(opens=("[TOOL_CALLS]",), bodies=(_JSON, HeadedCalls(separators=("[ARGS]",), ids=("[CALL_ID]",)))),
    )


_DEEPSEEK_HEADED = HeadedCalls(
    opens=("<｜tool▁call▁begin｜>",), separators=("<｜tool▁sep｜>",), closes=("<｜tool▁call▁end｜>",), kind="function"
)
_DEEPSEEK_TAGS = TagCalls(
    call_open="<｜DSML｜invoke",
    call_close="</｜DSML｜invoke>",
    param_open="<｜DSML｜parameter",
    param_close="</｜DSML｜parameter>",
    trims_line=False,
)


_DEEPSEEK_SPACED_TAGS = TagCalls(  # V4.1: the space is of the mark
    call_open="<｜DSML｜ invoke",
    call_close="</｜DSML｜ invoke>",
    param_open="<｜DSML｜ parameter",
    param_close="</｜DSML｜ parameter>",
    trims_line=False,
)


class DeepSeek(ToolParser):
    """V3 and R1: `function<sep>name` and a fenced object; V3.1: `name<sep>{...}`; V3.2 and later: tags with `｜DSML｜`.

    R1 is known to write the outer mark with other separators, or not at all.
    """

    sections = (
        Section(
            opens=(
                "<｜tool▁calls▁begin｜>",
                "<｜tool_calls_begin｜>",
                "<｜tool calls begin｜>",
                "<｜tool▁call▁begin｜>",
            ),
            closes=("<｜tool▁calls▁end｜>", "<｜tool_calls_end｜>", "<｜tool calls end｜>"),
            bodies=(_DEEPSEEK_HEADED,),
        ),
        Section(
            opens=("<｜DSML｜function_calls>", "<｜DSML｜tool_calls>", "<｜DSML｜invoke"),
            closes=("</｜DSML｜function_calls>", "</｜DSML｜tool_calls>"),
            bodies=(_DEEPSEEK_TAGS,),
        ),
        Section(
            opens=("<｜DSML｜ calls>", "<｜DSML｜ invoke"),
            closes=("</｜DSML｜ calls>",),
            bodies=(_DEEPSEEK_SPACED_TAGS,),
        ),
    )


class Gemma(ToolParser):
    """Gemma 4: `<|tool_call>call:f{...}<tool_call|>`; FunctionGemma the same with other marks.

    Gemma 3 writes what its prompt proposes: code in a fence of `tool_code`, a list of calls, or an object.
    """

    sections = (
        Section(
            opens=("<|tool_call>",),
            closes=("<tool_call|>",),
            bodies=(BraceCalls(Dialect(quotes=('<|"|>', '"'))),),
        ),
        Section(
            opens=("<start_function_call>",),
            closes=("<end_function_call>",),
            bodies=(BraceCalls(Dialect(quotes=("<escape>",))),),
        ),
        Section(opens=("```tool_code",), closes=("```",), bodies=(_BARE_JSON, _KNOWN_PYTHON)),
        _FENCED_JSON,
        Section(bodies=(_BARE_JSON, _BARE_PYTHON)),
    )


_MINIMAX_MARK = "]<]minimax[>["


class MiniMax(ToolParser):
    """M1: `<tool_calls>` around an object a line; M2: `<invoke>` and `<parameter>`; M3: nested tags behind a mark."""

    sections = (
        Section(opens=("<tool_calls>",), closes=("</tool_calls>",), bodies=(_JSON,)),
        Section(
            opens=("<minimax:tool_call>",),
            closes=("</minimax:tool_call>",),
            bodies=(TagCalls(call_open="<invoke", call_close="</invoke>", param_open="<parameter"),),
        ),
        Section(
            opens=(f"{_MINIMAX_MARK}<tool_call>",),
            closes=(f"{_MINIMAX_MARK}</tool_call>",),
            bodies=(NestedCalls(_MINIMAX_MARK),),
        ),
    )


class KimiK2(ToolParser):
    """`<|tool_call_begin|>functions.f:0<|tool_call_argument_begin|>{...}<|tool_call_end|>`, in a section."""

    sections = (
        Section(
            opens=("<|tool_calls_section_begin|>", "<|tool_call_section_begin|>", "<|tool_call_begin|>"),
            closes=("<|tool_calls_section_end|>", "<|tool_call_section_end|>"),
            bodies=(
                HeadedCalls(
                    opens=("<|tool_call_begin|>",),
                    separators=("<|tool_call_argument_begin|>",),
                    closes=("<|tool_call_end|>",),
                    name=r"\s*(?:functions\.)?(?P<name>\S+?)(?::\d+)?\s*",
                ),
            ),
        ),
    )


class Granite(ToolParser):
    """Granite 3: `<|tool_call|>` or `<tool_call>` before a list; Granite 4: `<tool_call>` around an object."""

    sections = (
        Section(
            opens=("<|tool_call|>", "<tool_call>", "<function_call>"),
            closes=("</tool_call>", "<|/tool_call|>", "</function_call>"),
            bodies=(_JSON,),
        ),
    )


class Phi(ToolParser):
    """Phi-4-mini: `functools[{...}]` or `<|tool_call|>[{...}]<|/tool_call|>`; FireFunction writes the first as well."""

    sections = (
        Section(opens=("functools",), bodies=(_JSON,)),
        Section(opens=("<|tool_call|>",), closes=("<|/tool_call|>",), bodies=(_JSON,)),
    )


class Cohere(ToolParser):
    """Command A and R7B: a list between `<|START_ACTION|>` and `<|END_ACTION|>`; Command R: `Action:` and a fence."""

    sections = (
        Section(opens=("<|START_ACTION|>",), closes=("<|END_ACTION|>",), bodies=(_JSON,)),
        Section(opens=("Action: ```json", "Action:```json"), closes=("```",), bodies=(_BARE_JSON,)),
    )


class InternLm(ToolParser):
    """`<|action_start|><|plugin|>{...}<|action_end|>`."""

    sections = (
        Section(opens=("<|action_start|>",), closes=("<|action_end|>",), noise=("<|plugin|>",), bodies=(_JSON,)),
    )


class Nemotron(ToolParser):
    """`<TOOLCALL>[{...}]</TOOLCALL>`."""

    sections = (Section(opens=("<TOOLCALL>",), closes=("</TOOLCALL>",), bodies=(_JSON,)),)


class Xlam(ToolParser):
    """A list of objects, bare, in a fence, or behind another family's mark, depending on what it was trained from."""

    sections = (
        _FENCED_JSON,
        _TOOL_CALL,
        Section(opens=("[TOOL_CALLS]",), bodies=(_JSON,)),
        Section(bodies=(_BARE_JSON,)),
    )


class Hunyuan(ToolParser):
    """`<tool_calls>` around a list (A13B, Jamba as well), or around names and pairs of keys and values (3)."""

    sections = (
        Section(
            opens=("<tool_calls>",),
            closes=("</tool_calls>",),
            noise=("<tool_call>", "</tool_call>"),
            bodies=(
                _JSON,
                TagCalls(
                    call_open="",
                    name_ends=("<tool_sep>", "\n"),
                    name_ends_kept=("<arg_key>",),
                    call_close="</tool_call>",
                    param_open="<arg_key>",
                    key_end="</arg_key>",
                    value_open="<arg_value>",
                    param_close="</arg_value>",
                    trims_line=False,
                ),
            ),
        ),
    )


class SeedOss(ToolParser):
    """`<seed:tool_call><function=f><parameter=a>1</parameter></function></seed:tool_call>`."""

    sections = (Section(opens=("<seed:tool_call>",), closes=("</seed:tool_call>",), bodies=(_CODER,)),)


class Step(ToolParser):
    """Step 3: `<steptml:invoke>` within marks of its own; Step 3.5 writes as Qwen3-Coder does."""

    sections = (
        Section(
            opens=("<｜tool_calls_begin｜>",),
            closes=("<｜tool_calls_end｜>",),
            noise=("<｜tool_call_begin｜>", "function<｜tool_sep｜>", "<｜tool_sep｜>", "<｜tool_call_end｜>"),
            bodies=(
                TagCalls(
                    call_open="<steptml:invoke",
                    call_close="</steptml:invoke>",
                    param_open="<steptml:parameter",
                    param_close="</steptml:parameter>",
                ),
            ),
        ),
        _TOOL_CALL,
    )


class Lfm2(ToolParser):
    """`<|tool_call_start|>[f(a=1)]<|tool_call_end|>`, or objects in the same place."""

    sections = (
        Section(
            opens=("<|tool_call_start|>",),
            closes=("<|tool_call_end|>",),
            bodies=(JsonCalls(list_starts=_LISTS), PythonCalls()),
        ),
    )


class Olmo(ToolParser):
    """`<function_calls>` around calls, one a line."""

    sections = (Section(opens=("<function_calls>",), closes=("</function_calls>",), bodies=(PythonCalls(),)),)


class LongCat(ToolParser):
    """`<longcat_tool_call>{...}</longcat_tool_call>`."""

    sections = (Section(opens=("<longcat_tool_call>",), closes=("</longcat_tool_call>",), bodies=(_JSON,)),)


class Think(ReasoningParser):
    """`<think>...</think>`."""


class UnopenedThink(UnopenedReasoning):
    """The same of models that leave out the opening mark."""


class MistralThink(ReasoningParser):
    """`[THINK]...[/THINK]`."""

    tags = (("[THINK]", "[/THINK]"),)
    is_anywhere = True


class SeedThink(ReasoningParser):
    """`<seed:think>...</seed:think>`."""

    tags = (("<seed:think>", "</seed:think>"),)


class CohereThinking(ReasoningParser):
    """`<|START_THINKING|>...<|END_THINKING|>`; the answer stands between marks as well."""

    tags = (("<|START_THINKING|>", "<|END_THINKING|>"),)
    answer = ("<|START_RESPONSE|>", "<|END_RESPONSE|>", "<|START_TEXT|>", "<|END_TEXT|>")


class KimiThink(ReasoningParser):
    """`◁think▷...◁/think▷`."""

    tags = (("◁think▷", "◁/think▷"),)


class GemmaThought(ReasoningParser):
    """`<|channel>thought...<channel|>`."""

    tags = (("<|channel>thought\n", "<channel|>"),)


class MiniMaxThink(ReasoningParser):
    """`<mm:think>...</mm:think>`."""

    tags = (("<mm:think>", "</mm:think>"),)


class GraniteWords(ReasoningParser):
    """Granite 3.2's and 3.3's words; 3.3 writes tags where its template says so."""

    tags = (
        ("Here is my thought process:", "Here is my response:"),
        ("Here's my thought process:", "Here's my response:"),
        ("<think>", "</think>"),
    )
    answer = ("<response>", "</response>")


class HunyuanThink(ReasoningParser):
    """`<think>...</think><answer>...</answer>`."""

    answer = ("<answer>", "</answer>")


class Ernie(ReasoningParser):
    """`<think>...</think><response>...</response>`."""

    answer = ("<response>", "</response>")


class Thought(ReasoningParser):
    """`<thought>...</thought>`."""

    tags = (("<thought>", "</thought>"),)


class BeginOfThought(ReasoningParser):
    """`<|begin_of_thought|>...<|end_of_thought|>`, and the same around the solution."""

    tags = (("<|begin_of_thought|>", "<|end_of_thought|>"),)
    answer = ("<|begin_of_solution|>", "<|end_of_solution|>")


class Apriel(ReasoningParser):
    """`Here are my reasoning steps:...[BEGIN FINAL RESPONSE]...[END FINAL RESPONSE]`."""

    tags = (("Here are my reasoning steps:", "[BEGIN FINAL RESPONSE]"),)
    answer = ("[END FINAL RESPONSE]",)
