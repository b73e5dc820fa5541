"""Long texts become the same tokens in parts, and in a time that grows no faster than they do."""

import random
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from modelrack.errors import EngineError
from modelrack.testing.gguf import write_random_model
from modelrack_llm_gguf import bindings
from modelrack_llm_gguf.borders import clean_marks
from modelrack_llm_gguf.vocabulary import Vocabulary

PIECES = ("<|im_start|>", "<|im_end|>", "<|endoftext|>", "<", "|>", "a b", "\n\n", "  ", "é🐋", " <|im_end|> ")


@contextmanager
def opened(folder: Path) -> Iterator[Vocabulary]:
    path = write_random_model(folder / "model.gguf")
    bindings.init_backend()
    params = bindings.default_model_params()
    params.vocab_only = True
    model = bindings.load_model(str(path).encode(), params)
    yield Vocabulary(bindings.model_vocab(model))
    bindings.free_model(model)


@pytest.fixture(scope="module")
def vocabulary(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Vocabulary]:
    with opened(tmp_path_factory.mktemp("vocabulary")) as found:
        yield found


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


def test_texts_may_be_encoded_by_several_threads(vocabulary: Vocabulary) -> None:
    texts = [f"{number} " + "<|im_start|>words and more of them<|im_end|>" * 3000 for number in range(12)]

    def encode(text: str) -> list[int]:
        return vocabulary.encode(text, add_special=True, parse_special=True)

    alone = [(encode(text), encode(text[:7])) for text in texts]
    with ThreadPoolExecutor(4) as pool:
        running = pool.map(encode, texts)
        short = [encode(text[:7]) for text in texts]
        assert list(zip(running, short, strict=True)) == alone


def test_a_closed_vocabulary_encodes_no_more(tmp_path: Path) -> None:
    """Not even the rest of what it is at."""
    with opened(tmp_path) as vocabulary:
        text = "<|im_start|>words" * 200_000
        with ThreadPoolExecutor(1) as pool:
            running = pool.submit(vocabulary.encode, text, add_special=True, parse_special=True)
            while not running.running():
                pass
            vocabulary.close()
            with pytest.raises(EngineError, match="closed"):
                running.result()
        for short in ("a", text):
            with pytest.raises(EngineError, match="closed"):
                vocabulary.encode(short, add_special=True, parse_special=True)


def test_marks_are_clean_that_no_other_reaches_into() -> None:
    assert clean_marks([b"<s>", b"</s>", b"<|end|>", b""]) == [b"<s>", b"</s>", b"<|end|>"]
    assert clean_marks([b"<a", b"a>", b"[x]"]) == [b"[x]"]
    assert clean_marks([b"  ", b"    ", b"<s>"]) == [b"<s>"]
    assert clean_marks([b"<<s", b"[x]"]) == [b"[x]"]
