"""What is refused says who can honour it."""

import pytest

from modelrack.api.chat import ChatRequest
from modelrack.api.completions import CompletionRequest
from modelrack.errors import UnsupportedParameter
from modelrack.worker.validation import make_check

ENGINES = {"dry": ("one", "two"), "lora": ("three",)}


class Handler:
    """Honours nothing of these."""

    unsupported = {"lora_name": "it has no adapters", "cache_salt": "it cannot"}  # noqa: RUF012  # as handlers have it


@pytest.mark.parametrize("model", [ChatRequest, CompletionRequest])
@pytest.mark.parametrize(
    ("fields", "remedy"),
    [
        ({"dry_base": 2.0}, "Engines that can: one, two."),
        ({"dry_multiplier": 0.5}, "Engines that can: one, two."),
        ({"lora_name": "x"}, "Engines that can: three."),
        ({"cache_salt": "x"}, None),
    ],
)
def test_engines_that_can_are_named(
    model: type[ChatRequest] | type[CompletionRequest], fields: dict[str, object], remedy: str | None
) -> None:
    body = {"model": "m", "messages": [{"role": "user", "content": "x"}], "prompt": "x", **fields}
    del body["prompt" if model is ChatRequest else "messages"]
    with pytest.raises(UnsupportedParameter) as caught:
        make_check(model, Handler(), ENGINES)(model.model_validate(body))
    assert caught.value.remedy == remedy
    assert caught.value.param == next(iter(fields))


def test_a_handler_may_honour_what_is_refused_by_default() -> None:
    class Honours:
        supported = ("dry_multiplier",)

    request = ChatRequest.model_validate(
        {"model": "m", "messages": [{"role": "user", "content": "x"}], "dry_multiplier": 0.5}
    )
    make_check(ChatRequest, Honours(), ENGINES)(request)
    neutral = request.model_copy(update={"dry_multiplier": 0.0})
    make_check(ChatRequest, Handler(), ENGINES)(neutral)
