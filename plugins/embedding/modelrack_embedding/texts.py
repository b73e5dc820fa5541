"""A model's tokenizer without the layers around it, which take most of the time that short texts take."""

import threading
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from sentence_transformers.base.modules import Transformer

__all__ = ["Tokens", "find_tokens", "reads_alike"]

_SAMPLES = ("hello", "What is the largest animal? 你好, ça va 🐋", "one two  three\n" * 3, " ")
_LONG = "the largest animal "
_LONGEST = 1024
"""Times that it is repeated at most: longer ones take longer to try than they are worth."""


class Tokens:
    """Turns texts into token ids and back. Callable from any thread.

    Args:
        backend: a tokenizer of the library `tokenizers`. Others may change how it cuts and pads while `lock` is held.
        max_tokens: of a text, with special tokens; None: any number.
        is_shared: others do that.
        adds_special: texts have special tokens around them.
    """

    def __init__(
        self,
        backend: Any,
        max_tokens: int | None,
        *,
        is_shared: bool,
        adds_special: bool = True,
        pad: tuple[int, int, str] = (0, 0, "right"),
        cuts: str = "right",
        has_types: bool = False,
    ) -> None:
        self._backend = backend
        self._max = max_tokens
        self._is_shared = is_shared
        self._adds_special = adds_special
        self._pad, self._pad_type, self._pad_side = pad
        self._cuts = cuts
        self._has_types = has_types
        self.lock = threading.Lock()
        self._reset()

    @property
    def n_vocab(self) -> int:
        """Return the number of tokens, added ones among them."""
        with self.lock:
            return int(self._backend.get_vocab_size(with_added_tokens=True))

    def encode_all(self, texts: Sequence[str]) -> list[list[int]]:
        """Return the ids of texts, whatever their length, with the special tokens around them."""
        with self._alone() as backend:
            return [found.ids for found in backend.encode_batch_fast(texts, add_special_tokens=self._adds_special)]

    def encode_cut(self, text: str) -> list[int]:
        """Return the ids of a text that is too long: as many as are read, with the special tokens."""
        with self._alone() as backend:
            backend.enable_truncation(self._max, direction=self._cuts)
            try:
                ids: list[int] = backend.encode(text, add_special_tokens=self._adds_special).ids
            finally:
                backend.no_truncation()
            return ids

    def encode(self, text: str, *, add_special: bool) -> list[int]:
        """Return the ids of a text."""
        with self._alone() as backend:
            ids: list[int] = backend.encode(text, add_special_tokens=add_special and self._adds_special).ids
            return ids

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of ids, special tokens among them."""
        with self._alone() as backend:
            return str(backend.decode(list(ids), skip_special_tokens=False))

    def names(self, ids: Sequence[int]) -> list[str]:
        """Return tokens as the vocabulary writes them."""
        with self._alone() as backend:
            return [backend.id_to_token(one) or "" for one in ids]

    def join(self, rows: Sequence[Sequence[int]]) -> dict[str, Any]:
        """Return what the model is given of several texts, as PyTorch's tensors."""
        longest = max(map(len, rows))
        ids = np.full((len(rows), longest), self._pad, dtype=np.int64)
        mask = np.zeros((len(rows), longest), dtype=np.int64)
        pads_left = self._pad_side == "left"
        for number, row in enumerate(rows):
            place = slice(longest - len(row), None) if pads_left else slice(len(row))
            ids[number, place] = row
            mask[number, place] = 1
        found = {"input_ids": torch.from_numpy(ids), "attention_mask": torch.from_numpy(mask)}
        if self._has_types:
            found["token_type_ids"] = torch.from_numpy((1 - mask) * self._pad_type)
        return found

    def _alone(self) -> "_Alone":
        return _Alone(self)

    def _reset(self) -> Any:
        self._backend.no_padding()
        self._backend.no_truncation()
        return self._backend


class _Alone:
    """Holds a tokenizer, which then neither cuts nor pads."""

    __slots__ = ("_tokens",)

    def __init__(self, tokens: Tokens) -> None:
        self._tokens = tokens

    def __enter__(self) -> Any:
        tokens = self._tokens
        tokens.lock.acquire()
        return tokens._reset() if tokens._is_shared else tokens._backend

    def __exit__(self, *_: object) -> None:
        self._tokens.lock.release()


def find_tokens(model: Any, max_tokens: int | None, *, has_tasks: bool) -> tuple[Tokens | None, bool]:
    """Return a model's tokenizer, None if it has none of the usual kind; and whether it reads texts by that alone.

    The latter is tried out on some texts; until then, it is as the settings of the first module say.
    """
    module = model[0]
    tokenizer: Any = getattr(module, "tokenizer", None)
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        is_bare = hasattr(tokenizer, "encode_batch_fast") and hasattr(tokenizer, "no_padding")
        return (Tokens(tokenizer, None, is_shared=True, adds_special=False), False) if is_bare else (None, False)
    is_plain = (
        type(module) is Transformer
        and not has_tasks
        and "text" in module.modality_config
        and "message" not in module.modality_config
        and not (module.can_flatten_inputs or module.processing_kwargs)
        and tokenizer is module.processor
    )
    pad = (tokenizer.pad_token_id or 0, tokenizer.pad_token_type_id, tokenizer.padding_side)
    found = Tokens(
        backend,
        max_tokens,
        is_shared=not is_plain,
        pad=pad,
        cuts=tokenizer.truncation_side,
        has_types="token_type_ids" in tokenizer.model_input_names,
    )
    if is_plain and not reads_alike(model, found, max_tokens):
        return Tokens(backend, max_tokens, is_shared=True), False
    return found, is_plain


def reads_alike(model: Any, tokens: Tokens, max_tokens: int | None) -> bool:
    """Tell whether a tokenizer alone makes of texts what the library makes of them; leaves it uncut and unpadded."""
    texts = [*_SAMPLES, _LONG * min(max_tokens or 1, _LONGEST)]
    rows = tokens.encode_all(texts)
    if max_tokens is not None:
        whole = zip(texts, rows, strict=True)
        rows = [row if len(row) <= max_tokens else tokens.encode_cut(text) for text, row in whole]
    if not all(rows):
        return False
    own = tokens.join(rows)
    with tokens.lock:
        library = {name: value for name, value in model.preprocess(texts).items() if name != "modality"}
        tokens._reset()
    return own.keys() == library.keys() and all(torch.equal(value, library[name]) for name, value in own.items())
