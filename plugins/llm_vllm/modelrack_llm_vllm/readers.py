"""Who reads tool calls and reasoning out of the answers.

By default that is modelrack: its formats are chosen by what the family or the chat template says, and are the same
for all engines. Where a model's prompts and answers are tokens that only vLLM knows how to write and read, it is vLLM
with the parsers named here; and where the launch names some.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from modelrack.hooks import LoadPlan
from modelrack.llm.formats.choice import choose

__all__ = ["NATIVE", "Readers", "choose_readers"]


@dataclass(frozen=True, slots=True)
class Readers:
    """vLLM's parsers, by the names that they are registered under; None: modelrack reads.

    Args:
        writes_prompts: vLLM writes the prompts of chats too.
    """

    tools: str | None = None
    reasoning: str | None = None
    writes_prompts: bool = False


NATIVE: Mapping[str, Readers] = {"harmony": Readers("openai", "openai_gptoss", writes_prompts=True)}
"""Formats that vLLM handles token by token, by the name of the format."""


def choose_readers(plan: LoadPlan, template: str | None) -> Readers:
    """Return who reads the answers of a model.

    Args:
        template: the chat template's source, as far as it is known.
    """
    tools, reasoning = plan.options.get("tool_call_parser"), plan.options.get("reasoning_parser")
    chosen = choose(plan.output_formats, plan.family, template)
    names = {one.name for one in (chosen.tools, chosen.reasoning) if one is not None}
    native = next((NATIVE[name] for name in NATIVE if name in names), Readers())
    return Readers(tools or native.tools, reasoning or native.reasoning, native.writes_prompts)
