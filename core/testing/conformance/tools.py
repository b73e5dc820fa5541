"""Tool calls, reasoning and the chat template, compared with what a reciter is known to write."""

import json
from typing import Any

import pytest

from .answers import Choice
from .base import PROMPT
from .claims import TOOLS, feature
from .rig import CHAT, Target
from .subject import SCRIPTS

__all__ = ["ToolTests"]


def _called(choice: Choice) -> list[tuple[str, Any]]:
    return [(call.name, call.value) for call in choice.calls]


def _messages(text: str) -> list[dict[str, Any]]:
    return [{"role": "user", "content": text}]


def _less(text: str, mark: str) -> str:
    """Return a text without the beginning of a mark at its end."""
    ends = (text.removesuffix(mark[:length]) for length in range(len(mark), 0, -1) if text.endswith(mark[:length]))
    return next(ends, text)


class ToolTests:
    """The features of tools, of reasoning and of chat templates."""

    def _chat(self, reciter: Target, script: str, **fields: Any) -> Choice:
        """Have a script written, whole and streamed, and return the answer."""
        return reciter.both(CHAT, reciter.cue(script), **fields).only

    @feature("tools")
    def test_a_call_is_read(self, reciter: Target) -> None:
        choice = self._chat(reciter, "call", tools=TOOLS)
        assert _called(choice) == [("get_weather", {"city": "Köln", "days": 3})]
        assert choice.finish == "tool_calls" and not choice.text.strip()

    @feature("tools")
    def test_two_calls_and_the_text_before_them_are_read(self, reciter: Target) -> None:
        choice = self._chat(reciter, "calls", tools=TOOLS, tool_choice="auto")
        assert _called(choice) == [("get_weather", {"city": "Rome"}), ("switch", {"on": True})]
        assert choice.finish == "tool_calls" and choice.text.strip() == "I ask for both."

    @feature("tools")
    def test_text_stays_text_beside_tools(self, reciter: Target) -> None:
        choice = self._chat(reciter, "count", tools=TOOLS)
        assert (choice.text, choice.calls, choice.finish) == (SCRIPTS["count"], [], "stop")

    @feature("tools")
    def test_a_call_that_cannot_be_read_is_given_back_as_text(self, reciter: Target) -> None:
        choice = self._chat(reciter, "broken_call", tools=TOOLS)
        assert "so it is." in choice.text or choice.calls

    @feature("tools")
    def test_a_call_that_is_cut_off_is_no_failure(self, reciter: Target) -> None:
        whole = reciter.chat(reciter.cue("call"), tools=TOOLS)
        for limit in range(1, whole.counts[1], 3):
            for stream in (False, True):
                choice = reciter.chat(reciter.cue("call"), tools=TOOLS, max_tokens=limit, stream=stream).only
                assert choice.finish == "length"
                assert all(call.name == "get_weather" for call in choice.calls)

    @feature("tools")
    def test_nothing_is_called_when_it_must_not_be(self, reciter: Target) -> None:
        for fields in ({"tools": TOOLS, "tool_choice": "none"}, {}):
            choice = self._chat(reciter, "call", **fields)
            assert choice.calls == [] and choice.finish == "stop"
            assert "get_weather" in choice.text

    @feature("tools")
    def test_tools_stand_in_the_prompt_and_a_conversation_goes_on(self, reciter: Target) -> None:
        cue = reciter.cue("count")
        plain = reciter.chat(cue, max_tokens=2)
        assert reciter.chat(cue, max_tokens=2, tools=TOOLS).counts[0] > plain.counts[0] + 20
        talk = [
            *_messages("What is the weather?"),
            {
                "role": "assistant",
                "content": None,
                "tool_calls": [
                    {
                        "id": "c1",
                        "type": "function",
                        "function": {"name": "get_weather", "arguments": '{"city": "Bonn"}'},
                    }
                ],
            },
            {"role": "tool", "tool_call_id": "c1", "content": cue},
        ]
        answer = reciter.same(CHAT, {"messages": talk, "tools": TOOLS})
        assert answer.text == SCRIPTS["count"]

    @feature("forced_tools")
    @pytest.mark.parametrize("choice", ["required", "switch", "get_weather"])
    def test_a_forced_tool_is_called(self, main: Target, choice: str) -> None:
        """Random weights would never call a tool: that they do proves that they must."""
        named = {"type": "function", "function": {"name": choice}}
        fields = {"tools": TOOLS, "tool_choice": "required" if choice == "required" else named, "max_tokens": 200}
        for more in ({}, {"temperature": 1, "seed": 3}):
            answer = main.both(CHAT, PROMPT, **fields, **more).only
            assert answer.finish == "tool_calls" and answer.calls, answer
            for name, value in _called(answer):
                assert name in ("switch", "get_weather") if choice == "required" else name == choice
                if name == "switch":
                    assert value in ({"on": True}, {"on": False})
                else:
                    assert len(value["city"]) <= 8 and value.get("days", 1) in range(1, 10)

    @feature("forced_tools")
    def test_one_call_is_made_when_several_must_not_be(self, main: Target) -> None:
        fields = {"tools": TOOLS, "tool_choice": "required", "parallel_tool_calls": False, "max_tokens": 200}
        assert len(main.both(CHAT, PROMPT, **fields).only.calls) == 1

    @feature("forced_tools")
    def test_a_forced_tool_that_does_not_exist_is_refused(self, main: Target) -> None:
        body = {"messages": _messages(PROMPT), "tools": TOOLS}
        main.refused(CHAT, {**body, "tool_choice": {"type": "function", "function": {"name": "fly"}}})
        main.refused(CHAT, {"messages": _messages(PROMPT), "tool_choice": "required"})

    @feature("reasoning")
    def test_reasoning_comes_apart_from_the_content(self, reciter: Target) -> None:
        choice = self._chat(reciter, "think")
        assert choice.reasoning.strip() == "Two and two\nare four."
        assert choice.text.strip() == "The answer is 4." and choice.finish == "stop"

    @feature("reasoning")
    def test_reasoning_that_is_cut_off_stays_reasoning(self, reciter: Target) -> None:
        whole = reciter.chat(reciter.cue("think"))
        for limit in range(4, whole.counts[1]):  # the mark that opens it has three tokens
            for stream in (False, True):
                choice = reciter.chat(reciter.cue("think"), max_tokens=limit, stream=stream).only
                assert choice.finish == "length"
                assert "<think" not in choice.text and "think>" not in choice.reasoning
                assert whole.only.text.strip().startswith(choice.text.strip())
                said = _less(choice.reasoning, "</think>").strip()
                assert whole.only.reasoning.strip().startswith(said)

    @feature("reasoning")
    def test_a_call_after_reasoning_is_read(self, reciter: Target) -> None:
        choice = self._chat(reciter, "reasoned_call", tools=TOOLS)
        assert choice.reasoning.strip() == "Better turn it off."
        assert _called(choice) == [("switch", {"on": False})] and choice.finish == "tool_calls"

    @feature("template_variables")
    def test_variables_reach_the_template(self, reciter: Target) -> None:
        cue = reciter.cue("count")
        for kwargs in ({"cue": cue}, json.dumps({"cue": cue})):
            answer = reciter.both(CHAT, "something else", chat_template_kwargs=kwargs)
            assert answer.text == SCRIPTS["count"]
        plain, off = (reciter.chat(cue, **more) for more in ({}, {"enable_thinking": False}))
        assert off.counts[0] > plain.counts[0] and off.text.endswith(SCRIPTS["count"])
        body = {"messages": _messages(cue), "chat_template_kwargs": "{"}
        assert reciter.refused(CHAT, body)["param"] == "chat_template_kwargs"

    @feature("continue_message")
    def test_a_message_is_gone_on_with(self, reciter: Target) -> None:
        plain = reciter.chat(reciter.cue("count"), max_tokens=5).text
        talk = [*_messages("Count."), {"role": "assistant", "content": plain}]
        answer = reciter.same(CHAT, {"messages": talk, "continue_final_message": True})
        assert answer.text == SCRIPTS["count"].removeprefix(plain)
        body = {"messages": _messages("Count."), "continue_final_message": True}
        assert str(reciter.refused(CHAT, body)["param"]) in ("messages", "continue_final_message")
