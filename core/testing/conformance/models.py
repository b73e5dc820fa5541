"""What needs models of its own, or is about what is kept: adapters, images, drafts, caches, right answers."""

import base64
from typing import Any

import pytest

from ..images import write_png
from .base import LONG, PROMPT, numbered
from .claims import feature
from .rig import CHAT, Rig, Target, together

__all__ = ["ModelTests"]


def _png(rgb: tuple[int, int, int]) -> str:
    """Return an image of one colour, as a `data:` URL."""
    return f"data:image/png;base64,{base64.b64encode(write_png(32, 32, rgb)).decode()}"


def _look(url: str, text: str = "What is it?") -> list[dict[str, Any]]:
    parts = [{"type": "text", "text": text}, {"type": "image_url", "image_url": {"url": url}}]
    return [{"role": "user", "content": parts}]


class ModelTests:
    """The features of adapters, images, caches and drafts."""

    def test_questions_are_answered_right(self, rig: Rig) -> None:
        """Alone, and all at once."""
        if not rig.subject.questions:
            pytest.skip("the subject knows no model with right answers")
        for name, questions in rig.subject.questions.items():
            target = rig.named(name)
            alone = [target.both(CHAT, question, max_tokens=64).text for question, _ in questions]
            for (question, part), text in zip(questions, alone, strict=True):
                assert part.lower() in text.lower(), f"{question!r} is answered with {text!r}"

            def ask(question: str, target: Target = target) -> str:
                return target.chat(question, max_tokens=64).text

            assert together(ask, [question for question, _ in questions]) == alone

    @feature("prefix_cache")
    def test_a_prompt_is_not_read_twice(self, main: Target, path: str) -> None:
        text = f"{path} {LONG}"
        first, second = (main.either(path, text, max_tokens=8) for _ in range(2))
        assert second.said == first.said
        assert first.cached < second.cached <= second.counts[0]
        assert second.cached > second.counts[0] // 2
        longer = main.both(path, f"{text} and so on", max_tokens=8)
        assert longer.cached > longer.counts[0] // 2
        assert main.either(path, f"b {text}", max_tokens=8).cached < second.cached // 2

    @feature("prefix_cache")
    def test_answers_are_the_same_with_and_without_what_is_kept(self, main: Target) -> None:
        """Also when 16 prompts with one beginning come at once, and after others have pushed them out."""
        texts = [f"{number} {' a' * (number + 3)} {PROMPT}" for number in range(4)]
        shared = [f"{PROMPT} {text}" for text in texts]
        first = [main.chat(text, max_tokens=10).said for text in shared]

        def ask(text: str) -> Any:
            return main.chat(text, max_tokens=10).said

        assert together(ask, shared * 4) == first * 4
        for other in numbered(9):
            main.complete(f"{other} {LONG}", max_tokens=1)
        assert [ask(text) for text in shared] == first

    @feature("cache_salt")
    def test_what_is_kept_is_kept_apart_by_its_salt(self, main: Target, path: str) -> None:
        text = f"{path} salted {LONG}"
        first = main.either(path, text, max_tokens=4, cache_salt="one")
        assert main.either(path, text, max_tokens=4, cache_salt="two").cached <= first.cached
        again = main.either(path, text, max_tokens=4, cache_salt="one")
        assert again.cached > first.cached and again.said == first.said

    @feature("lora")
    def test_an_adapter_is_used_when_it_is_named(self, rig: Rig, path: str) -> None:
        target, names = rig.target("adapted"), list(rig.subject.models["adapted"].adapters)
        plain = target.both(path, PROMPT, max_tokens=12)
        adapted = {name: target.both(path, PROMPT, max_tokens=12, lora_name=name) for name in names}
        texts = [plain.text, *(answer.text for answer in adapted.values())]
        assert len(set(texts)) == len(texts), "an adapter changes nothing"

        def ask(number: int) -> Any:
            name = [None, *names][number % (len(names) + 1)]
            return name, target.either(path, PROMPT, max_tokens=12, lora_name=name).said

        for name, said in together(ask, range(9)):
            assert said == (adapted[name] if name else plain).said, "answers of adapters are mixed up"

    @feature("lora")
    def test_an_adapter_that_is_not_there_is_refused(self, rig: Rig, main: Target) -> None:
        for target in (rig.target("adapted"), main):
            body = {"messages": [{"role": "user", "content": PROMPT}], "lora_name": "nobody", "max_tokens": 2}
            assert target.refused(CHAT, body)["param"] == "lora_name"

    @feature("images")
    def test_an_image_changes_the_answer(self, rig: Rig) -> None:
        target = rig.target("seeing")
        blind = target.chat("What is it?", max_tokens=8)
        black, white = (
            target.same(CHAT, {"messages": _look(_png(rgb)), "max_tokens": 8}) for rgb in ((0, 0, 0), (255, 255, 255))
        )
        assert black.counts[0] > blind.counts[0] and black.counts == white.counts
        alone = [target.chat(_look(_png((level, 0, 0))), max_tokens=8).said for level in (0, 90, 180, 255)]

        def ask(level: int) -> Any:
            return target.chat(_look(_png((level, 0, 0))), max_tokens=8).said

        assert together(ask, [0, 90, 180, 255]) == alone

    @feature("images")
    def test_what_is_no_image_is_refused(self, rig: Rig, main: Target) -> None:
        seeing = rig.target("seeing")
        for url in ("data:image/png;base64,AAAA", "data:image/png;base64,!", "nonsense", "file:///etc/hostname"):
            error = seeing.refused(CHAT, {"messages": _look(url), "max_tokens": 2})
            assert str(error["param"]).startswith("messages"), error
        error = main.refused(CHAT, {"messages": _look(_png((0, 0, 0))), "max_tokens": 2})
        assert str(error["param"]).startswith("messages"), error

    @feature("speculation")
    def test_drafts_change_no_answer(self, rig: Rig, main: Target, path: str) -> None:
        target = rig.target("speculating")
        prompts = [*numbered(4), "a b c a b c a b c a b c"]
        plain = [main.either(path, prompt, max_tokens=60) for prompt in prompts]
        alone = [target.both(path, prompt, max_tokens=60) for prompt in prompts]
        assert [answer.said for answer in alone] == [answer.said for answer in plain]
        assert [answer.counts for answer in alone] == [answer.counts for answer in plain]

        def ask(prompt: str) -> Any:
            return target.either(path, prompt, max_tokens=60).said

        assert together(ask, prompts) == [answer.said for answer in alone]
