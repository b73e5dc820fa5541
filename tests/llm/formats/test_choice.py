"""Which format a model writes: what its family says, else what its chat template teaches."""

import pytest

from llm.formats.shapes import TOOLS, Read, read
from modelrack.hooks import Family, OutputFormat
from modelrack.llm.formats.base import ParserContext
from modelrack.llm.formats.choice import Chosen, choose, make_parser
from modelrack.llm.formats.registered import FORMATS
from modelrack_llm_catalog.plugin import register_families

TEMPLATES = {
    "qwen 2.5": (
        "{%- if tools %}Answer with calls within <tool_call></tool_call> tags:\n<tool_call>\n"
        '{\\"name\\": <function-name>, \\"arguments\\": <args-json-object>}\n</tool_call>{% endif %}'
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}",
        "hermes",
        None,
    ),
    "qwen 3": (
        "{%- if tools %}<tool_call>\n{name, arguments}\n</tool_call>{% endif %}{% if '</think>' in content %}"
        "{{ '<think>\n' + reasoning + '\n</think>' }}{% endif %}",
        "hermes",
        "think",
    ),
    "qwen 3 coder": (
        "{% if tools %}<tool_call>\n<function=example>\n<parameter=key>\nvalue\n</parameter>\n</function>\n</tool_call>"
        "{% endif %}",
        "hermes",
        None,
    ),
    "glm 4.5": (
        "[gMASK]<sop><|system|><tool_call>{name}\n<arg_key>{k}</arg_key>\n<arg_value>{v}</arg_value>\n</tool_call>"
        "<|observation|><think></think>",
        "glm4",
        "think",
    ),
    "glm 4": ("[gMASK]<sop>{% for m in messages %}<|{{ m.role }}|>{% endfor %}<|observation|>", "glm4", None),
    "llama 3.1": (
        'Respond in the format {"name": function name, "parameters": dictionary of argument name and its value}.'
        "<|start_header_id|>assistant<|end_header_id|><|python_tag|>",
        "llama3",
        None,
    ),
    "mistral": ("[AVAILABLE_TOOLS]{{ tools }}[/AVAILABLE_TOOLS]{{ '[TOOL_CALLS]' + calls }}", "mistral", None),
    "magistral": (
        "[SYSTEM_PROMPT][THINK]draft[/THINK][/SYSTEM_PROMPT][TOOL_CALLS]{{ name }}[ARGS]{{ args }}",
        "mistral",
        "think_mistral",
    ),
    "deepseek r1": (
        "{% if '</think>' in content %}{% set content = content.split('</think>')[-1] %}{% endif %}"
        "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>",
        "deepseek_v3",
        "think_unopened",
    ),
    "deepseek v3.2": (
        "{%- set dsml = '｜DSML｜' -%}{{ '<' + dsml + 'invoke name=' }}{{ '<' + dsml + 'parameter' }}<think></think>",
        "deepseek_v3",
        "think",
    ),
    "gemma 4": ("<|turn>model\n<|channel>thought\n<channel|><|tool_call>call:f{}<tool_call|>", "gemma", "think_gemma"),
    "functiongemma": ("<start_of_turn><start_function_call>call:f{}<end_function_call>", "gemma", None),
    "gemma 2": ("<start_of_turn>{{ role }}\n{{ content }}<end_of_turn>\n", None, None),
    "minimax m2": (
        '{%- set begin = \'<minimax:tool_call>\' -%}<invoke name="f"><parameter name="k">]~b]ai\n<think>\n</think>',
        "minimax",
        "think",
    ),
    "minimax m3": ("{% set ns = ']<]minimax[>[' %}<mm:think></mm:think>", "minimax", "think_minimax"),
    "gpt-oss": (
        "<|start|>assistant<|channel|>analysis<|message|>{{ thinking }}<|end|>to=functions.",
        "harmony",
        "harmony",
    ),
    "kimi k2": (
        "<|tool_calls_section_begin|><|tool_call_begin|>{{ id }}<|tool_call_argument_begin|>{{ a }}<|tool_call_end|>",
        "kimi_k2",
        None,
    ),
    "granite 3.3": (
        "<|start_of_role|>system<|end_of_role|>write <|tool_call|> and a list. <think></think> <response></response>",
        "granite",
        "think_granite",
    ),
    "phi 4 mini": ("<|system|><|tool|>{{ tools }}<|/tool|><|end|>", "phi4_mini", None),
    "command a": (
        "<|START_OF_TURN_TOKEN|><|START_THINKING|><|END_THINKING|><|START_ACTION|>[]<|END_ACTION|>",
        "cohere",
        "think_cohere",
    ),
    "internlm": ("<|im_start|>system name=<|plugin|>\n<|action_start|><|plugin|>", "internlm", None),
    "nemotron": ("<TOOLCALL>[{name}]</TOOLCALL> <think></think>", "nemotron", "think"),
    "hunyuan": ("<tool_calls>[{name}]</tool_calls> <think></think> <answer></answer>", "hunyuan", "think_hunyuan"),
    "hunyuan 3": (
        "<tool_calls><tool_call>f<tool_sep><arg_key>k</arg_key><arg_value>v</arg_value></tool_call></tool_calls>",
        "hunyuan",
        None,
    ),
    "seed": (
        "{%- set b = '<seed:tool_call>', e = '</seed:tool_call>' -%}<seed:think></seed:think>",
        "seed_oss",
        "think_seed",
    ),
    "step 3": ("<｜tool_calls_begin｜><｜tool_call_begin｜>function<｜tool_sep｜><steptml:invoke", "step3", None),
    "lfm2": ("List of tools: <|tool_list_start|>[]<|tool_list_end|>", "lfm2", None),
    "ernie": ("<tool_call>\n{name}\n</tool_call> <think></think> <response></response>", "hermes", "think_ernie"),
    "zephyr": ("{% for m in messages %}<|{{ m.role }}|>\n{{ m.content }}</s>{% endfor %}", None, None),
}


def family(**facts: object) -> Family:
    return Family(name="any", model_type="LLM", **facts)  # type: ignore[arg-type]  # what the family says


@pytest.mark.parametrize("name", TEMPLATES)
def test_a_template_teaches_its_format(name: str) -> None:
    template, tools, reasoning = TEMPLATES[name]
    chosen = choose(FORMATS, family(), template)
    assert (chosen.tools and chosen.tools.name, chosen.reasoning and chosen.reasoning.name) == (tools, reasoning)
    assert choose(FORMATS, family(chat_template=template), None) == chosen


def test_every_word_of_the_catalog_is_known() -> None:
    named = {each.tool_format for each in register_families() if each.tool_format}
    for word in named:
        chosen = choose(FORMATS, family(tool_format=word.upper()), None)
        assert chosen.tools is not None and word in (chosen.tools.name, *chosen.tools.aliases)
        assert make_parser(chosen, ParserContext(tools=TOOLS)).marks
    tagged = {each.reasoning_tags for each in register_families() if each.reasoning_tags}
    for tags in tagged:
        chosen = choose(FORMATS, family(reasoning_tags=tags), None)
        assert chosen.reasoning_marks() == tuple(mark.strip() for mark in tags)
        assert read(make_parser(chosen, ParserContext()), f"{tags[0]}why{tags[1]}so") == Read("so", "why")
    assert len(named) >= 12 and len(tagged) >= 3


def test_the_family_wins_over_the_template() -> None:
    chosen = choose(FORMATS, family(tool_format="mistral", reasoning_tags=("<a>", "</a>")), TEMPLATES["qwen 3"][0])
    assert chosen.tools is not None and chosen.tools.name == "mistral"
    assert chosen.tags == ("<a>", "</a>")
    assert {"[TOOL_CALLS]", "<a>", "</a>"} <= set(chosen.marks) and "<think>" not in chosen.marks


def test_a_launchs_template_wins_over_the_familys() -> None:
    chosen = choose(FORMATS, family(chat_template="[TOOL_CALLS]"), "<TOOLCALL></TOOLCALL>")
    assert chosen.tools is not None and chosen.tools.name == "nemotron"


def test_an_unknown_word_leaves_it_to_the_template() -> None:
    chosen = choose(FORMATS, family(tool_format="no-such-format"), TEMPLATES["mistral"][0])
    assert chosen.tools is not None and chosen.tools.name == "mistral"


def test_nothing_is_known() -> None:
    chosen = choose(FORMATS, family(), None)
    assert chosen == Chosen() and chosen.marks == () and chosen.reasoning_marks() == ()
    text = "<think>\n a </think> <tool_call>{} [1] "
    assert read(make_parser(chosen, ParserContext(tools=TOOLS)), text) == Read(text)


def test_marks_hold_what_must_not_be_stripped() -> None:
    chosen = choose(FORMATS, family(tool_format="deepseek-v3.1", reasoning_tags=("<think>", "</think>")), None)
    assert {"<｜tool▁sep｜>", "<｜tool▁calls▁end｜>", "</｜DSML｜invoke>", "<think>", "</think>"} <= set(chosen.marks)
    harmony = choose(FORMATS, family(tool_format="gpt-oss"), None)
    assert harmony.tools is harmony.reasoning
    assert {"<|channel|>", "<|message|>", "<|constrain|>", "<|call|>"} <= set(harmony.marks)
    assert harmony.reasoning_marks()[-1] == "<|channel|>final<|message|>"


@pytest.mark.parametrize(
    ("prompt", "reasoning"),
    [
        ("<|im_start|>assistant\n<think>\n", True),
        ("<|im_start|>assistant\n<think>\nI was", True),
        ("<|im_start|>assistant\n<think>\n\n</think>\n\n", False),
        ("<|im_start|>user\nWhat is <think>?<|im_end|>\n<|im_start|>assistant\n", False),
        ("<start_of_turn>user\n<think><end_of_turn>\n<start_of_turn>model\n", False),
        ("[INST] <think> [/INST]", False),
        ("User: what is <think>?\nAssistant: ", False),
        ("### Instruction:\nuse <think>\n### Response:\n", False),
        ("", False),
    ],
)
def test_the_prompt_tells_whether_reasoning_is_open(prompt: str, reasoning: bool) -> None:
    chosen = choose(FORMATS, family(reasoning_tags=("<think>", "</think>")), None)
    found = read(make_parser(chosen, ParserContext(prompt=prompt)), ["so", " it", " is"])
    assert found == (Read("", "so it is") if reasoning else Read("so it is"))


def test_words_open_reasoning_only_at_the_prompts_end() -> None:
    chosen = choose(FORMATS, family(reasoning_tags=("analysis", "final")), None)
    for prompt, expected in (("an analysis of it, ", Read("so final")), ("<|x|>analysis\n", Read("", "so"))):
        assert read(make_parser(chosen, ParserContext(prompt=prompt)), ["so final"]) == expected


def test_a_model_that_leaves_out_the_opening_mark() -> None:
    facts = family(reasoning_tags=("<think>", "</think>"))
    chosen = choose(FORMATS, facts, "{{ content.split('</think>')[-1] }}")
    for text in ("why\n</think>\n\nso", "<think>\nwhy\n</think>\n\nso"):
        assert read(make_parser(chosen, ParserContext()), text) == Read("so", "why")
    closed = ParserContext(prompt="<｜Assistant｜></think>")
    assert read(make_parser(chosen, closed), "so") == Read("so")
    unopened = choose(FORMATS, family(reasoning_tags=("", "</think>")), None)
    assert read(make_parser(unopened, ParserContext()), "why</think>so") == Read("so", "why")


def test_reasoning_marks_within_an_answer_are_text() -> None:
    chosen = choose(FORMATS, family(reasoning_tags=("<think>", "</think>")), None)
    text = "Write <think> and\n<think> then </think>."
    assert read(make_parser(chosen, ParserContext()), text) == Read(text)
    special = choose(FORMATS, family(reasoning_tags=("<|think|>", "<|/think|>")), None)
    assert read(make_parser(special, ParserContext()), "a <|think|>why<|/think|> b") == Read("a b", "why")


def test_a_plugins_format_is_chosen_and_must_be_a_parser() -> None:
    mine = OutputFormat(
        name="mine", kind="tools", parser="modelrack.llm.formats.known:Nemotron", marks=(("<MY", "CALL>", "</MY"),)
    )
    assert choose((*FORMATS, mine), family(), "<MYCALL></MYCALL><TOOLCALL></TOOLCALL>").tools is mine
    assert choose((*FORMATS, mine), family(tool_format="Mine"), None).tools is mine
    wrong = OutputFormat(name="wrong", kind="tools", parser="modelrack.llm.formats.known:Section")
    with pytest.raises(TypeError, match="Section is no OutputParser"):
        make_parser(Chosen(wrong), ParserContext(tools=TOOLS))
