"""Completions, tokens and names of a model that answers by a script."""

import asyncio
import threading
from typing import Any

import pytest

from llm_rig import HELLO, Rig
from llm_scripted import ScriptedModel, ids
from modelrack.errors import BadRequest, LaunchFailed
from modelrack.llm.contract import Generation, Listener


def text(events: list[dict[str, Any]], index: int) -> str:
    """Return the text that a stream's chunks add up to."""
    return "".join(one["text"] for event in events for one in event["choices"] if one["index"] == index)


@pytest.mark.parametrize("step_tokens", [1, 5])
@pytest.mark.parametrize(
    "fields",
    [
        {"prompt": "one"},
        {"prompt": ["one", "two"], "n": 2, "echo": True},
        {"prompt": [65, 66], "echo": True, "logprobs": 2},
        {"prompt": [[65], [66, 67]], "stop": ["ö"], "logprobs": 0},
        {"prompt": "€", "echo": True, "logprobs": 1, "stop": "w", "n": 2},
        {"prompt": "one", "max_tokens": 3, "skip_special_tokens": False},
    ],
)
async def test_a_stream_says_what_the_answer_says(fields: dict[str, Any], step_tokens: int) -> None:
    rig = Rig(ScriptedModel(lambda prompt, index: ids(f"[{prompt}] wörld{index}<other>"), step_tokens=step_tokens))
    whole = await rig.ask("generate", **fields)
    events = await rig.stream("generate", stream_options={"include_usage": True}, **fields)
    assert events[-1]["usage"] == whole["usage"]
    assert [choice["index"] for choice in whole["choices"]] == list(range(len(whole["choices"])))
    for choice in whole["choices"]:
        index = choice["index"]
        chunks = [one for event in events for one in event["choices"] if one["index"] == index]
        assert text(events, index) == choice["text"]
        assert chunks[-1]["finish_reason"] == choice["finish_reason"]
        joined: dict[str, list[Any]] = {}
        for one in chunks:
            for name, values in (one["logprobs"] or {}).items():
                joined.setdefault(name, []).extend(values or ())
        assert joined == {name: values or [] for name, values in (choice["logprobs"] or {}).items()}


async def test_logprobs_point_into_the_text() -> None:
    rig = Rig(ScriptedModel("a€b STOP"))
    answer = await rig.ask("generate", prompt="wie ", echo=True, logprobs=1, stop="STOP")
    (choice,) = answer["choices"]
    logprobs = choice["logprobs"]
    assert choice["text"] == "wie a€b "
    assert logprobs["tokens"][:5] == ["<bos>", "w", "i", "e", " "]
    assert logprobs["token_logprobs"][0] is None
    assert logprobs["top_logprobs"][0] is None
    assert logprobs["text_offset"][:5] == [0, 0, 1, 2, 3]
    for token, offset in zip(logprobs["tokens"][1:], logprobs["text_offset"][1:], strict=True):
        assert token == "\ufffd" or choice["text"][offset:].startswith(token)
    assert len({len(values) for values in logprobs.values()}) == 1


async def test_a_text_may_be_filled_in() -> None:
    rig = Rig(ScriptedModel("mid", fill_in=(262, 263, 264)))
    await rig.ask("generate", prompt="be", suffix="af")
    assert rig.prompt() == "<bos><pre>be<suf>af<mid>"
    with pytest.raises(BadRequest, match="suffix"):
        await Rig(ScriptedModel("x")).ask("generate", prompt="be", suffix="af")
    with pytest.raises(BadRequest, match="suffix"):
        await rig.ask("generate", prompt=[1, 2], suffix="af")


async def test_prompts() -> None:
    rig = Rig(ScriptedModel("x"))
    cases: list[tuple[Any, dict[str, Any], str]] = [
        ("a", {}, "<bos>a"),
        ("a", {"add_special_tokens": False}, "a"),
        ("", {}, "<bos>"),
        ("", {"add_special_tokens": False}, "<bos>"),
        ([7, 8], {}, "\x07\x08"),
    ]
    for prompt, more, expected in cases:
        await rig.ask("generate", prompt=prompt, **more)
        assert rig.prompt() == expected
    wrong: list[Any] = [[9999], [[1], [9999]], "x" * 3000]
    for prompt in wrong:
        with pytest.raises(BadRequest):
            await rig.ask("generate", prompt=prompt)


async def test_if_one_prompt_is_refused_none_goes_on() -> None:
    rig = Rig(ScriptedModel("x", queue=2))
    with pytest.raises(Exception, match="full"):
        await rig.ask("generate", prompt=["a", "b", "c"])
    assert rig.model.cancelled == [None, None]


async def test_more_prompts_than_could_ever_be_queued_are_refused_by_name() -> None:
    rig = Rig(ScriptedModel("x", queue=6, max_sequences=6))
    for n, most in ((1, 6), (2, 3), (5, 2), (7, 1)):
        answer = await rig.ask("generate", prompt=["a"] * most, n=n)
        assert len(answer["choices"]) == most * n
        for stream in (False, True):
            with pytest.raises(BadRequest, match=f"{most + 1} prompts") as caught:
                await rig.ask("generate", prompt=["a"] * (most + 1), n=n, stream=stream)
            assert caught.value.param == "prompt"
    assert len(rig.model.generations) == 12, "refused before anything is queued"


@pytest.mark.parametrize("ability", ["generate", "chat", "tokenize"])
async def test_long_texts_are_encoded_beside_the_event_loop(ability: str) -> None:
    """Where the engine allows it; short ones are not worth it."""
    moved = threading.Event()

    class Model(ScriptedModel):
        def encode(self, text: str, *, add_special: bool, parse_special: bool) -> list[int]:
            if len(text) > 10_000:
                assert moved.wait(20), "the event loop stands still"
            return super().encode(text, add_special=add_special, parse_special=parse_special)

    rig = Rig(Model("hi", n_ctx=100_000, encodes_in_threads=True))
    long = {"messages": [{"role": "user", "content": "x" * 20_000}]} if ability == "chat" else {"prompt": "x" * 20_000}
    asking = asyncio.create_task(rig.ask(ability, **long))
    await rig.ask("generate", prompt="short")
    moved.set()
    await asking
    plain = await Rig(Model("hi", n_ctx=100_000)).ask(ability, **long)
    assert plain.get("count") == (await asking).get("count") and plain.get("usage") == (await asking).get("usage")


class Forgetful(ScriptedModel):
    """Gives fewer log probabilities than were asked for."""

    gives: int | None = None

    async def submit(self, generation: Generation, listener: Listener) -> Any:
        return await super().submit(generation, _Less(listener, self.gives))


class _Less:
    def __init__(self, listener: Listener, gives: int | None) -> None:
        self._listener, self._gives = listener, gives
        self.end, self.fail = listener.end, listener.fail

    def begin(self, prompt_tokens: int, cached_tokens: int, prompt_logprobs: Any = None) -> None:
        self._listener.begin(prompt_tokens, cached_tokens, self._less(prompt_logprobs))

    def take(self, index: int, tokens: Any, logprobs: Any) -> None:
        self._listener.take(index, tokens, self._less(logprobs))

    def _less(self, logprobs: Any) -> Any:
        return None if self._gives is None or logprobs is None else logprobs[: self._gives]


@pytest.mark.parametrize("gives", [None, 0, 1])
@pytest.mark.parametrize("stream", [False, True])
async def test_log_probabilities_that_an_engine_leaves_out_cost_no_answer(gives: int | None, stream: bool) -> None:
    class Model(Forgetful):
        pass

    Model.gives = gives
    rig = Rig(Model("abcd", step_tokens=2))
    if stream:
        events = await rig.stream("generate", prompt="p", logprobs=1, echo=True)
        assert text(events, 0) == "pabcd"
        deltas = [event["choices"][0]["delta"] for event in await rig.chat_stream(logprobs=True)]
        assert "".join(delta.get("content", "") for delta in deltas) == "abcd"
        return
    (choice,) = (await rig.ask("generate", prompt="p", logprobs=1, echo=True))["choices"]
    assert choice["text"] == "pabcd"
    logprobs = choice["logprobs"]
    pairs = zip(logprobs["tokens"], logprobs["token_logprobs"], strict=True)
    given = [token for token, value in pairs if value is not None]
    assert given == (["a", "c"] if gives == 1 else [])
    chat = await rig.chat(logprobs=True)
    assert chat["message"]["content"] == "abcd"
    assert [entry["token"] for entry in chat["logprobs"]["content"]] == given


@pytest.mark.parametrize("form", [{"type": "other"}, {"type": "json_object", "schema": 3}, {"type": "json_schema"}])
async def test_formats_are_checked(form: dict[str, Any]) -> None:
    with pytest.raises(BadRequest) as caught:
        await Rig(ScriptedModel("x")).ask("generate", prompt="a", response_format=form)
    assert caught.value.param == "response_format"


async def test_tokenize_and_back() -> None:
    rig = Rig(ScriptedModel("x", begins_with_space=False))
    answer = await rig.ask("tokenize", prompt="hé", return_token_strs=True)
    assert answer["tokens"] == ids("<bos>hé")
    assert answer["token_strs"] == ["<bos>", "h", "\ufffd", "\ufffd"]
    assert (answer["count"], answer["max_model_len"]) == (4, 2048)
    assert await rig.ask("detokenize", tokens=answer["tokens"]) == {"prompt": "hé"}
    assert await rig.ask("detokenize", tokens=[]) == {"prompt": ""}
    chat = await rig.ask("tokenize", messages=HELLO)
    assert chat["tokens"] == ids("<user>hello</user><assistant>")
    chat = await rig.ask("tokenize", messages=HELLO, add_generation_prompt=False, add_special_tokens=True)
    assert chat["tokens"] == ids("<bos><user>hello</user>")
    assert await rig.ask("convert_ids_to_tokens", input=[65, 257]) == ["<0x41>", "<end>"]
    assert await rig.ask("convert_ids_to_tokens", input=[[65], []]) == [["<0x41>"], []]
    for ability, fields in (
        ("detokenize", {"tokens": [9999]}),
        ("convert_ids_to_tokens", {"input": [9999]}),
        ("tokenize", {"messages": HELLO, "chat_template_kwargs": {"mood": 1}}),
        ("tokenize", {"messages": HELLO, "tools": [{"type": "function", "function": {"name": "f"}}]}),
    ):
        with pytest.raises(BadRequest):
            await rig.ask(ability, **fields)


async def test_a_space_that_encoding_puts_before_a_text_is_taken_away() -> None:
    rig = Rig(ScriptedModel("x", begins_with_space=True))
    assert await rig.ask("detokenize", tokens=ids("<bos> a b")) == {"prompt": "a b"}


async def test_without_a_template_there_is_no_chat() -> None:
    rig = Rig(ScriptedModel("x", chat_template=None))
    assert "chat" not in rig.handlers
    with pytest.raises(BadRequest, match="no chat template"):
        await rig.ask("tokenize", messages=HELLO)


def test_a_broken_template_fails_the_launch() -> None:
    with pytest.raises(LaunchFailed, match="chat template"):
        Rig(ScriptedModel("x", chat_template="{% for %}"))
