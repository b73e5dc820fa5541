"""The request models of completions and tokens, and the chunks of completions."""

import inspect
import json
from typing import Any

import pytest
from openai.resources.completions import Completions
from openai.types import Completion as OpenAICompletion
from pydantic import ValidationError

from modelrack.api.common import usage_dict
from modelrack.api.completions import (
    Completion,
    CompletionChunk,
    CompletionRequest,
    CompletionWriter,
    completion_answer,
)
from modelrack.api.tokenize import ConvertIdsRequest, ConvertIdsResponse, DetokenizeRequest, TokenizeRequest


def test_every_field_of_openais_sdk_is_known() -> None:
    names = set(inspect.signature(Completions.create).parameters)
    names -= {"self", "extra_headers", "extra_query", "extra_body", "timeout"}
    assert names - set(CompletionRequest.model_fields) == set()


@pytest.mark.parametrize(
    ("prompt", "prompts"),
    [
        ("x", ["x"]),
        ("", [""]),
        (["x", "y"], ["x", "y"]),
        ([1, 2], [[1, 2]]),
        ([[1, 2], [3]], [[1, 2], [3]]),
    ],
)
def test_prompts(prompt: Any, prompts: Any) -> None:
    assert CompletionRequest(model="m", prompt=prompt).prompts == prompts


@pytest.mark.parametrize("prompt", [None, 5, [], [[]], ["x", 5], [1, "x"], [-1], [True], [1.5], {"a": 1}])
def test_bad_prompts(prompt: Any) -> None:
    with pytest.raises(ValidationError):
        CompletionRequest(model="m", prompt=prompt)


def test_logprobs_are_a_number_here() -> None:
    assert CompletionRequest(model="m", prompt="x", logprobs=5).logprobs == 5
    with pytest.raises(ValidationError):
        CompletionRequest(model="m", prompt="x", logprobs=6)


def test_chunks_have_the_shape_that_clients_know() -> None:
    writer = CompletionWriter("uid")
    chunks = [writer.text("ü\n"), writer.chunk("x", 1, None, "stop"), writer.finish("length", 1), writer.usage(1, 2)]
    for chunk in chunks:
        assert b"\n" not in chunk
        CompletionChunk.model_validate_json(chunk)
    first = json.loads(chunks[0])
    assert first["choices"] == [{"index": 0, "text": "ü\n", "logprobs": None, "finish_reason": None}]
    assert json.loads(chunks[3])["usage"] == {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3}
    choice = {"index": 0, "text": "x", "logprobs": None, "finish_reason": "stop"}
    answer = completion_answer("m", [choice], usage_dict(1, 2))
    Completion.model_validate(answer)
    OpenAICompletion.model_validate(answer)
    assert answer["id"].startswith("cmpl-")


def test_tokenize_takes_a_prompt_or_messages() -> None:
    messages = [{"role": "user", "content": "x"}]
    assert TokenizeRequest.model_validate({"model": "m", "prompt": ""}).prompt == ""
    assert TokenizeRequest.model_validate({"model": "m", "messages": messages}).messages == messages
    wrongs: list[dict[str, Any]] = [{}, {"prompt": "x", "messages": messages}, {"messages": []}]
    for wrong in wrongs:
        with pytest.raises(ValidationError):
            TokenizeRequest.model_validate({"model": "m"} | wrong)


def test_ids() -> None:
    assert DetokenizeRequest(model="m", tokens=[]).tokens == []
    for ids in ([], [1, 2], [[1], [2, 3], []]):
        assert ConvertIdsRequest.model_validate({"model": "m", "input": ids}).input == ids
    for wrong in ("x", 5, ["x"], [-1], [[1], 2], [True]):
        with pytest.raises(ValidationError):
            ConvertIdsRequest.model_validate({"model": "m", "input": wrong})
    with pytest.raises(ValidationError):
        DetokenizeRequest.model_validate({"model": "m", "tokens": [-1]})
    assert ConvertIdsResponse([["a"], ["b"]]).model_dump() == [["a"], ["b"]]
