"""The words for what engines of language models can do beyond the plainest request.

An engine claims them in `Engine.features`; the conformance kit (`modelrack.testing`) tests every one that is claimed,
and that the others are refused with a 400; the table in docs/engines.md shows them.
"""

from collections.abc import Mapping
from dataclasses import dataclass

__all__ = ["FEATURES", "Feature", "feature_of", "who_can"]


@dataclass(frozen=True, slots=True)
class Feature:
    """One thing that an engine can do.

    Args:
        name: as engines claim it.
        summary: a few words for the table.
        fields: request fields that ask for it; a field may belong to several, by its value.
    """

    name: str
    summary: str
    fields: tuple[str, ...] = ()


FEATURES = (
    Feature("sampling", "cuts of what tokens are chosen from", ("top_p", "top_k", "min_p", "typical_p")),
    Feature("seed", "the same seed gives the same answer", ("seed",)),
    Feature("n", "several answers to one prompt", ("n",)),
    Feature(
        "penalties",
        "repetition, frequency and presence penalties",
        ("repetition_penalty", "frequency_penalty", "presence_penalty"),
    ),
    Feature(
        "dry",
        "DRY against repetition",
        ("dry_multiplier", "dry_base", "dry_allowed_length", "dry_penalty_last_n", "dry_sequence_breakers"),
    ),
    Feature("logit_bias", "biases for tokens", ("logit_bias",)),
    Feature("logprobs", "log probabilities of the answer's tokens", ("logprobs", "top_logprobs")),
    Feature("prompt_logprobs", "log probabilities of the prompt (echo with logprobs)"),
    Feature("stop_token_ids", "tokens that end the answer", ("stop_token_ids",)),
    Feature("ignore_eos", "going on past end tokens", ("ignore_eos",)),
    Feature("min_tokens", "a least length", ("min_tokens",)),
    Feature("special_tokens", "special tokens written out", ("skip_special_tokens",)),
    Feature("echo", "the prompt before the completion", ("echo",)),
    Feature("suffix", "filling in the middle", ("suffix",)),
    Feature("token_prompts", "prompts as token ids"),
    Feature("json_schema", "JSON by a schema", ("guided_json", "response_format")),
    Feature("regex", "answers that match a pattern", ("guided_regex",)),
    Feature("choice", "one of some answers", ("guided_choice",)),
    Feature("grammar", "answers by a grammar", ("guided_grammar",)),
    Feature("tools", "tool calls of the model's own accord", ("tools",)),
    Feature("forced_tools", "tool calls that must happen", ("tool_choice",)),
    Feature("reasoning", "reasoning apart from the content"),
    Feature(
        "template_variables",
        "variables for the chat template",
        ("chat_template_kwargs", "enable_thinking", "reasoning_effort"),
    ),
    Feature("continue_message", "going on with an assistant's message", ("continue_final_message",)),
    Feature("lora", "adapters chosen by request", ("lora_name",)),
    Feature("images", "images in chats"),
    Feature("prefix_cache", "reuse of what prompts have in common"),
    Feature("cache_salt", "cached prompts kept apart", ("cache_salt",)),
    Feature("speculation", "tokens drafted ahead"),
)


def feature_of(field: str) -> Feature | None:
    """Return the feature that a request field asks for."""
    return next((feature for feature in FEATURES if field in feature.fields), None)


def who_can(field: str, engines: Mapping[str, tuple[str, ...]]) -> str | None:
    """Return a sentence that names the engines that can honour a request field; None if none is known.

    Args:
        field: a feature's own name will do where no field asks for it.
        engines: names of engines by feature, as in `LoadPlan.feature_engines`.
    """
    feature = feature_of(field)
    names = engines.get(feature.name if feature is not None else field, ())
    return f"Engines that can: {', '.join(names)}." if names else None
