"""How tokens are chosen: sampling, seeds, several answers, penalties, biases, and what ends an answer."""

from typing import Any

import pytest

from .base import PROMPT
from .claims import feature
from .rig import CHAT, COMPLETIONS, Rig, Target
from .subject import SCRIPTS, SPECIAL

__all__ = ["SamplingTests"]


def _ending(rig: Rig) -> tuple[Target, str]:
    """Return a model, and a message that it answers with a natural end."""
    target = rig.target("reciter" if rig.has("reciter") else "main")
    return target, target.cue("count") if rig.has("reciter") else PROMPT


class SamplingTests:
    """The features of sampling."""

    @feature("sampling")
    @pytest.mark.parametrize(
        "fields",
        [{"top_k": 1}, {"top_p": 0.000001}, {"min_p": 1.0}, {"typical_p": 0.000001, "top_k": 1}],
        ids=["top_k", "top_p", "min_p", "typical_p"],
    )
    def test_a_cut_that_leaves_one_token_makes_the_greedy_answer(
        self, main: Target, path: str, rig: Rig, fields: dict[str, Any]
    ) -> None:
        greedy = main.either(path, PROMPT, max_tokens=12)
        assert main.either(path, PROMPT, max_tokens=12, temperature=2, **fields).said == greedy.said
        if rig.subject.is_random:
            hot = {main.either(path, PROMPT, max_tokens=12, temperature=2).text for _ in range(3)}
            assert hot != {greedy.text}, "a temperature of 2 changes nothing"

    @feature("sampling")
    def test_a_neutral_cut_cuts_nothing(self, main: Target, rig: Rig) -> None:
        neutral = {"top_k": -1, "top_p": 1, "min_p": 0, "typical_p": 1}
        texts = {main.chat(PROMPT, max_tokens=12, temperature=1, **neutral).text for _ in range(4)}
        assert len(texts) > 1 or not rig.subject.is_random
        assert main.chat(PROMPT, max_tokens=12, **neutral).said == main.chat(PROMPT, max_tokens=12).said

    @feature("seed")
    def test_a_seed_repeats_an_answer_and_another_does_not(self, main: Target, path: str, rig: Rig) -> None:
        def ask(seed: int | None, **fields: Any) -> Any:
            return main.either(path, PROMPT, max_tokens=16, temperature=1, seed=seed, **fields).said

        first = ask(5)
        assert ask(5) == first
        assert ask(5, stream=True) == first
        assert ask(-3) == ask(-3)
        if rig.subject.is_random:
            assert len({str(ask(seed)) for seed in (5, 6, 7, 8)}) > 1, "different seeds give one answer"
            assert len({str(ask(None)) for _ in range(4)}) > 1, "without a seed, all answers are the same"

    @feature("n")
    def test_n_gives_as_many_answers(self, main: Target, path: str) -> None:
        """More than most engines have places for."""
        one = main.either(path, PROMPT, max_tokens=4)
        many = main.both(path, PROMPT, max_tokens=4, n=11)
        assert many.texts == [one.text] * 11
        assert many.counts == (one.counts[0], 44)

    @feature("n")
    def test_n_times_prompts_keep_their_order(self, main: Target) -> None:
        prompts = [PROMPT, "six seven eight nine ten eleven"]
        expected = [main.complete(prompt, max_tokens=4).text for prompt in prompts for _ in range(3)]
        assert main.same(COMPLETIONS, {"prompt": prompts, "n": 3, "max_tokens": 4}).texts == expected

    @feature("n")
    def test_sampled_answers_differ(self, main: Target, rig: Rig) -> None:
        answer = main.chat(PROMPT, max_tokens=12, n=6, temperature=1)
        assert len(set(answer.texts)) > 1 or not rig.subject.is_random
        assert answer.counts[1] <= 72

    @feature("penalties")
    @pytest.mark.parametrize(
        "fields", [{"repetition_penalty": 5}, {"frequency_penalty": 2}, {"presence_penalty": 2}, {"repeat_penalty": 5}]
    )
    def test_a_penalty_changes_a_repetitive_answer(self, main: Target, path: str, fields: dict[str, Any]) -> None:
        """Among 200 tokens of any small model many are said again; with a bias, one of them all the time."""
        plain = main.either(path, PROMPT, max_tokens=200)
        assert main.either(path, PROMPT, max_tokens=200, **fields).text != plain.text
        neutral = {"repetition_penalty": 1, "frequency_penalty": 0, "presence_penalty": 0}
        few = main.either(path, PROMPT, max_tokens=16)
        assert main.either(path, PROMPT, max_tokens=16, **neutral).said == few.said

    @feature("dry")
    def test_dry_breaks_repetitions(self, main: Target, path: str) -> None:
        plain = main.either(path, PROMPT, max_tokens=200)
        fields = {"dry_multiplier": 5, "dry_base": 3, "dry_allowed_length": 1, "dry_sequence_breakers": ["~"]}
        assert main.either(path, PROMPT, max_tokens=200, **fields).text != plain.text

    @feature("logit_bias")
    def test_a_bias_forbids_or_forces_a_token(self, main: Target, path: str) -> None:
        token = main.tokens("a")[-1]
        forced = main.both(path, PROMPT, max_tokens=6, logit_bias={str(token): 100})
        assert len(set(forced.text.replace(" ", ""))) == 1 and forced.counts[1] == 6
        first = main.either(path, PROMPT, max_tokens=1).text
        ids = main.tokens(first)
        assert len(ids) == 1, f"{first!r}, the text of one token, is tokenized to {ids}"
        assert main.either(path, PROMPT, max_tokens=1, logit_bias={str(ids[0]): -100}).text != first

    @feature("logit_bias")
    @pytest.mark.parametrize("key", ["99999999", "-1", "hello", "1.5", "", "9" * 5000], ids=lambda key: key[:8])
    def test_a_bias_for_no_token_is_refused(self, main: Target, path: str, key: str) -> None:
        body = {"prompt": PROMPT} if path == COMPLETIONS else {"messages": [{"role": "user", "content": PROMPT}]}
        error = main.refused(path, {**body, "max_tokens": 2, "logit_bias": {key: 1}})
        assert str(error["param"]).startswith("logit_bias"), error

    @feature("stop_token_ids")
    def test_a_stop_token_ends_the_answer(self, main: Target, path: str) -> None:
        plain = main.either(path, PROMPT, max_tokens=12)
        for number in range(3, 9):
            before, after = (main.either(path, PROMPT, max_tokens=count).text for count in (number, number + 1))
            ids = main.tokens(after[len(before) :])
            if len(ids) == 1 and main.either(path, PROMPT, max_tokens=number, stop_token_ids=ids).said == (
                main.either(path, PROMPT, max_tokens=number).said
            ):
                break
        else:
            pytest.fail(f"no token of {plain.text!r} can be told from its text")
        stopped = main.both(path, PROMPT, max_tokens=12, stop_token_ids=ids)
        assert (stopped.text, stopped.only.finish) == (before, "stop")
        assert stopped.counts == (plain.counts[0], number + 1), "the stop token counts, and nothing after it"

    @feature("ignore_eos")
    def test_ignore_eos_goes_on_to_the_limit(self, rig: Rig, path: str) -> None:
        target, text = _ending(rig)
        ended = target.either(path, text)
        assert ended.only.finish == "stop"
        more = ended.counts[1] + 8
        answer = target.both(path, text, ignore_eos=True, max_tokens=more)
        assert (answer.only.finish, answer.counts[1]) == ("length", more)
        assert answer.text.startswith(ended.text)

    @feature("min_tokens")
    def test_min_tokens_keeps_an_answer_from_ending(self, rig: Rig, path: str) -> None:
        target, text = _ending(rig)
        ended = target.either(path, text)
        least = ended.counts[1] + 5
        answer = target.both(path, text, min_tokens=least, max_tokens=least + 40)
        assert answer.counts[1] >= least
        assert answer.text.startswith(ended.text) and len(answer.text) > len(ended.text)
        assert target.either(path, text, min_tokens=2).said == ended.said

    @feature("special_tokens")
    def test_special_tokens_are_written_out_when_asked_for(self, reciter: Target, path: str) -> None:
        script = SCRIPTS["special"]
        cue = reciter.cue("special")
        assert reciter.both(path, cue).text == script.replace(SPECIAL, "")
        assert reciter.both(path, cue, skip_special_tokens=False).text.startswith(script)

    def test_an_answer_has_a_natural_end(self, reciter: Target) -> None:
        for name in ("count", "border"):
            answer = reciter.both(CHAT, reciter.cue(name))
            assert (answer.text, answer.only.finish) == (SCRIPTS[name], "stop")
