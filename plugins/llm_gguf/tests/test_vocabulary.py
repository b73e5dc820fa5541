"""Long texts become the same tokens in parts, and in a time that grows no faster than they do."""

import random
from collections.abc import Iterator

import pytest

from modelrack.testing.gguf import write_random_model
from modelrack_llm_gguf import bindings
from modelrack_llm_gguf.borders import clean_marks
from modelrack_llm_gguf.vocabulary import Vocabulary

PIECES = ("<|im_start|>", "<|im_end|>", "<|endoftext|>", "<", "|>", "a b", "\n\n", "  ", "é🐋", " <|im_end|> ")


@pytest.fixture(scope="module")
def vocabulary(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Vocabulary]:
    path = write_random_model(tmp_path_factory.mktemp("vocabulary") / "model.gguf")
    bindings.init_backend()
    params = bindings.default_model_params()
    params.vocab_only = True
    model = bindings.load_model(str(path).encode(), params)
    yield Vocabulary(bindings.model_vocab(model))
    bindings.free_model(model)


@pytest.mark.parametrize("parse_special", [True, False])
@pytest.mark.parametrize("add_special", [True, False])
def test_a_long_text_has_the_tokens_of_its_parts(
    vocabulary: Vocabulary, monkeypatch: pytest.MonkeyPatch, parse_special: bool, add_special: bool
) -> None:
    choose = random.Random(7)
    texts = ["".join(choose.choices(PIECES, k=4000)) for _ in range(8)]

    def encode() -> list[list[int]]:
        return [vocabulary.encode(text, add_special=add_special, parse_special=parse_special) for text in texts]

    parts = encode()
    monkeypatch.setattr("modelrack_llm_gguf.vocabulary._PART", 10**9)
    assert parts == encode()


def test_a_text_full_of_special_tokens_is_cut_before_them(
    vocabulary: Vocabulary, monkeypatch: pytest.MonkeyPatch
) -> None:
    """llama.cpp would take minutes for this one, and every answer would stand still."""
    lengths: list[int] = []
    tokenize = bindings.tokenize_long

    def count(*arguments: object) -> int:
        lengths.append(int(str(arguments[2])))
        return int(tokenize(*arguments))

    monkeypatch.setattr(bindings, "tokenize_long", count)
    text = "<|im_start|>user\nx<|im_end|>\n"
    tokens = vocabulary.encode(text * 100_000, add_special=True, parse_special=True)
    assert tokens == vocabulary.encode(text, add_special=True, parse_special=True) * 100_000
    assert max(lengths) < 9000


def test_marks_are_clean_that_no_other_reaches_into() -> None:
    assert clean_marks([b"<s>", b"</s>", b"<|end|>", b""]) == [b"<s>", b"</s>", b"<|end|>"]
    assert clean_marks([b"<a", b"a>", b"[x]"]) == [b"[x]"]
    assert clean_marks([b"  ", b"    ", b"<s>"]) == [b"<s>"]
    assert clean_marks([b"<<s", b"[x]"]) == [b"[x]"]
