"""Log probabilities: shapes, sums, and that all ways to ask for them tell the same."""

import math
from typing import Any

import pytest

from .answers import Choice, Token
from .base import PROMPT
from .claims import feature
from .rig import CHAT, COMPLETIONS, Target

__all__ = ["LogprobTests"]

_CLOSE = 0.02
"""How far log probabilities of one token may lie apart when it was computed in another batch."""


def _asked(path: str, alternatives: int) -> dict[str, Any]:
    if path == CHAT:
        return {"logprobs": True, "top_logprobs": alternatives}
    return {"logprobs": alternatives}


def _check_token(token: Token, alternatives: int) -> None:
    assert token.logprob is not None and token.logprob <= 1e-4, token
    assert len(token.top) == alternatives, f"{alternatives} alternatives were asked for: {token}"
    values = [value for _, value in token.top]
    assert values == sorted(values, reverse=True), f"alternatives are not in order: {token}"
    assert sum(map(math.exp, values)) <= 1.001, f"alternatives have more than all the probability: {token}"


def _close(one: Choice, other: Choice) -> None:
    assert one.tokens and other.tokens and len(one.tokens) == len(other.tokens)
    for a, b in zip(one.tokens, other.tokens, strict=True):
        assert a.text == b.text
        assert a.logprob is not None and b.logprob is not None
        assert math.isclose(a.logprob, b.logprob, abs_tol=_CLOSE), (a, b)


class LogprobTests:
    """The features `logprobs` and `prompt_logprobs`."""

    @feature("logprobs")
    @pytest.mark.parametrize("alternatives", [0, 1, 5])
    def test_each_token_has_its_probability(self, main: Target, path: str, alternatives: int) -> None:
        choice = main.both(path, PROMPT, max_tokens=8, **_asked(path, alternatives)).only
        assert choice.tokens is not None and len(choice.tokens) == 8
        assert "".join(token.text for token in choice.tokens) == choice.text
        for token in choice.tokens:
            _check_token(token, alternatives)
            if token.data is not None:
                assert token.data.decode() == token.text
            if alternatives:
                assert token.top[0][0] == token.text, "greedy, it must be the likeliest"
                assert token.top[0][1] == pytest.approx(token.logprob)

    @feature("logprobs")
    def test_they_are_absent_unless_asked_for(self, main: Target, path: str) -> None:
        assert main.both(path, PROMPT, max_tokens=3).only.tokens is None

    @feature("logprobs")
    def test_asking_for_them_changes_nothing(self, main: Target, path: str) -> None:
        plain, told = (main.either(path, PROMPT, max_tokens=8, **more) for more in ({}, _asked(path, 2)))
        assert (told.text, told.only.finish, told.counts) == (plain.text, plain.only.finish, plain.counts)

    @feature("logprobs")
    def test_offsets_lead_to_the_tokens(self, main: Target) -> None:
        choice = main.complete(PROMPT, max_tokens=8, logprobs=1).only
        assert choice.tokens is not None
        for token in choice.tokens:
            assert token.offset is not None and choice.text[token.offset :].startswith(token.text)

    @feature("logprobs")
    def test_a_chat_and_its_prompt_completed_tell_the_same(self, main: Target) -> None:
        response = main.post("/v1/tokenize", {"messages": [{"role": "user", "content": PROMPT}]})
        assert response.status_code == 200, response.text
        chat = main.chat(PROMPT, max_tokens=6, **_asked(CHAT, 3))
        response = main.post(
            COMPLETIONS, {"prompt": response.json()["tokens"], "max_tokens": 6, "logprobs": 3, "temperature": 0}
        )
        if response.status_code == 400:
            pytest.skip("the engine takes no prompts of token ids, so a chat's prompt cannot be completed")
        from .answers import read_answer

        completion = read_answer(response.json(), main.uid)
        assert completion.text == chat.text and completion.counts == chat.counts
        _close(chat.only, completion.only)

    @feature("logprobs")
    def test_they_are_the_models_own_whatever_the_temperature(self, main: Target, path: str) -> None:
        cold = main.either(path, PROMPT, max_tokens=1, **_asked(path, 5)).only
        # A hot model may end at once, or write half a character.
        hots = (main.either(path, PROMPT, max_tokens=1, temperature=1.7, **_asked(path, 5)).only for _ in range(9))
        hot = next(one for one in hots if one.tokens)
        assert cold.tokens and hot.tokens
        assert dict(hot.tokens[0].top) == pytest.approx(dict(cold.tokens[0].top), abs=_CLOSE)

    @feature("logprobs")
    def test_they_end_where_a_stop_string_ends_the_answer(self, main: Target, path: str) -> None:
        text = main.either(path, PROMPT, max_tokens=12).text
        choice = main.both(path, PROMPT, max_tokens=12, stop=text[8:11], **_asked(path, 1)).only
        assert choice.text == text[: text.index(text[8:11])]
        joined = "".join(token.text for token in choice.tokens or ())
        assert choice.text.startswith(joined) or joined.startswith(choice.text)
        assert len(joined) <= len(choice.text) + 8

    @feature("prompt_logprobs")
    def test_echo_tells_those_of_the_prompt(self, main: Target) -> None:
        plain = main.complete(PROMPT, max_tokens=4, logprobs=2)
        choice = main.same(COMPLETIONS, {"prompt": PROMPT, "max_tokens": 4, "logprobs": 2, "echo": True}).only
        assert choice.text == PROMPT + plain.text
        assert choice.tokens is not None and len(choice.tokens) == sum(plain.counts)
        assert "".join(token.text for token in choice.tokens) == choice.text
        assert choice.tokens[0].logprob is None and choice.tokens[0].top == []
        for token in choice.tokens[1:]:
            assert token.logprob is not None and token.logprob <= 1e-4
            assert sum(math.exp(value) for _, value in token.top) <= 1.001
            assert token.offset is not None and choice.text[token.offset :].startswith(token.text)
        tail = Choice(tokens=choice.tokens[-4:])
        _close(tail, plain.only)

    @feature("prompt_logprobs")
    def test_an_answer_read_again_has_the_probabilities_it_was_given(self, main: Target) -> None:
        first = main.complete(PROMPT, max_tokens=6, logprobs=1)
        again = main.complete(PROMPT + first.text, max_tokens=1, logprobs=1, echo=True)
        assert first.only.tokens and again.only.tokens
        told = again.only.tokens[:-1][-6:]
        if [token.text for token in told] == [token.text for token in first.only.tokens]:
            _close(Choice(tokens=told), first.only)
