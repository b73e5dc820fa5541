"""What vLLM is asked for by the requests of the public API."""

from typing import Any

import pytest
from vllm_plans import make_served

from modelrack.api.chat import ChatRequest
from modelrack.api.completions import CompletionRequest
from modelrack.errors import BadRequest, UnsupportedParameter
from modelrack.llm.formats.base import CallStart, Content, Reasoning
from modelrack_llm_vllm.chats import ask_chat
from modelrack_llm_vllm.requests import completion_body, structured
from modelrack_llm_vllm.served import Served
from modelrack_llm_vllm.templates import PROMPT

_TOOL = {"type": "function", "function": {"name": "switch", "parameters": {"type": "object", "properties": {}}}}
_PLAIN = "{% for message in messages %}{{ message.content }}|{% endfor %}"
_PNG = "data:image/png;base64,iVBORw0KGgo="


def _chat(served: Served | None = None, **fields: Any) -> Any:
    messages = fields.pop("messages", [{"role": "user", "content": "hi"}])
    return ask_chat(ChatRequest(model="it", messages=messages, **fields), served or make_served(), "id-1")


def _complete(served: Served | None = None, **fields: Any) -> dict[str, Any]:
    request = CompletionRequest(model="it", **{"prompt": "hi", **fields})
    return completion_body(request, served or make_served(), "id-1")


def test_fields_that_vllm_knows_are_passed_on() -> None:
    fields: dict[str, Any] = {
        "temperature": 0.5,
        "top_p": 0.9,
        "min_p": 0.1,
        "min_tokens": 2,
        "ignore_eos": True,
        "cache_salt": "s",
    }
    assert fields.items() <= _complete(**fields).items()
    assert fields.items() <= _chat(**fields).body.items()
    assert (
        _complete(stop=["a"], stop_token_ids=[5], skip_special_tokens=False).items()
        >= {
            "stop": ["a"],
            "stop_token_ids": [5],
            "skip_special_tokens": False,
        }.items()
    )


def test_fields_without_effect_are_left_out() -> None:
    body = _chat(user="me", metadata={}, store=True, service_tier="auto", seed=None, stop=None).body
    assert not {"user", "metadata", "store", "service_tier", "seed", "stop"} & body.keys()


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"top_k": -1}, {"top_k": 0}),
        ({"seed": -1}, {"seed": 2**63 - 257}),
        ({"seed": 7}, {"seed": 7}),
        ({"repeat_penalty": 1.5}, {"repetition_penalty": 1.5}),
        ({"typical_p": 0.5}, {"vllm_xargs": {"typical_p": 0.5}}),
        ({"n": 3, "temperature": 0}, {"n": 3, "temperature": 1.0, "top_k": 1}),
        ({"n": 3, "temperature": 0.7}, {"n": 3, "temperature": 0.7}),
        ({"logit_bias": {"5": 1.0}}, {"logit_bias": {"5": 1.0}}),
        ({"stream": True, "stream_options": {"include_usage": True}}, {"stream_options": {"include_usage": True}}),
        ({"max_tokens": 9}, {"max_tokens": 9}),
    ],
)
def test_fields_are_put_into_vllms_terms(fields: dict[str, Any], expected: dict[str, Any]) -> None:
    assert expected.items() <= _complete(**fields).items()
    assert expected.items() <= _chat(**fields).body.items()


def test_limits_end_with_the_context() -> None:
    """vLLM refuses larger ones, though the context ends the answer anyway; and takes 16 for a completion without."""
    cases: list[tuple[dict[str, Any], int]] = [({"max_tokens": 1000}, 100), ({}, 100), ({"max_tokens": 9}, 9)]
    for fields, limit in cases:
        assert _complete(**fields)["max_tokens"] == _chat(**fields).body["max_tokens"] == limit
    assert _chat(max_tokens=9, max_completion_tokens=4).body["max_tokens"] == 4


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"min_tokens": 9, "max_tokens": 4}, "min_tokens"),
        ({"min_tokens": 100}, "min_tokens"),
        ({"stop_token_ids": [5000]}, "stop_token_ids"),
        ({"logit_bias": {"5000": 1}}, "logit_bias"),
        ({"logit_bias": {"x": 1}}, "logit_bias"),
        ({"lora_name": "none"}, "lora_name"),
        ({"cache_salt": ""}, "cache_salt"),
        ({"guided_json": "{"}, "guided_json"),
    ],
)
def test_what_does_not_fit_to_the_model_is_refused_by_name(fields: dict[str, Any], param: str) -> None:
    with pytest.raises(BadRequest) as caught:
        _chat(**fields)
    assert caught.value.param == param


def test_adapters_go_by_vllms_names_for_them() -> None:
    served = make_served(lora=("first",))
    assert _chat(served, lora_name="first").body["model"] == "modelrack-lora:first"
    assert _complete(served, lora_name="first")["model"] == "modelrack-lora:first"
    assert _complete(served)["model"] == "it"
    # On the CPU vLLM would take an adapter for requests that name none.
    assert _complete(make_served(lora=("first",), null_lora=True))["model"] == "modelrack-null-lora"
    with pytest.raises(BadRequest, match="this model has: first"):
        _chat(served, lora_name="second")


@pytest.mark.parametrize(
    ("prompt", "sent"),
    [("hi", "hi"), (["a", "b"], ["a", "b"]), ([1, 2], [1, 2]), ([[1], [2]], [[1], [2]]), (["a"], "a"), ("", [256])],
)
def test_prompts_come_in_all_shapes(prompt: Any, sent: Any) -> None:
    assert _complete(prompt=prompt)["prompt"] == sent


def test_prompts_of_tokens_that_do_not_exist_are_refused() -> None:
    with pytest.raises(BadRequest) as caught:
        _complete(prompt=[5, 10_000])
    assert caught.value.param == "prompt"


def test_a_chats_prompt_is_written_here_and_begun_as_the_model_wants_it() -> None:
    body = _chat(make_served(_PLAIN), messages=[{"role": "user", "content": "a"}]).body
    assert body["chat_template_kwargs"] == {PROMPT: "a|"} and body["add_special_tokens"] is True
    begun = _chat(make_served("{{ bos_token }}" + _PLAIN)).body
    assert begun["chat_template_kwargs"] == {PROMPT: "<bos>hi|"} and begun["add_special_tokens"] is False


def test_a_model_without_a_template_answers_no_chats() -> None:
    with pytest.raises(BadRequest, match="no chat template"):
        _chat(make_served(None))


def test_template_variables_reach_the_template() -> None:
    ask = _chat(make_served("{{ mood }}{{ messages[0].content }}"), chat_template_kwargs={"mood": "good "})
    assert ask.body["chat_template_kwargs"][PROMPT] == "good hi"
    with pytest.raises(BadRequest, match="reads no variable 'colour'"):
        _chat(make_served(_PLAIN), chat_template_kwargs={"colour": "red"})


def test_the_familys_stop_strings_are_added() -> None:
    assert _chat(make_served(stop=("END",)), stop=["a"]).body["stop"] == ["a", "END"]


# Tools, constraints, reasoning


def _read(ask: Any, text: str) -> list[Any]:
    reader = ask.reader()
    return [*reader.feed(text), *reader.finish()]


def test_tools_are_shown_by_the_template_and_read_here() -> None:
    ask = _chat(tools=[_TOOL])
    assert "switch" in ask.body["chat_template_kwargs"][PROMPT] and "tools" not in ask.body
    pieces = _read(ask, '<tool_call>\n{"name": "switch", "arguments": {}}\n</tool_call>')
    assert [piece.name for piece in pieces if type(piece) is CallStart] == ["switch"]
    plain = _chat(tools=[_TOOL], tool_choice="none")
    assert all(type(piece) is Content for piece in _read(plain, '<tool_call>{"name": "switch"}</tool_call>'))


@pytest.mark.parametrize("choice", ["required", {"type": "function", "function": {"name": "switch"}}])
def test_forced_tools_are_a_constraint(choice: Any) -> None:
    for served in (make_served(), make_served(_PLAIN)):
        ask = _chat(served, tools=[_TOOL], tool_choice=choice)
        assert ask.constraint is not None and ask.constraint.kind == "json_schema"
        assert "switch" in ask.body["chat_template_kwargs"][PROMPT]


def test_tools_that_the_template_does_not_know_are_refused() -> None:
    with pytest.raises(UnsupportedParameter) as caught:
        _chat(make_served(_PLAIN), tools=[_TOOL])
    assert caught.value.param == "tools"
    with pytest.raises(UnsupportedParameter):
        _chat(tools=[_TOOL], guided_choice=["a"])


def test_reasoning_is_read_and_closed_before_a_constraint() -> None:
    pieces = _read(_chat(), "<think>\nso\n</think>\n\nyes")
    assert next(type(piece) for piece in pieces if getattr(piece, "text", "")) is Reasoning
    free, held = (ask.body["chat_template_kwargs"][PROMPT] for ask in (_chat(), _chat(guided_choice=["a"])))
    assert held.startswith(free) and held.rstrip().endswith("</think>")
    assert _chat(make_served(_PLAIN)).reader is None


def test_grammars_are_written_as_vllm_takes_them() -> None:
    assert structured('start: "a"') == {"grammar": 'start: "a"'}
    schema = '{"grammars":[{"json_schema":{"type":"object"},"lark_grammar":null}]}'
    assert structured(schema) == {"json": {"type": "object"}}
    pattern = '{"grammars":[{"json_schema":null,"lark_grammar":"start: /a/"}]}'
    assert structured(pattern) == {"grammar": "start: /a/"}


# Media


def _look(url: str) -> list[dict[str, Any]]:
    return [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": url}}]}]


def test_images_go_to_models_that_see() -> None:
    body = _chat(make_served(takes_images=True), messages=_look(_PNG), tools=[_TOOL]).body
    assert body["messages"] == _look(_PNG) and PROMPT not in body["chat_template_kwargs"]
    assert body["tools"][0]["function"]["name"] == "switch" and body["tool_choice"] == "none"
    with pytest.raises(UnsupportedParameter, match="reads text only") as caught:
        _chat(messages=_look(_PNG))
    assert caught.value.param == "messages.0.content.0"


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1/a.png", "https://x.y/a.png", "file:///etc/passwd", "data:image/png;base64,!", "nonsense"]
)
def test_images_by_address_and_broken_ones_are_refused(url: str) -> None:
    with pytest.raises(BadRequest) as caught:
        _chat(make_served(takes_images=True), messages=_look(url))
    assert caught.value.param == "messages.0.content.0"


def test_other_media_are_refused() -> None:
    part = {"type": "input_audio", "input_audio": {"data": "", "format": "wav"}}
    with pytest.raises(UnsupportedParameter) as caught:
        _chat(make_served(takes_images=True), messages=[{"role": "user", "content": [part]}])
    assert caught.value.param == "messages.0.content.0"


# What vLLM does by itself


def test_prompts_that_only_vllm_can_write_are_left_to_it() -> None:
    served = make_served(own_prompts=True, own_tools=True, own_reasoning=True)
    ask = _chat(served, tools=[_TOOL], reasoning_effort="low", chat_template_kwargs={"a": 1})
    body = ask.body
    assert body["messages"] == [{"role": "user", "content": "hi"}] and ask.reader is None
    assert body["reasoning_effort"] == "low" and body["chat_template_kwargs"] == {"a": 1}
    assert body["tool_choice"] == "auto" and body["tools"][0]["function"]["name"] == "switch"
