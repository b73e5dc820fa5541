"""Text to tokens and back, for the kinds of tokenizers that there are."""

from pathlib import Path
from typing import Any

import pytest
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from modelrack.testing.hf import write_random_model
from modelrack_llm_transformers.vocabulary import Vocabulary

TEXTS = ("hello world", " a b", "Grüße, 你好 🐋🦭!", "\n\t x", "<0x41> ▁", "one <|im_end|> two")


def by_bytes(tmp_path: Path) -> Any:
    return AutoTokenizer.from_pretrained(write_random_model(tmp_path / "tiny"))


def by_pieces(tmp_path: Path) -> Any:
    """Return a tokenizer as SentencePiece's, with bytes for what it has no pieces for."""
    pieces = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    pieces += ["▁", *"abcdehlnorwtx", "▁a", "▁h", "he", "lo", "▁he"]
    vocabulary = {piece: number for number, piece in enumerate(pieces)}
    merges = [("▁", "a"), ("▁", "h"), ("h", "e"), ("l", "o"), ("▁h", "e")]
    backend = Tokenizer(models.BPE(vocabulary, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    backend.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    backend.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    backend.add_special_tokens([AddedToken(name, special=True) for name in ("<unk>", "<s>", "</s>")])
    return PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<s>", eos_token="</s>", unk_token="<unk>")


def by_space(tmp_path: Path) -> Any:
    """Return a tokenizer that knows whole words and their continuations."""
    words = ["[UNK]", "hello", "wor", "##ld", "a", "b", "x", "one", "two"]
    vocabulary = {word: number for number, word in enumerate(words)}
    backend = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    backend.decoder = decoders.WordPiece()
    return PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="[UNK]")


def open_vocabulary(tokenizer: Any, *, more: int = 0) -> Vocabulary:
    end = tokenizer.eos_token_id
    return Vocabulary(tokenizer, len(tokenizer) + more, frozenset() if end is None else frozenset((end,)))


@pytest.mark.parametrize("make", [by_bytes, by_pieces])
@pytest.mark.parametrize("text", TEXTS)
def test_a_text_comes_back_byte_for_byte(make: Any, text: str, tmp_path: Path) -> None:
    vocabulary = open_vocabulary(make(tmp_path))
    tokens = vocabulary.encode(text, add_special=False, parse_special=False)
    written = b"".join(map(vocabulary.token_bytes, tokens)).decode()
    assert written == (" " if vocabulary.begins_with_space else "") + text.replace(
        "▁", " " if make is by_pieces else "▁"
    )


def test_special_tokens_are_read_only_when_asked_for(tmp_path: Path) -> None:
    vocabulary = open_vocabulary(by_bytes(tmp_path))
    text = "one<|im_end|>two"
    read = vocabulary.encode(text, add_special=False, parse_special=True)
    plain = vocabulary.encode(text, add_special=False, parse_special=False)
    (end,) = vocabulary.end_ids
    assert end in read and end not in plain and len(plain) > len(read)
    assert vocabulary.token_bytes(end) == b"" and vocabulary.special_bytes(end) == b"<|im_end|>"
    assert vocabulary.token_name(end) == "<|im_end|>"
    assert b"".join(map(vocabulary.special_bytes, read)).decode() == text


def test_pieces_begin_with_a_space_and_with_the_token_of_the_beginning(tmp_path: Path) -> None:
    vocabulary = open_vocabulary(by_pieces(tmp_path))
    assert vocabulary.begins_with_space and vocabulary.adds_bos and vocabulary.bos_id == 1
    assert vocabulary.encode("a", add_special=True, parse_special=False)[0] == 1
    euro = vocabulary.encode("€", add_special=False, parse_special=False)
    assert [vocabulary.token_bytes(token) for token in euro[-3:]] == [b"\xe2", b"\x82", b"\xac"]


def test_words_and_their_continuations_are_told_apart(tmp_path: Path) -> None:
    vocabulary = open_vocabulary(by_space(tmp_path))
    tokens = vocabulary.encode("hello world", add_special=False, parse_special=False)
    assert b"".join(map(vocabulary.token_bytes, tokens)) == b" hello world"


def test_logits_past_the_last_token_stand_for_nothing(tmp_path: Path) -> None:
    vocabulary = open_vocabulary(by_bytes(tmp_path), more=13)
    assert vocabulary.pieces()[-13:] == [b""] * 13
    assert vocabulary.token_bytes(vocabulary.size - 1) == b"" and vocabulary.token_name(vocabulary.size - 1) == ""


def test_half_a_pair_of_surrogates_is_no_text(tmp_path: Path) -> None:
    vocabulary = open_vocabulary(by_bytes(tmp_path))
    assert vocabulary.encode("a\ud800b", add_special=False, parse_special=True)
