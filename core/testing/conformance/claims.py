"""Which test stands for which feature, and how the features are asked for that an engine does not claim."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from ...api.chat import ChatRequest
from ...api.common import SamplingRequest
from ...api.completions import CompletionRequest
from ...llm.features import FEATURES
from .rig import CHAT, COMPLETIONS

__all__ = ["NAMES", "NEEDS", "TOOLS", "Probe", "feature", "feature_of", "probes"]

F = TypeVar("F", bound=Callable[..., Any])

NAMES = tuple(one.name for one in FEATURES)

NEEDS: Mapping[str, str] = {
    "tools": "reciter",
    "reasoning": "reciter",
    "special_tokens": "reciter",
    "template_variables": "reciter",
    "continue_message": "reciter",
    "lora": "adapted",
    "images": "seeing",
    "speculation": "speculating",
}
"""The model, by its role, that a subject must bring if its engine claims a feature."""

SCHEMA: dict[str, Any] = {"type": "object", "properties": {"a": {"type": "boolean"}}, "required": ["a"]}
TOOLS: list[dict[str, Any]] = [
    {
        "type": "function",
        "function": {
            "name": "get_weather",
            "description": "Tell the weather of some days.",
            "parameters": {
                "type": "object",
                "properties": {
                    "city": {"type": "string", "maxLength": 8},
                    "days": {"type": "integer", "minimum": 1, "maximum": 9},
                },
                "required": ["city"],
                "additionalProperties": False,
            },
        },
    },
    {
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
    },
]
"""The tools of the requests of the kit; the scripts call them too."""

_PIXEL = (
    "data:image/png;base64,"
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)
_JSON_FORMAT = {"type": "json_schema", "json_schema": {"name": "a", "schema": SCHEMA}}


@dataclass(frozen=True, slots=True)
class Probe:
    """A request that asks for a feature.

    Args:
        fields: beside the plain prompt or message; they may replace it.
        params: the fields that a refusal may name.
        paths: where to send it; empty: wherever the request model knows all the fields.
    """

    fields: Mapping[str, Any]
    params: tuple[str, ...] = ()
    paths: tuple[str, ...] = field(default=())

    @property
    def named(self) -> tuple[str, ...]:
        """Return the fields that a refusal may name."""
        return self.params or tuple(self.fields)

    def requests(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """Yield path and body of each request."""
        plain: Mapping[str, dict[str, Any]] = {
            CHAT: {"messages": [{"role": "user", "content": "one two three"}]},
            COMPLETIONS: {"prompt": "one two three"},
        }
        models: dict[str, type[SamplingRequest]] = {CHAT: ChatRequest, COMPLETIONS: CompletionRequest}
        paths = self.paths or [
            path for path, model in models.items() if self.fields.keys() <= model.model_fields.keys()
        ]
        # A field that no request model knows yet is refused as an unknown one.
        for path in paths or (CHAT,):
            yield path, {**plain[path], "max_tokens": 4, **self.fields}


_PROBES: Mapping[str, tuple[Probe, ...]] = {
    "sampling": (Probe({"top_p": 0.5}), Probe({"top_k": 5}), Probe({"min_p": 0.1}), Probe({"typical_p": 0.5})),
    "seed": (Probe({"seed": 7}),),
    "n": (Probe({"n": 2}),),
    "penalties": (
        Probe({"repetition_penalty": 1.5}),
        Probe({"frequency_penalty": 1}),
        Probe({"presence_penalty": 1}),
    ),
    "dry": (Probe({"dry_multiplier": 0.8}),),
    "logit_bias": (Probe({"logit_bias": {"5": 1}}),),
    "logprobs": (
        Probe({"logprobs": True, "top_logprobs": 2}, paths=(CHAT,)),
        Probe({"logprobs": 2}, paths=(COMPLETIONS,)),
    ),
    "prompt_logprobs": (Probe({"echo": True, "logprobs": 1}, paths=(COMPLETIONS,)),),
    "stop_token_ids": (Probe({"stop_token_ids": [5]}),),
    "ignore_eos": (Probe({"ignore_eos": True}),),
    "min_tokens": (Probe({"min_tokens": 3}),),
    "special_tokens": (Probe({"skip_special_tokens": False}),),
    "echo": (Probe({"echo": True}, paths=(COMPLETIONS,)),),
    "suffix": (Probe({"suffix": "four"}),),
    "token_prompts": (Probe({"prompt": [5, 6]}),),
    "json_schema": (
        Probe({"guided_json": SCHEMA}),
        Probe({"response_format": _JSON_FORMAT}),
        Probe({"response_format": {"type": "json_object"}}),
    ),
    "regex": (Probe({"guided_regex": "[a-c]+"}),),
    "choice": (Probe({"guided_choice": ["yes", "no"]}),),
    "grammar": (Probe({"guided_grammar": 'root ::= "yes"'}),),
    "tools": (Probe({"tools": TOOLS}),),
    "forced_tools": (Probe({"tools": TOOLS, "tool_choice": "required"}),),
    "template_variables": (
        Probe({"chat_template_kwargs": {"mood": "good"}}),
        Probe({"enable_thinking": False}),
        Probe({"reasoning_effort": "low"}),
    ),
    "continue_message": (
        Probe(
            {
                "messages": [{"role": "user", "content": "one"}, {"role": "assistant", "content": "two"}],
                "continue_final_message": True,
            },
            ("continue_final_message",),
        ),
    ),
    "lora": (Probe({"lora_name": "other"}),),
    "images": (
        Probe(
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": _PIXEL}}]}]},
            ("messages.0.content.0", "messages.0.content", "messages"),
        ),
    ),
    "cache_salt": (Probe({"cache_salt": "pepper"}),),
}


def probes(name: str) -> tuple[Probe, ...]:
    """Return the requests that ask for a feature; none if nothing in a request does."""
    return _PROBES.get(name, ())


def feature(name: str) -> Callable[[F], F]:
    """Mark a test as one of a feature: it runs for engines that claim the feature.

    Raises: ValueError: there is no such feature.
    """
    if name not in NAMES:
        raise ValueError(f"'{name}' is no feature; see modelrack.llm.features")

    def mark(test: F) -> F:
        test.__dict__["conformance_feature"] = name
        return test

    return mark


def feature_of(test: Any) -> str | None:
    """Return the feature that a test is one of; None: of the base, which all engines must pass."""
    return getattr(test, "conformance_feature", None)
