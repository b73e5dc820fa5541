"""From the fields that chats and completions share to what an engine is asked for."""

from collections.abc import Mapping, Sequence
from typing import Any

from ..api.common import SamplingRequest
from ..errors import BadRequest
from .contract import Constraint, Generation, MediaPrompt, ModelTraits, Sampling
from .errors import context_overflow
from .text import StopStrings

__all__ = ["GenerationMaker", "check_ids", "stop_strings", "token_biases"]

_SAMPLING = (
    *("temperature", "top_p", "top_k", "min_p", "typical_p", "repetition_penalty"),
    *("frequency_penalty", "presence_penalty", "seed"),
    *("dry_multiplier", "dry_base", "dry_allowed_length", "dry_penalty_last_n", "dry_sequence_breakers"),
)

_MOST_STOP = 65_536
_MOST_DIGITS, _MOST_SHOWN = 20, 60


class GenerationMaker:
    """Makes `Generation`s of requests to one model."""

    def __init__(self, traits: ModelTraits) -> None:
        self._traits = traits
        self._defaults = {name: value for name, value in traits.defaults.items() if name in _SAMPLING}

    def make(
        self,
        prompt: Sequence[int] | MediaPrompt,
        request: SamplingRequest,
        *,
        logprobs: int | None,
        prompt_logprobs: bool = False,
        constraint: Constraint | None = None,
        request_id: str = "",
    ) -> Generation:
        """Return what is to be generated.

        Raises: BadRequest: the prompt is too long, or a field does not fit to the model.
        """
        traits = self._traits
        if not isinstance(prompt, MediaPrompt):
            if not prompt:
                raise BadRequest("The prompt is empty, and there is nothing to go on from.", param="prompt")
            if len(prompt) >= traits.n_ctx:
                raise context_overflow(len(prompt), traits.n_ctx)
        limit, least = request.token_limit, request.min_tokens or 0
        if limit is not None and least > limit:
            raise BadRequest(f"'min_tokens' is {least}, but at most {limit} tokens are asked for.", param="min_tokens")
        return Generation(
            prompt=prompt,
            max_tokens=limit,
            n=request.n or 1,
            sampling=self._sampling(request),
            stop_ids=self._stop_ids(request),
            ignore_eos=bool(request.ignore_eos),
            min_tokens=least,
            constraint=constraint,
            logprobs=logprobs,
            prompt_logprobs=prompt_logprobs,
            lora=self._lora(request.lora_name),
            cache_salt=request.cache_salt,
            request_id=request_id,
        )

    def _sampling(self, request: SamplingRequest) -> Sampling:
        values = dict(self._defaults)
        given = request.model_fields_set
        for name in _SAMPLING:
            if name in given or name == "repetition_penalty":
                value = getattr(request, name)
                if value is not None:
                    values[name] = value
        if values.get("top_k") == -1:
            values["top_k"] = 0
        breakers = values.get("dry_sequence_breakers")
        if breakers is not None:
            values["dry_sequence_breakers"] = tuple(breakers)
        if request.logit_bias:
            values["logit_bias"] = token_biases(request.logit_bias, self._traits.n_vocab)
        return Sampling(**values)

    def _stop_ids(self, request: SamplingRequest) -> frozenset[int]:
        if not request.stop_token_ids:
            return frozenset()
        check_ids(request.stop_token_ids, self._traits.n_vocab, "stop_token_ids")
        return frozenset(request.stop_token_ids)

    def _lora(self, name: str | None) -> str | None:
        known = self._traits.lora
        if name is None or name in known:
            return name
        if not known:
            raise BadRequest(f"There is no adapter '{name}': none was given at the launch.", param="lora_name")
        raise BadRequest(f"There is no adapter '{name}'; this model has: {', '.join(known)}.", param="lora_name")


def token_biases(biases: Mapping[str, float], n_vocab: int) -> dict[int, float]:
    """Return the biases of `logit_bias` by token id.

    Raises: BadRequest: a key is no token id.
    """
    found: dict[int, float] = {}
    for key, bias in biases.items():
        # By its length first: Python reads no number of thousands of digits.
        is_id = len(key) <= _MOST_DIGITS and key.isascii() and key.isdigit()
        if not is_id or int(key) >= n_vocab:
            shown = key if len(key) <= _MOST_SHOWN else f"{key[:_MOST_SHOWN]}…"
            raise BadRequest(
                f"'logit_bias': '{shown}' is no token id; this model's are 0 to {n_vocab - 1}.", param="logit_bias"
            )
        found[int(key)] = bias
    return found


def stop_strings(*groups: Sequence[str] | None) -> StopStrings | None:
    """Return the stop strings of some groups, prepared; None if there are none.

    Raises: BadRequest: they are longer than any text that is meant to be found.
    """
    strings = [string for group in groups for string in group or ()]
    if sum(map(len, strings)) > _MOST_STOP:
        raise BadRequest(f"'stop' has more than {_MOST_STOP} characters.", param="stop")
    return StopStrings(strings) if strings else None


def check_ids(ids: Sequence[Any], n_vocab: int, param: str) -> None:
    """Raise BadRequest if there is an id that is no token of the vocabulary."""
    if ids and (min(ids) < 0 or max(ids) >= n_vocab):
        wrong = next(one for one in ids if not 0 <= one < n_vocab)
        raise BadRequest(f"'{param}': {wrong} is no token id; this model's are 0 to {n_vocab - 1}.", param=param)
