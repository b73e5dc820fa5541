"""What the plugin tells its middleware in vLLM's process, as JSON in one environment variable."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from pydantic import TypeAdapter

from modelrack.hooks import OutputFormat

__all__ = ["LORA_PREFIX", "NULL_LORA", "VARIABLE", "Settings"]

VARIABLE = "MODELRACK_VLLM"
"""The environment variable."""

LORA_PREFIX = "modelrack-lora:"
"""What vLLM knows an adapter by is this and its name: so it is never taken for a model."""

NULL_LORA = "modelrack-null-lora"
"""The name of an adapter that changes nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What the middleware cannot know from vLLM.

    Args:
        lora: names of the adapters.
        null_lora: requests for no adapter are for one that changes nothing. On the CPU, vLLM (0.32) gives those that
            name none the last one loaded, as soon as there are others in the batch.
        stop: strings that end the answers of the model's chats.
        template: the chat template that the launch or the family names.
        tool_format: as the family names it.
        reasoning_tags: the same.
        own_tools: vLLM itself reads tool calls out of the answers.
        own_reasoning: vLLM itself tells the reasoning from the content.
        own_prompts: vLLM itself writes the prompts of chats.
        sleeps: weights can be put aside.
        drafts: tokens are drafted ahead.
        fetch_hosts: as `LoadPlan.fetch_hosts`.
    """

    model_uid: str
    lora: tuple[str, ...] = ()
    null_lora: bool = False
    stop: tuple[str, ...] = ()
    template: str | None = None
    tool_format: str | None = None
    reasoning_tags: tuple[str, str] | None = None
    output_formats: tuple[OutputFormat, ...] = ()
    request_defaults: Mapping[str, Any] = field(default_factory=dict)
    feature_engines: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    own_tools: bool = False
    own_reasoning: bool = False
    own_prompts: bool = False
    sleeps: bool = False
    drafts: bool = False
    fetch_hosts: tuple[str, ...] = ()

    def dump(self) -> str:
        """Return it as JSON."""
        return _adapter().dump_json(self).decode()

    @classmethod
    def load(cls, text: str) -> "Settings":
        """Return what `dump` wrote."""
        return _adapter().validate_json(text)


@lru_cache(maxsize=1)
def _adapter() -> TypeAdapter[Settings]:
    return TypeAdapter(Settings)
