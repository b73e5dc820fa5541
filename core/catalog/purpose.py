"""What the files of a model are made for: to write text, to embed it, or to rank it; and the facts that go with it."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .gguf import read_metadata
from .local import Inspected, read_json, read_modules
from .shapes import shape_of_config

__all__ = ["describe_use", "uses_of"]

_POOLINGS = {1: "mean", 2: "cls", 3: "last"}
_RANK_POOLING = 4

_YES_OR_NO = re.compile(r"\byes\b.{1,40}\bno\b", re.IGNORECASE | re.DOTALL)
"""What a template says to a model whose answer is read off these two words."""

_SENTENCES = "config_sentence_transformers.json"
_LENGTHS = tuple(
    f"sentence_{kind}_config.json"
    for kind in ("bert", "roberta", "distilbert", "camembert", "albert", "xlm-roberta", "xlnet")
)
_BY_MAKER: Mapping[str, tuple[str, ...]] = {
    "SentenceTransformer": ("embed",),
    "SparseEncoder": ("embed", "sparse"),
    "MultiVectorEncoder": ("embed", "multi_vector"),
    "CrossEncoder": ("rerank",),
}
"""A use, and abilities that go with it, by `model_type` in the file that sentence-transformers writes."""

_BY_ARCHITECTURE: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("ForCausalLM", ("generate",)),
    ("LMHeadModel", ("generate",)),
    ("ForConditionalGeneration", ("generate",)),
    ("ForMaskedLM", ("embed",)),
    ("Model", ("generate", "embed")),
)
"""Uses by the end of an architecture's name; of a bare model, both are possible."""

_PADDED_POSITIONS = frozenset({"roberta", "xlm-roberta", "xlm-roberta-xl", "camembert", "mpnet", "longformer"})
"""Kinds of models whose first positions belong to the padding: they take fewer tokens than they have positions."""

_POOLING_NAMES = {
    "cls_token": "cls",
    "mean_tokens": "mean",
    "max_tokens": "max",
    "lasttoken": "last",
    "weightedmean_tokens": "weightedmean",
    "mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
}
"""Our names of poolings, by those that sentence-transformers gave their flags (`pooling_mode_cls_token`)."""

_MAX_LENGTH = 1 << 30


@dataclass(frozen=True, slots=True)
class _Use:
    """How a model is described that is used in a way: its abilities, and facts; of None, it is not known."""

    abilities: tuple[str, ...]
    facts: Mapping[str, Any]


def uses_of(found: Inspected) -> tuple[str, ...]:
    """Return for which of `generate`, `embed` and `rerank` a model is made, by its files; empty: they do not say.

    Raises: BadRequest: one of the files is broken.
    """
    if found.gguf is not None:
        return _uses_of_gguf(found)
    folder = _folder(found)
    return () if folder is None else _uses_of_folder(folder, found)


def describe_use(use: str, found: Inspected) -> tuple[tuple[str, ...], dict[str, Any]]:
    """Return the abilities of a model that is used in this way, and its facts, as far as its files say.

    An embedding model has `dimensions`, `max_tokens` and `pooling` (`mean`, `cls`, `last`, …), one that ranks
    `max_tokens` and `type`, in Xinference's words.

    Raises: BadRequest: one of the files is broken.
    """
    described = _DESCRIBED[use](found)
    return described.abilities, {name: value for name, value in described.facts.items() if value is not None}


def _uses_of_gguf(found: Inspected) -> tuple[str, ...]:
    gguf = found.gguf
    assert gguf is not None
    pooling = gguf.pooling_type or 0
    if pooling == _RANK_POOLING or (not pooling and gguf.has_head):  # older files have but the head
        return ("rerank",)
    if pooling > 0 or gguf.keys.get(f"{gguf.architecture}.attention.causal") is False:
        return ("embed",)
    templates = (gguf.chat_template, gguf.text("tokenizer.chat_template.rerank"))
    asks = any(template and _YES_OR_NO.search(template) for template in templates)
    return ("generate", "rerank") if asks else ("generate",)


def _uses_of_folder(folder: Path, found: Inspected) -> tuple[str, ...]:
    maker = _maker(folder)
    if maker is not None:
        return maker[:1]
    architecture = found.architectures[0] if found.architectures else ""
    if architecture.endswith("ForSequenceClassification"):
        labels = found.metadata.get("id2label")
        return ("rerank",) if not isinstance(labels, dict) or len(labels) == 1 else ()
    uses = next((uses for end, uses in _BY_ARCHITECTURE if architecture.endswith(end)), ())
    if uses == ("generate",) and found.chat_template and _YES_OR_NO.search(found.chat_template):
        return ("generate", "rerank")
    return uses


def _maker(folder: Path) -> tuple[str, ...] | None:
    """Return use and abilities by what sentence-transformers has written; None: it has not, or nothing known."""
    maker = _optional(folder / _SENTENCES).get("model_type")
    if maker is None and (folder / "modules.json").is_file():
        maker = "SentenceTransformer"  # older versions do not write it
    return _BY_MAKER.get(str(maker))


def _describe_generation(found: Inspected) -> _Use:
    template = found.chat_template or ""
    abilities = ["chat", "generate"] if template else ["generate"]
    if "tools" in template:
        abilities.append("tools")
    if "<think>" in template and "</think>" in template:
        abilities.append("reasoning")
    if found.files.projector:
        projector = read_metadata(found.files.projector)
        abilities += [
            name
            for name, key in (("vision", "clip.has_vision_encoder"), ("audio", "clip.has_audio_encoder"))
            if projector.keys.get(key) is True
        ]
    return _Use(tuple(abilities), {})


def _describe_embedding(found: Inspected) -> _Use:
    gguf = found.gguf
    if gguf is not None:
        width = gguf.number("embedding_length_out") or gguf.number("embedding_length")
        pooling = _POOLINGS.get(gguf.pooling_type or 0)
        return _Use(("embed",), {"dimensions": width, "max_tokens": gguf.context_length, "pooling": pooling})
    folder = _folder(found)
    if folder is None:
        return _Use(("embed",), {})
    dimensions, poolings = None, None
    for module in read_modules(folder):
        config = _optional(folder / module.path / "config.json")
        if module.kind.endswith(".Pooling"):
            poolings = _poolings(config)
            width = _whole(config.get("embedding_dimension", config.get("word_embedding_dimension")))
            dimensions = None if width is None else width * len(poolings or ("mean",))
        elif module.kind.endswith(".Dense"):
            dimensions = _whole(config.get("out_features")) or dimensions
    shape = shape_of_config(found.metadata)
    abilities = ("embed", *(_maker(folder) or ())[1:])
    if "image" in (_lengths(folder).get("modality_config") or {}):
        abilities += ("vision",)
    facts = {
        "dimensions": dimensions or (shape.width if shape else None),
        "max_tokens": _max_tokens(folder, found),
        "pooling": "+".join(poolings) if poolings else None,
    }
    return _Use(abilities, facts)


def _describe_ranking(found: Inspected) -> _Use:
    folder = _folder(found)
    length = _max_tokens(folder, found) if folder else found.context_length
    return _Use(("rerank",), {"max_tokens": length, "type": "normal"})


_DESCRIBED: Mapping[str, Callable[[Inspected], _Use]] = {
    "generate": _describe_generation,
    "embed": _describe_embedding,
    "rerank": _describe_ranking,
}


def _max_tokens(folder: Path, found: Inspected) -> int | None:
    """Return how many tokens of a text are read: what the makers have set, else what tokenizer and positions allow."""
    stated = _whole(_lengths(folder).get("max_seq_length"))
    if stated is not None:
        return stated
    positions = found.context_length
    if positions is not None and found.metadata.get("model_type") in _PADDED_POSITIONS:
        padding = found.metadata.get("pad_token_id")
        positions -= 1 + (padding if isinstance(padding, int) and 0 <= padding < positions - 1 else 1)
    tokenizer = _whole(_optional(folder / "tokenizer_config.json").get("model_max_length"))
    return min((length for length in (positions, tokenizer) if length), default=None)


def _lengths(folder: Path) -> dict[str, Any]:
    return next((_optional(folder / name) for name in _LENGTHS if (folder / name).is_file()), {})


def _poolings(config: Mapping[str, Any]) -> tuple[str, ...]:
    """Return how token vectors become one: a name or several (versions 6 on), else the flags that are set."""
    named = config.get("pooling_mode")
    if named is None:
        return tuple(name for flag, name in _POOLING_NAMES.items() if config.get(f"pooling_mode_{flag}") is True)
    names = named if isinstance(named, list) else [named]
    return tuple(_POOLING_NAMES.get(name, name) for name in names if isinstance(name, str))


def _optional(file: Path) -> dict[str, Any]:
    return read_json(file) if file.is_file() else {}


def _whole(value: Any) -> int | None:
    """Return a whole number from 1 to a billion, else None: tokenizers without a limit say 1e30."""
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 < value <= _MAX_LENGTH else None


def _folder(found: Inspected) -> Path | None:
    folder = Path(found.files.path) if found.files.path else None
    return folder if folder is not None and folder.is_dir() else None
