"""Tokens and text, and prompts in other forms: token ids, echoes, suffixes."""

from .answers import read_answer
from .base import PROMPT
from .claims import feature
from .rig import COMPLETIONS, Target

__all__ = ["TokenTests"]

_TEXTS = (PROMPT, "Grüße an 🐋!", "  two  spaces ", "line\nline\n", "a", "x = {1: [2, 3]}  # no", "你好 नमस्ते")


class TokenTests:
    """The base's routes for tokens, and the features of prompts."""

    def test_text_becomes_tokens_and_text_again(self, main: Target) -> None:
        for text in _TEXTS:
            response = main.post(
                "/v1/tokenize", {"prompt": text, "return_token_strs": True, "add_special_tokens": False}
            )
            assert response.status_code == 200, response.text
            found = response.json()
            assert found["count"] == len(found["tokens"]) == len(found["token_strs"]) > 0
            assert found["max_model_len"] is None or found["max_model_len"] > 0
            back = main.post("/v1/detokenize", {"tokens": found["tokens"]})
            assert back.status_code == 200 and back.json() == {"prompt": text}
            names = main.post("/v1/convert_ids_to_tokens", {"input": found["tokens"]})
            assert names.status_code == 200 and len(names.json()) == found["count"]
            rows = main.post("/v1/convert_ids_to_tokens", {"input": [found["tokens"], []]})
            assert rows.status_code == 200 and rows.json() == [names.json(), []]

    def test_counts_of_tokens_are_those_of_usage(self, main: Target) -> None:
        response = main.post("/v1/tokenize", {"messages": [{"role": "user", "content": PROMPT}]})
        assert response.status_code == 200, response.text
        assert response.json()["count"] == main.chat(PROMPT, max_tokens=1).counts[0]
        response = main.post("/v1/tokenize", {"prompt": PROMPT})
        assert response.json()["count"] == main.complete(PROMPT, max_tokens=1).counts[0]

    def test_what_is_no_token_is_refused(self, main: Target) -> None:
        assert main.refused("/v1/detokenize", {"tokens": [10**9]})["param"] == "tokens"
        assert str(main.refused("/v1/detokenize", {"tokens": ["a"]})["param"]).startswith("tokens")
        assert main.refused("/v1/convert_ids_to_tokens", {"input": [10**9]})["param"] == "input"
        main.refused("/v1/tokenize", {})
        main.refused("/v1/tokenize", {"prompt": "a", "messages": [{"role": "user", "content": "a"}]})

    @feature("token_prompts")
    def test_prompts_can_be_token_ids(self, main: Target) -> None:
        response = main.post("/v1/tokenize", {"prompt": PROMPT})
        ids = response.json()["tokens"]
        text = main.complete(PROMPT, max_tokens=6)
        assert main.same(COMPLETIONS, {"prompt": ids, "max_tokens": 6}).said == text.said
        several = main.same(COMPLETIONS, {"prompt": [ids, ids[:5]], "max_tokens": 6})
        assert several.choices[0].text == text.text
        assert several.counts == (len(ids) + 5, 12)

    @feature("token_prompts")
    def test_ids_that_are_no_tokens_are_refused(self, main: Target) -> None:
        error = main.refused(COMPLETIONS, {"prompt": [1, 10**8], "max_tokens": 2})
        assert str(error["param"]).startswith("prompt"), error

    @feature("echo")
    def test_echo_begins_with_the_prompt(self, main: Target) -> None:
        prompts = [PROMPT, "four five six seven"]
        plain = main.complete(prompts, max_tokens=4)
        answer = main.same(COMPLETIONS, {"prompt": prompts, "max_tokens": 4, "echo": True})
        assert answer.texts == [prompt + text for prompt, text in zip(prompts, plain.texts, strict=True)]
        assert answer.counts == plain.counts

    @feature("suffix")
    def test_a_suffix_is_read(self, main: Target) -> None:
        plain = main.complete(PROMPT, max_tokens=4)
        filled = main.same(COMPLETIONS, {"prompt": PROMPT, "suffix": " twenty twenty-one", "max_tokens": 4})
        assert filled.counts[0] > plain.counts[0] + 3, "the suffix is not in the prompt"
        response = main.post(COMPLETIONS, {"prompt": PROMPT, "suffix": "", "max_tokens": 4, "temperature": 0})
        assert read_answer(response.json(), main.uid).text == plain.text
