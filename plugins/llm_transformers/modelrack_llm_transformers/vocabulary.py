"""The model's vocabulary: text to tokens and back."""

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any

from tokenizers import Tokenizer

__all__ = ["Vocabulary"]

_BYTE = re.compile(r"<0x([0-9A-Fa-f]{2})>")
_WORD = "\u2581"
"""SentencePiece's mark for a space."""
_FILL_IN = (
    ("<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>"),
    ("<fim_prefix>", "<fim_suffix>", "<fim_middle>"),
    ("<fim-prefix>", "<fim-suffix>", "<fim-middle>"),
    ("<｜fim▁begin｜>", "<｜fim▁hole｜>", "<｜fim▁end｜>"),
    ("▁<PRE>", "▁<SUF>", "▁<MID>"),
)
"""Names of the tokens before a prefix, a suffix and the middle, as models were trained with them."""


class Vocabulary:
    """Tokens of a loaded model.

    Args:
        tokenizer: as Transformers loads it.
        size: columns of the model's logits; tokens past the tokenizer's last one write nothing.
        end_ids: the tokens that end an answer.
    """

    def __init__(self, tokenizer: Any, size: int, end_ids: frozenset[int]) -> None:
        self._tokenizer = tokenizer
        self.size = size
        self.end_ids = end_ids
        backend = getattr(tokenizer, "backend_tokenizer", None)
        self._reading: Tokenizer | None = None
        self._plain: Tokenizer | None = None
        if isinstance(backend, Tokenizer):
            text = backend.to_str()
            self._reading, self._plain = Tokenizer.from_str(text), Tokenizer.from_str(text)
            self._plain.encode_special_tokens = True
            for one in (self._reading, self._plain):
                one.no_padding()
                one.no_truncation()
        added = tokenizer.added_tokens_decoder
        self._added: dict[int, str] = {token: str(one.content) for token, one in added.items()}
        special = {token for token, one in added.items() if one.special}
        self._special = frozenset(special | set(tokenizer.all_special_ids) | end_ids)
        self._names: list[str] = self._read_names()
        self._piece = self._make_piece()
        self._bytes: dict[int, bytes] = {}

    def _read_names(self) -> list[str]:
        names = [""] * max(self.size, 1)
        for name, token in self._tokenizer.get_vocab().items():
            if 0 <= token < len(names):
                names[token] = name
        return names

    @property
    def encodes_in_threads(self) -> bool:
        """Return whether several threads may call `encode` at once: tokenizers in Python make no such promise."""
        return self._reading is not None

    @cached_property
    def bos_id(self) -> int | None:
        """Return the token that begins a text."""
        token = self._tokenizer.bos_token_id
        return token if isinstance(token, int) else None

    @cached_property
    def adds_bos(self) -> bool:
        """Return whether a text is begun with that when special tokens are added."""
        tokens = self.encode("a", add_special=True, parse_special=False)
        return self.bos_id is not None and tokens[:1] == [self.bos_id]

    @cached_property
    def begins_with_space(self) -> bool:
        """Return whether texts get a space before them when they are encoded."""
        tokens = self.encode("a", add_special=False, parse_special=False)
        return b"".join(map(self.token_bytes, tokens)).startswith(b" ")

    @cached_property
    def fill_in(self) -> tuple[int, int, int] | None:
        """Return the tokens before a prefix, a suffix and the middle; None where one is missing."""
        known = {name: token for token, name in enumerate(self._names) if name}
        for prefix, suffix, middle in _FILL_IN:
            if prefix in known and suffix in known and middle in known:
                return known[prefix], known[suffix], known[middle]
        return None

    @cached_property
    def template_variables(self) -> Mapping[str, str]:
        """Return the special tokens by the names that chat templates use."""
        found = self._tokenizer.special_tokens_map
        return {name: str(text) for name, text in found.items() if isinstance(text, str)}

    @cached_property
    def chat_template(self) -> str | None:
        """Return the template that comes with the tokenizer."""
        template = self._tokenizer.chat_template
        if isinstance(template, Mapping):
            template = template.get("default")
        return template if isinstance(template, str) else None

    @property
    def specials(self) -> frozenset[int]:
        """Return the tokens that write nothing."""
        return self._special

    def pieces(self) -> list[bytes]:
        """Return what each token writes, special ones their names."""
        return [self.special_bytes(token) for token in range(self.size)]

    def encode(self, text: str, *, add_special: bool, parse_special: bool) -> list[int]:
        """Return the tokens of a text."""
        tokenizer = self._reading if parse_special else self._plain
        # Half a surrogate pair is no text.
        text = text.encode("utf-8", "replace").decode()
        if tokenizer is None:
            return list(
                self._tokenizer.encode(text, add_special_tokens=add_special, split_special_tokens=not parse_special)
            )
        return list(tokenizer.encode(text, add_special_tokens=add_special).ids)

    def encode_plainly(self, text: bytes) -> Sequence[int]:
        """Return the tokens of a text without any special ones, as constraints ask for them."""
        return self.encode(text.decode("utf-8", "replace"), add_special=False, parse_special=False)

    def token_bytes(self, token: int) -> bytes:
        """Return what a token adds to a text; nothing for a special token."""
        found = self._bytes.get(token)
        if found is None:
            found = self._bytes[token] = b"" if token in self._special else self.special_bytes(token)
        return found

    def special_bytes(self, token: int) -> bytes:
        """Return what a token adds when special tokens are written out too."""
        added = self._added.get(token)
        if added is not None:
            return added.encode()
        name = self.token_name(token)
        return self._piece(name) if name else b""

    def token_name(self, token: int) -> str:
        """Return a token as the vocabulary writes it."""
        return self._names[token] if 0 <= token < len(self._names) else ""

    def _make_piece(self) -> Callable[[str], bytes]:
        """Return what turns a token's name into what it writes."""
        parts = list(_decoders(self._reading)) if self._reading is not None else []
        kinds = {part.get("type") for part in parts}
        if "ByteLevel" in kinds:
            alphabet = _byte_alphabet()
            return lambda name: _by_alphabet(name, alphabet)
        if "WordPiece" in kinds:
            prefix = next(str(part.get("prefix", "##")) for part in parts if part.get("type") == "WordPiece")
            return lambda name: (name[len(prefix) :] if name.startswith(prefix) else f" {name}").encode()
        if "BPEDecoder" in kinds:
            suffix = next(str(part.get("suffix", "</w>")) for part in parts if part.get("type") == "BPEDecoder")
            return lambda name: name.replace(suffix, " ").encode()
        if self._reading is None and not any(_WORD in name for name in self._names):
            return self._decode_alone
        return _by_mark

    def _decode_alone(self, name: str) -> bytes:
        """Return what a token writes by itself, where nothing is known of how its tokenizer works."""
        token = self._tokenizer.convert_tokens_to_ids(name)
        return str(self._tokenizer.decode([token], clean_up_tokenization_spaces=False)).encode()


def _decoders(tokenizer: Tokenizer) -> Iterator[Mapping[str, Any]]:
    """Yield the parts of a tokenizer's decoder."""
    found = json.loads(tokenizer.to_str()).get("decoder")
    waiting = [found] if found else []
    while waiting:
        part = waiting.pop(0)
        yield part
        waiting += part.get("decoders", ())


def _by_mark(name: str) -> bytes:
    byte = _BYTE.fullmatch(name)
    return bytes([int(byte[1], 16)]) if byte else name.replace(_WORD, " ").encode()


def _by_alphabet(name: str, alphabet: Mapping[str, int]) -> bytes:
    try:
        return bytes([alphabet[char] for char in name])
    except KeyError:
        return name.encode()


def _byte_alphabet() -> dict[str, int]:
    """Return the characters that stand for bytes in the vocabularies of GPT-2 and its descendants.

    Source: GPT-2, encoder.py: printable characters stand for themselves, the others follow from U+0100 on.
    """
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = [byte for byte in range(256) if byte not in printable]
    found = {chr(byte): byte for byte in printable}
    found.update({chr(0x100 + place): byte for place, byte in enumerate(others)})
    return found
