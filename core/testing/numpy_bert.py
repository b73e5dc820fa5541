"""BERT computed with numpy alone: what engines are compared with."""

import json
import math
import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .gguf_bert import read_safetensors, read_vocabulary

__all__ = ["NumpyBert"]

_PIECE = re.compile(r"\w+|[^\w\s]")
_EPSILON = 1e-12


@dataclass(frozen=True, slots=True)
class NumpyBert:
    """A BERT model without a library.

    Args:
        weights: arrays of float32 by the names that Transformers gives them.
        tokens: the vocabulary, as BERT's `vocab.txt` has it.
        heads: of its attention.
        gelu: `tanh` computes it as llama.cpp does, `erf` as Transformers does.
    """

    weights: Mapping[str, Any]
    tokens: Sequence[str]
    heads: int
    gelu: str = "tanh"

    @classmethod
    def read(cls, folder: Path) -> "NumpyBert":
        """Return the model in a folder, as Transformers or sentence-transformers save it."""
        arrays = read_safetensors(folder / "model.safetensors")
        config = json.loads((folder / "config.json").read_text())
        weights = {name.removeprefix("bert."): array for name, array in arrays.items()}
        return cls(weights, read_vocabulary(folder), config["num_attention_heads"], gelu="erf")

    def encode(self, *texts: str) -> list[int]:
        """Return the token ids of a text, or of a pair, with the special ones."""
        ids = [self.tokens.index("[CLS]")]
        for text in texts:
            ids += [*self._pieces(text), self.tokens.index("[SEP]")]
        return ids

    def embed(self, text: str, pooling: str) -> Any:
        """Return the embedding of a text, not scaled. `pooling` is `mean` or `cls`."""
        states = self._states(self.encode(text))
        return states.mean(axis=0) if pooling == "mean" else states[0]

    def score(self, query: str, document: str) -> float:
        """Return the score of a pair (a logit)."""
        import numpy as np

        first = self._states(self.encode(query, document))[0]
        pooled = np.tanh(self._linear("pooler.dense", first))
        return float(self._linear("classifier", pooled)[0])

    def _pieces(self, text: str) -> list[int]:
        plain = "".join(one for one in unicodedata.normalize("NFD", text.lower()) if unicodedata.category(one) != "Mn")
        ids = {token: number for number, token in enumerate(self.tokens)}
        found: list[int] = []
        for word in _PIECE.findall(plain):
            found += self._cut(word, ids)
        return found

    @staticmethod
    def _cut(word: str, ids: Mapping[str, int]) -> list[int]:
        """Cut a word into the longest pieces there are, from its beginning."""
        found: list[int] = []
        at = 0
        while at < len(word):
            mark = "##" if at else ""
            end = next((end for end in range(len(word), at, -1) if mark + word[at:end] in ids), None)
            if end is None:
                return [ids["[UNK]"]]
            found.append(ids[mark + word[at:end]])
            at = end
        return found

    def _states(self, ids: Sequence[int]) -> Any:
        weights = self.weights
        states = weights["embeddings.word_embeddings.weight"][list(ids)]
        states = states + weights["embeddings.position_embeddings.weight"][: len(ids)]
        states = states + weights["embeddings.token_type_embeddings.weight"][0]
        states = self._norm("embeddings.LayerNorm", states)
        layer = 0
        while f"encoder.layer.{layer}.output.dense.weight" in weights:
            block = f"encoder.layer.{layer}"
            attended = self._linear(f"{block}.attention.output.dense", self._attend(f"{block}.attention.self", states))
            states = self._norm(f"{block}.attention.output.LayerNorm", states + attended)
            inner = self._activate(self._linear(f"{block}.intermediate.dense", states))
            states = self._norm(f"{block}.output.LayerNorm", states + self._linear(f"{block}.output.dense", inner))
            layer += 1
        return states

    def _attend(self, name: str, states: Any) -> Any:
        import numpy as np

        length, width = states.shape
        parts = (self._linear(f"{name}.{part}", states) for part in ("query", "key", "value"))
        query, key, value = (part.reshape(length, self.heads, -1).transpose(1, 0, 2) for part in parts)
        likeness = query @ key.transpose(0, 2, 1) / math.sqrt(width / self.heads)
        shares = np.exp(likeness - likeness.max(axis=-1, keepdims=True))
        shares /= shares.sum(axis=-1, keepdims=True)
        return (shares @ value).transpose(1, 0, 2).reshape(length, width)

    def _activate(self, values: Any) -> Any:
        import numpy as np

        if self.gelu == "erf":
            return values * 0.5 * (1 + np.vectorize(math.erf, otypes=[np.float32])(values / math.sqrt(2)))
        return values * 0.5 * (1 + np.tanh(math.sqrt(2 / math.pi) * (values + 0.044715 * values**3)))

    def _linear(self, name: str, values: Any) -> Any:
        return values @ self.weights[f"{name}.weight"].T + self.weights[f"{name}.bias"]

    def _norm(self, name: str, values: Any) -> Any:
        import numpy as np

        centered = values - values.mean(axis=-1, keepdims=True)
        spread = np.sqrt((centered**2).mean(axis=-1, keepdims=True) + _EPSILON)
        return centered / spread * self.weights[f"{name}.weight"] + self.weights[f"{name}.bias"]
