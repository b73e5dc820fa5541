"""Chat completions of a model that answers by a script."""

import asyncio
from typing import Any

import pytest

from llm_rig import HELLO, Rig, make_plan
from llm_scripted import END, ScriptedModel, ids
from modelrack.errors import BadRequest, EngineError, ModelrackError, TooManyRequests

IMAGE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
TEXT = "Größe: 5 km² — 日本語 🙂 done"


def content(events: list[dict[str, Any]], index: int = 0) -> str:
    """Return the text that a stream's chunks add up to."""
    choices = [choice for event in events for choice in event["choices"] if choice["index"] == index]
    return "".join(choice["delta"]["content"] for choice in choices)


async def test_answer_has_the_shape_of_the_contract() -> None:
    rig = Rig(ScriptedModel(TEXT, cached=7))
    answer = await rig.ask("chat", messages=HELLO)
    assert set(answer) == {"id", "object", "created", "model", "choices", "usage"}
    assert answer["object"] == "chat.completion"
    (choice,) = answer["choices"]
    assert choice["message"] == {"role": "assistant", "content": TEXT}
    assert choice["finish_reason"] == "stop"
    tokens = len(TEXT.encode()) + 1
    prompt = len(ids("<bos><user>hello</user><assistant>"))
    assert answer["usage"] == {
        "prompt_tokens": prompt,
        "completion_tokens": tokens,
        "total_tokens": prompt + tokens,
        "prompt_tokens_details": {"cached_tokens": 7},
    }
    assert rig.call.counts == (prompt, tokens)


@pytest.mark.parametrize("step_tokens", [1, 2, 7])
@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"stop": ["zzz"]},
        {"stop": ["日"]},
        {"stop": ["km² — 日本", "done"]},
        {"max_tokens": 4},
        {"max_tokens": 3},
        {"n": 3},
        {"n": 2, "stop": "k"},
        {"logprobs": True, "top_logprobs": 3},
        {"logprobs": True, "stop": ["日本"]},
        {"stop_token_ids": [ord(":")]},
        {"min_tokens": 60, "max_tokens": 60},
        {"ignore_eos": True, "max_tokens": 50},
        {"skip_special_tokens": False},
    ],
)
async def test_a_stream_says_what_the_answer_says(fields: dict[str, Any], step_tokens: int) -> None:
    def script(prompt: str, index: int) -> list[int]:
        return [*ids("<other>" + TEXT + " " * index), END]

    rig = Rig(ScriptedModel(script, step_tokens=step_tokens))
    whole = await rig.ask("chat", messages=HELLO, **fields)
    events = await rig.chat_stream(stream_options={"include_usage": True}, **fields)
    assert len({event["id"] for event in events}) == 1
    assert {event["object"] for event in events} == {"chat.completion.chunk"}
    assert events[-1]["choices"] == []
    assert events[-1]["usage"] == whole["usage"]
    for choice in whole["choices"]:
        index = choice["index"]
        chunks = [one for event in events for one in event["choices"] if one["index"] == index]
        assert chunks[0]["delta"] == {"role": "assistant", "content": ""}
        assert content(events, index) == choice["message"]["content"]
        assert [one["finish_reason"] for one in chunks if one["finish_reason"]] == [choice["finish_reason"]]
        assert chunks[-1]["finish_reason"]
        tokens = [token for one in chunks if one["logprobs"] for token in one["logprobs"]["content"]]
        assert tokens == ((choice["logprobs"] or {}).get("content") or [])


async def test_fields_reach_the_engine() -> None:
    rig = Rig(
        ScriptedModel("x", defaults={"temperature": 0.5, "top_k": 40}, lora=("a",), supported=("dry_multiplier",))
    )
    await rig.chat(
        max_tokens=9,
        n=1,
        top_p=0.5,
        top_k=-1,
        repeat_penalty=1.5,
        seed=-3,
        logit_bias={"7": -100},
        stop_token_ids=[1, 2],
        ignore_eos=True,
        min_tokens=3,
        lora_name="a",
        cache_salt="s",
        dry_multiplier=0.8,
    )
    (generation,) = rig.model.generations
    sampling = generation.sampling
    assert (sampling.temperature, sampling.top_p, sampling.top_k, sampling.seed) == (0.5, 0.5, 0, -3)
    assert (sampling.repetition_penalty, sampling.dry_multiplier, sampling.logit_bias) == (1.5, 0.8, {7: -100})
    assert (generation.max_tokens, generation.min_tokens, generation.ignore_eos) == (9, 3, True)
    assert generation.stop_ids == {1, 2}
    assert (generation.lora, generation.cache_salt, generation.logprobs) == ("a", "s", None)


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"lora_name": "none"}, "lora_name"),
        ({"logit_bias": {"9999": 1}}, "logit_bias"),
        ({"logit_bias": {"x": 1}}, "logit_bias"),
        ({"logit_bias": {"9" * 5000: 1}}, "logit_bias"),
        ({"stop_token_ids": [9999]}, "stop_token_ids"),
        ({"stop_token_ids": [-1]}, "stop_token_ids"),
        ({"stop": ["x" * 70_000]}, "stop"),
        ({"min_tokens": 5, "max_tokens": 4}, "min_tokens"),
        ({"dry_multiplier": 0.5}, "dry_multiplier"),
        ({"dry_sequence_breakers": ["x"]}, "dry_sequence_breakers"),
        ({"guided_decoding_backend": "x"}, "guided_decoding_backend"),
        ({"guided_whitespace_pattern": "x"}, "guided_whitespace_pattern"),
        ({"guided_json": "{"}, "guided_json"),
        ({"guided_json": "[]"}, "guided_json"),
        ({"guided_choice": ["a", ""]}, "guided_choice"),
        ({"guided_grammar": " "}, "guided_grammar"),
        ({"guided_grammar": "a\0"}, "guided_grammar"),
        ({"guided_regex": "a", "response_format": {"type": "json_object"}}, "response_format"),
        ({"guided_regex": "a"}, "guided_regex"),
        ({"chat_template_kwargs": {"messages": []}}, "chat_template_kwargs"),
        ({"chat_template_kwargs": {"mood": 1}}, "chat_template_kwargs"),
        ({"enable_thinking": True}, "enable_thinking"),
        ({"reasoning_effort": "low"}, "reasoning_effort"),
        ({"documents": [{"text": "x"}]}, "documents"),
        ({"continue_final_message": True}, "messages"),
        ({"messages": [{"role": "user", "content": "x" * 3000}]}, None),
        ({"messages": [{"role": "user", "content": [IMAGE]}]}, "messages.0.content.0"),
    ],
)  # fmt: skip
async def test_what_cannot_be_honoured_is_refused_by_name(fields: dict[str, Any], param: str | None) -> None:
    rig = Rig(ScriptedModel("x", constraints=frozenset(("json_schema",))))
    for stream in (False, True):
        with pytest.raises(BadRequest) as caught:
            await rig.reply("chat", **{"messages": HELLO, "stream": stream, **fields})
        assert caught.value.param == param
    assert not rig.model.generations


@pytest.mark.parametrize("fields", [{"enable_thinking": False}, {"reasoning_effort": "none"}, {"tool_choice": "none"}])
async def test_what_asks_for_nothing_is_no_reason_to_refuse(fields: dict[str, Any]) -> None:
    assert (await Rig(ScriptedModel("x")).chat(**fields))["message"]["content"] == "x"


async def test_who_can_is_said() -> None:
    engines = {"regex": ("alpha", "beta"), "dry": ("gamma",)}
    rig = Rig(ScriptedModel("x", constraints=frozenset()), make_plan(feature_engines=engines))
    for fields, name in (({"guided_regex": "a"}, "alpha, beta"), ({"dry_multiplier": 1}, "gamma")):
        with pytest.raises(BadRequest) as caught:
            await rig.chat(**fields)
        assert caught.value.body()["error"]["message"].endswith(f"Engines that can: {name}.")


async def test_overflow_gives_the_numbers() -> None:
    rig = Rig(ScriptedModel("x", n_ctx=20))
    with pytest.raises(BadRequest) as caught:
        await rig.chat()
    error = caught.value.body()["error"]
    assert error["code"] == "context_length_exceeded"
    assert (error["prompt_tokens"], error["context_length"]) == (30, 20)
    assert "30" in error["message"]
    assert "20" in error["message"]


@pytest.mark.parametrize("template", ["{{ bos_token }}{{ messages[0].content }}", "{{ messages[0].content }}"])
async def test_the_token_that_begins_texts_is_not_doubled(template: str) -> None:
    rig = Rig(ScriptedModel("x", chat_template=template))
    await rig.chat()
    assert rig.prompt() == "<bos>hello"


async def test_a_prompt_without_a_token_is_refused() -> None:
    """An engine would have nothing to compute, and the client would wait for ever."""
    rig = Rig(ScriptedModel("x", chat_template="{{ '' }}", adds_bos=False))
    for fields in ({}, {"stream": True}, {"n": 3}):
        with pytest.raises(BadRequest, match="makes no prompt") as caught:
            await rig.chat(**fields)
        assert caught.value.param == "messages"
    assert not rig.model.generations


async def test_constraints_are_normalised() -> None:
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}}
    rig = Rig(ScriptedModel("x"))
    for fields, kind, value in (
        ({"guided_json": schema}, "json_schema", schema),
        ({"guided_json": '{"type": "object"}'}, "json_schema", {"type": "object"}),
        ({"guided_regex": "^a+$"}, "regex", "a+"),
        ({"guided_regex": r"a\$"}, "regex", r"a\$"),
        ({"guided_regex": r"a\\$"}, "regex", r"a\\"),
        ({"guided_choice": ["a", "b"]}, "choice", ("a", "b")),
        ({"guided_grammar": 'root ::= "a"'}, "grammar", 'root ::= "a"'),
        ({"response_format": {"type": "json_object"}}, "json_schema", {"type": "object"}),
        ({"response_format": {"type": "json_schema", "json_schema": {"schema": schema}}}, "json_schema", schema),
    ):
        await rig.chat(**fields)
        constraint = rig.model.generations[-1].constraint
        assert constraint is not None
        assert (constraint.kind, constraint.value, constraint.field) == (kind, value, next(iter(fields)))
    await rig.chat(response_format={"type": "text"})
    assert rig.model.generations[-1].constraint is None


async def test_a_stop_string_cancels_its_choice_alone() -> None:
    rig = Rig(ScriptedModel(lambda prompt, index: ids("aaSTOPbbbb" if index == 1 else "cccccccccccc")))
    answer = await rig.ask("chat", messages=HELLO, n=2, stop="STOP")
    assert [choice["message"]["content"] for choice in answer["choices"]] == ["c" * 12, "aa"]
    assert rig.model.cancelled == [1]
    assert answer["usage"]["completion_tokens"] == 13 + 6


async def test_the_familys_stop_strings_end_chats() -> None:
    rig = Rig(ScriptedModel("hi<|user|>never"), make_plan(stop=("<|user|>",)))
    assert (await rig.chat())["message"]["content"] == "hi"


async def test_logprobs_of_a_cut_answer_are_those_of_its_text() -> None:
    rig = Rig(ScriptedModel("ab€STOPxyz", step_tokens=3))
    choice = await rig.chat(logprobs=True, top_logprobs=1, stop="STOP")
    tokens = choice["logprobs"]["content"]
    assert b"".join(bytes(token["bytes"]) for token in tokens).decode() == choice["message"]["content"] == "ab€"
    assert all(len(token["top_logprobs"]) == 1 and token["logprob"] == -0.5 for token in tokens)


@pytest.mark.parametrize("stream", [False, True])
async def test_a_client_that_leaves_stops_the_engine(stream: bool) -> None:
    rig = Rig(ScriptedModel("x" * 500, is_paused=True))
    if stream:
        reply = await rig.reply("chat", messages=HELLO, stream=True)
        waiting = asyncio.ensure_future(anext(reply))
        await asyncio.sleep(0)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        await reply.aclose()
    else:
        task = asyncio.create_task(rig.reply("chat", messages=HELLO))
        while not rig.model.runs:
            await asyncio.sleep(0)
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert rig.model.cancelled == [None]


@pytest.mark.parametrize("stream", [False, True])
async def test_errors_of_the_engine_reach_the_client(stream: bool) -> None:
    for after in (0, 3):
        rig = Rig(ScriptedModel("x" * 9, failure=EngineError("It broke."), fails_after=after))
        with pytest.raises(ModelrackError, match="It broke"):
            await (rig.chat_stream() if stream else rig.chat())


async def test_a_full_queue_is_told() -> None:
    rig = Rig(ScriptedModel("x", queue=0))
    with pytest.raises(TooManyRequests):
        await rig.chat()


async def test_a_fault_in_an_answer_is_an_error_and_no_silence(monkeypatch: pytest.MonkeyPatch) -> None:
    """An exception that a listener raises into an engine is lost there, and the client would wait for ever."""
    model = ScriptedModel("xyz")
    rig = Rig(model)

    def broken(token: int) -> bytes:
        raise RuntimeError("broken")

    monkeypatch.setattr(model, "token_bytes", broken)
    rig = Rig(model)
    for ask in (rig.chat, rig.chat_stream):
        with pytest.raises(EngineError, match="could not be put together"):
            await ask()


async def test_a_final_message_is_continued() -> None:
    rig = Rig(ScriptedModel(" a whale"))
    messages = [*HELLO, {"role": "assistant", "content": "I am "}]
    await rig.chat(messages=messages, continue_final_message=True)
    assert rig.prompt() == "<bos><user>hello</user><assistant>I am "
    await rig.chat(messages=messages, add_generation_prompt=False)
    assert rig.prompt().endswith("I am </assistant>")
    with pytest.raises(BadRequest):
        await rig.chat(messages=messages, continue_final_message=True, add_generation_prompt=True)
