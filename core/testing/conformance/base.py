"""What every engine must do: shapes, counts, streams, stop strings, limits, errors."""

from typing import Any

import pytest

from .answers import check_error
from .rig import CHAT, COMPLETIONS, Target, together
from .subject import SCRIPTS

__all__ = ["LONG", "PROMPT", "BaseTests", "numbered"]

PROMPT = "one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen"
LONG = "a" + " a" * 600
"""A prompt of some 600 tokens."""

_WORDS = PROMPT.split()
_BAD: list[tuple[dict[str, Any], str]] = [
    ({"no_such_field": 1}, "no_such_field"),
    ({"max_tokens": 0}, "max_tokens"),
    ({"max_tokens": "many"}, "max_tokens"),
    ({"max_tokens": 1.5}, "max_tokens"),
    ({"temperature": 3}, "temperature"),
    ({"temperature": "hot"}, "temperature"),
    ({"top_p": 0}, "top_p"),
    ({"n": 0}, "n"),
    ({"n": 10_000}, "n"),
    ({"stop": [1]}, "stop"),
    ({"stop": ""}, "stop"),
    ({"stream": "perhaps"}, "stream"),
    ({"stream_options": {"include_everything": True}}, "stream_options"),
    ({"seed": 2**70}, "seed"),
    ({"logit_bias": {"5": 1000}}, "logit_bias"),
    ({"guided_choice": []}, "guided_choice"),
    ({"guided_regex": "a", "guided_choice": ["a"]}, ""),
]
_BAD_CHATS: list[tuple[dict[str, Any], str]] = [
    ({"messages": []}, "messages"),
    ({"messages": None}, "messages"),
    ({"messages": "hello"}, "messages"),
    ({"messages": [{"role": "wizard", "content": "hello"}]}, "messages"),
    ({"messages": [{"role": "user"}]}, "messages"),
    ({"messages": [{"role": "user", "content": 5}]}, "messages"),
    ({"messages": [{"role": "user", "content": [{"type": "smell"}]}]}, "messages"),
    ({"tool_choice": "required"}, ""),
    ({"top_logprobs": 3}, ""),
    ({"response_format": {"type": "poem"}}, "response_format"),
]
_BAD_PROMPTS: list[tuple[dict[str, Any], str]] = [
    ({"prompt": None}, "prompt"),
    ({"prompt": []}, "prompt"),
    ({"prompt": {"text": "hello"}}, "prompt"),
    ({"prompt": ["hello", 5]}, "prompt"),
    ({"prompt": [-1]}, "prompt"),
    ({"logprobs": 50}, "logprobs"),
]


def numbered(count: int, words: int = 12) -> list[str]:
    """Return as many different prompts."""
    return [" ".join((_WORDS[number % 16 :] + _WORDS)[:words]) + f" {number}" for number in range(count)]


class BaseTests:
    """The base: no engine may claim less."""

    @pytest.mark.parametrize("limit", [6, None], ids=["limited", "whole"])
    def test_answers_have_the_promised_shape_streamed_or_not(self, main: Target, path: str, limit: int | None) -> None:
        fields: dict[str, Any] = {"max_tokens": limit}
        if limit is None:
            fields = {"stop": main.either(path, PROMPT, max_tokens=24).text[12:15]}
        answer = main.both(path, PROMPT, **fields)
        assert answer.text
        assert answer.only.finish == ("length" if limit else "stop")

    def test_counts_are_true(self, main: Target, path: str) -> None:
        few, more = (main.either(path, PROMPT, max_tokens=count) for count in (3, 9))
        assert few.counts[1] == 3 and more.counts[1] == 9
        assert few.only.finish == more.only.finish == "length"
        assert more.text.startswith(few.text)
        assert few.counts[0] == more.counts[0] > 0
        assert main.either(path, f"{PROMPT} {PROMPT}", max_tokens=3).counts[0] > few.counts[0]

    def test_a_chats_prompt_has_all_its_messages(self, main: Target) -> None:
        talk = [
            {"role": "system", "content": "Be short."},
            {"role": "user", "content": "one two"},
            {"role": "assistant", "content": "three four"},
            {"role": "user", "content": PROMPT},
        ]
        whole, last = main.chat(talk, max_tokens=4), main.chat(talk[-1:], max_tokens=4)
        assert whole.counts[0] > last.counts[0]
        parts = [{"role": "user", "content": [{"type": "text", "text": PROMPT}]}]
        assert main.chat(parts, max_tokens=4).said == last.said

    def test_max_completion_tokens_wins_over_max_tokens(self, main: Target) -> None:
        assert main.chat(PROMPT, max_tokens=9, max_completion_tokens=4).counts[1] == 4

    def test_a_stream_comes_in_pieces_and_names_its_usage_only_when_asked(self, main: Target, path: str) -> None:
        stream = main.either(path, LONG, max_tokens=300, stream=True)
        assert stream.usage is None
        # An engine that is quicker than its client may put several tokens into a piece.
        assert stream.only.pieces > 3, f"300 tokens came in {stream.only.pieces} pieces"

    def test_openais_client_reads_answers_and_streams(self, main: Target) -> None:
        openai = pytest.importorskip("openai")
        said = main.chat(PROMPT, max_tokens=6).text
        messages = [{"role": "user", "content": PROMPT}]
        body: dict[str, Any] = {"model": main.uid, "messages": messages, "max_tokens": 6, "temperature": 0}
        with openai.OpenAI(
            api_key="any", base_url=f"{str(main.http.base_url).rstrip('/')}/v1", max_retries=0
        ) as client:
            assert client.chat.completions.create(**body).choices[0].message.content == said
            chunks = client.chat.completions.create(**body, stream=True)
            assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == said

    def test_a_greedy_answer_is_always_the_same(self, main: Target, path: str) -> None:
        first = main.either(path, PROMPT, max_tokens=12)
        assert all(main.either(path, PROMPT, max_tokens=12).said == first.said for _ in range(3))

    def test_several_prompts_are_answered_as_each_alone(self, main: Target) -> None:
        prompts = [PROMPT, "four five six seven eight nine", "seven eight nine ten eleven twelve"]
        alone = [main.complete(prompt, max_tokens=5) for prompt in prompts]
        answer = main.same(COMPLETIONS, {"prompt": prompts, "max_tokens": 5})
        assert answer.texts == [one.text for one in alone]
        assert answer.counts == tuple(map(sum, zip(*(one.counts for one in alone), strict=True)))

    def test_16_at_once_are_answered_as_each_alone(self, main: Target, path: str) -> None:
        prompts = numbered(16)
        alone = [main.either(path, prompt, max_tokens=16) for prompt in prompts]
        assert len({one.text for one in alone}) > 8, "the prompts are answered too much alike to tell a mix-up"

        def ask(number: int) -> Any:
            return main.either(path, prompts[number], max_tokens=16, stream=bool(number % 2)).said

        assert together(ask, range(16)) == [one.said for one in alone]

    # Stop strings

    def test_a_stop_string_ends_the_answer_before_it(self, main: Target, path: str) -> None:
        """Wherever it begins and ends: within a token, or across several."""
        text = main.either(path, PROMPT, max_tokens=14).text
        for begin, length in ((4, 3), (7, 6), (11, 1), (9, 12)):
            stop = text[begin : begin + length]
            answer = main.both(path, PROMPT, max_tokens=14, stop=stop)
            assert answer.text == text[: text.index(stop)], f"the stop string was {stop!r}"
            assert answer.only.finish == "stop"

    def test_the_stop_string_that_comes_first_wins(self, main: Target, path: str) -> None:
        text = main.either(path, PROMPT, max_tokens=14).text
        early, late = text[5:9], text[12:16]
        expected = text[: min(text.index(early), text.index(late))]
        for stop in ([late, early], [early, late], ["\x01never", early], [late, "\x01never", early]):
            assert main.both(path, PROMPT, max_tokens=14, stop=stop).text == expected

    def test_what_only_begins_like_a_stop_string_is_not_lost(self, main: Target, path: str) -> None:
        plain = main.either(path, PROMPT, max_tokens=14)
        stops = [plain.text[-4:] + "\x01never", plain.text[5:11] + "\x01never"]
        assert main.both(path, PROMPT, max_tokens=14, stop=stops).said == plain.said

    def test_a_script_is_cut_at_a_stop_string_that_repeats_its_own_beginning(self, reciter: Target, path: str) -> None:
        text = SCRIPTS["border"]
        for stop in (["abacab "], ["acabad"], ["abadab"], ["bab END"], ["END", "abab "], ["abacabaX", "b yy"]):
            expected = text[: min(text.index(one) for one in stop if one in text)]
            answer = reciter.both(path, reciter.cue("border"), stop=stop)
            assert (answer.text, answer.only.finish) == (expected, "stop"), f"the stop strings were {stop}"

    def test_no_character_is_cut(self, reciter: Target, path: str) -> None:
        script, cue = SCRIPTS["utf8"], reciter.cue("utf8")
        answer = reciter.both(path, cue)
        assert answer.text == script and answer.only.finish == "stop"
        longest = 0
        for limit in range(1, answer.counts[1]):
            for stream in (False, True):
                cut = reciter.either(path, cue, max_tokens=limit, stream=stream)
                # Of a character that is cut off by the limit, nothing or its stand-in may be left.
                cut.only.text = cut.text.rstrip("\ufffd")
                assert script.startswith(cut.text), f"{limit} tokens make {cut.text!r}"
                assert cut.only.finish == "length"
                assert len(cut.text) >= longest - stream
            longest = len(cut.text)

    # Limits and errors

    def test_a_prompt_beyond_the_context_is_refused_with_the_numbers(self, main: Target, path: str) -> None:
        length = main.context_length()
        body: dict[str, Any] = {"messages": [{"role": "user", "content": "one two " * length}]}
        if path == COMPLETIONS:
            body = {"prompt": "one two " * length}
        for stream in (False, True):
            error = main.refused(path, {**body, "max_tokens": 1, "stream": stream})
            assert error["code"] == "context_length_exceeded", error
            assert error["context_length"] == length and error["prompt_tokens"] > length, error
            assert str(length) in error["message"] and str(error["prompt_tokens"]) in error["message"]

    def test_bad_fields_are_refused_by_name(self, main: Target, path: str) -> None:
        body: dict[str, Any] = {"prompt": PROMPT}
        if path == CHAT:
            body = {"messages": [{"role": "user", "content": PROMPT}]}
        for fields, param in [*_BAD, *(_BAD_CHATS if path == CHAT else _BAD_PROMPTS)]:
            error = main.refused(path, {**body, "max_tokens": 2, **fields})
            assert error["type"] == "invalid_request_error", error
            assert str(error["param"] or "").startswith(param), f"{fields} is refused for {error['param']!r}: {error}"

    def test_bodies_that_make_no_sense_are_no_failures(self, main: Target, path: str) -> None:
        for content in (b"", b"{", b"[]", b"null", b'"hello"', b"\xff\xfe", b'{"model": 5}', b"{}" * 3, b"[" * 5000):
            response = main.http.post(path, content=content, headers={"content-type": "application/json"})
            assert response.status_code in (400, 404), f"{content[:20]!r} is answered with {response.status_code}"
            check_error(response.json())

    def test_an_unknown_model_is_a_404(self, main: Target, path: str) -> None:
        response = main.http.post(path, json={"model": "no-such-model", "messages": [], "prompt": ""})
        assert response.status_code == 404
        assert "no-such-model" in check_error(response.json())["message"]

    def test_texts_of_any_kind_are_no_failures(self, main: Target, path: str) -> None:
        for text in ("\0", "\ud7ff\ue000", "🐋" * 20, "<|im_end|>", "\r\n\t", "%s%n{{ 7 * 7 }}", "a" * 500):
            answer = main.either(path, text, max_tokens=3)
            assert answer.counts[1] <= 3
