"""Make small models as sentence-transformers writes them, with random weights, for tests; needs the package `numpy`."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .encoders import SMALL, EncoderShape, random_numbers, word_pieces, write_bert, write_qwen3, write_roberta
from .hf_files import write_json, write_safetensors

__all__ = [
    "Part",
    "dense",
    "mask",
    "normalize",
    "pooling",
    "splade",
    "write_embedder",
    "write_modules",
    "write_multi_vector",
    "write_router",
    "write_sparse",
    "write_static",
]

_TRANSFORMER = "sentence_transformers.base.modules.transformer.Transformer"


@dataclass(frozen=True, slots=True)
class Part:
    """A module of a model, behind the first: the path of its class, its settings, and its weights."""

    kind: str
    config: Mapping[str, Any] = field(default_factory=dict)
    weights: Sequence[tuple[str, Any]] = ()

    @property
    def name(self) -> str:
        """Return the last part of its class's path."""
        return self.kind.rpartition(".")[2]


def pooling(mode: str | Sequence[str] = "mean", *, width: int = SMALL.width, include_prompt: bool = True) -> Part:
    """Return a module that makes one vector of a text's (`mean`, `cls`, `lasttoken`, `weightedmean`, `max`, …)."""
    modes = mode if isinstance(mode, str) else list(mode)
    config = {"embedding_dimension": width, "pooling_mode": modes, "include_prompt": include_prompt}
    return Part("sentence_transformers.sentence_transformer.modules.pooling.Pooling", config)


def dense(
    rows: int, columns: int = SMALL.width, *, on: str = "sentence_embedding", tanh: bool = True, seed: int = 7
) -> Part:
    """Return a module that multiplies vectors by a matrix."""
    draw = random_numbers(seed)
    activation = "activation.Tanh" if tanh else "linear.Identity"
    config = {
        "in_features": columns,
        "out_features": rows,
        "bias": True,
        "activation_function": f"torch.nn.modules.{activation}",
        "module_input_name": on,
        "module_output_name": on,
    }
    weights = [("linear.weight", draw(rows, columns)), ("linear.bias", draw(rows, scale=0.05))]
    return Part("sentence_transformers.base.modules.dense.Dense", config, weights)


def normalize(on: str = "sentence_embedding") -> Part:
    """Return a module that scales vectors to length 1."""
    return Part(
        "sentence_transformers.base.modules.normalize.Normalize", {"module_input_name": on, "module_output_name": on}
    )


def splade() -> Part:
    """Return the module that makes weights of tokens out of a language model's logits."""
    config = {"pooling_strategy": "max", "activation_function": "relu", "embedding_dimension": None}
    return Part("sentence_transformers.sparse_encoder.modules.splade_pooling.SpladePooling", config)


def mask(*skipped: str) -> Part:
    """Return the module that says which tokens of a text have a vector."""
    config = {"skiplist_words": list(skipped), "skiplist_tasks": ["document"], "keep_only_token_ids": None}
    return Part("sentence_transformers.multi_vector_encoder.modules.multi_vector_mask.MultiVectorMask", config)


def write_modules(
    folder: Path,
    *parts: Part,
    model_type: str = "SentenceTransformer",
    task: str = "feature-extraction",
    prompts: Mapping[str, str] | None = None,
    settings: Mapping[str, Any] | None = None,
    transformer: Mapping[str, Any] | None = None,
) -> Path:
    """Make a folder with a Transformers model into one of sentence-transformers, and return it.

    Args:
        task: what the first module is loaded for (`fill-mask`, …).
        prompts: by name.
        settings: further keys of `config_sentence_transformers.json` (`truncate_dim`, `default_prompt_name`).
        transformer: further keys of the first module's settings (`max_seq_length`, `query_length`, …).
    """
    output = "last_hidden_state" if task == "feature-extraction" else "logits"
    write_json(
        folder / "sentence_bert_config.json",
        {
            "transformer_task": task,
            "modality_config": {"text": {"method": "forward", "method_output_name": output}},
            "module_output_name": "token_embeddings",
            **(transformer or {}),
        },
    )
    entries = [{"idx": 0, "name": "0", "path": "", "type": _TRANSFORMER}]
    for number, part in enumerate(parts, 1):
        place = folder / f"{number}_{part.name}"
        place.mkdir()
        write_json(place / "config.json", part.config)
        if part.weights:
            write_safetensors(place / "model.safetensors", part.weights)
        entries.append({"idx": number, "name": str(number), "path": place.name, "type": part.kind})
    _write_index(folder, entries, model_type, prompts, settings)
    return folder


def write_embedder(folder: Path, shape: EncoderShape = SMALL, *, kind: str = "bert", seed: int = 0) -> Path:
    """Write an embedding model as they are mostly made, and return its folder.

    Args:
        kind: `bert` (mean pooling, length 1), `roberta` (first token, length 1) or `qwen3` (last token, length 1, a
            prompt with an instruction).
    """
    write, mode, prompts = _KINDS[kind]
    write(folder, shape, seed=seed)
    return write_modules(folder, pooling(mode, width=shape.width), normalize(), prompts=prompts)


_KINDS: Mapping[str, tuple[Any, str, Mapping[str, str]]] = {
    "bert": (write_bert, "mean", {}),
    "roberta": (write_roberta, "cls", {"query": "query: ", "passage": "passage: "}),
    "qwen3": (write_qwen3, "lasttoken", {"query": "Instruct: Find passages that answer the query\nQuery:"}),
}


def write_sparse(
    folder: Path, shape: EncoderShape = SMALL, *, seed: int = 0, settings: Mapping[str, Any] | None = None
) -> Path:
    """Write a model that gives weights of tokens (SPLADE), and return its folder.

    Args:
        settings: as of `write_modules`.
    """
    write_bert(folder, shape, head="masked", seed=seed)
    return write_modules(folder, splade(), model_type="SparseEncoder", task="fill-mask", settings=settings)


def write_multi_vector(folder: Path, shape: EncoderShape = SMALL, *, width: int = 16, seed: int = 0) -> Path:
    """Write a model that gives a vector for each token (ColBERT), and return its folder.

    Queries are filled up to a fixed length; of documents, commas and full stops have no vector.
    """
    write_bert(folder, shape, seed=seed)
    on = "token_embeddings"
    parts = (dense(width, shape.width, on=on, tanh=False), mask(",", "."), normalize(on))
    transformer = {
        "document_length": shape.positions,
        "query_expansion": {"strategy": "fixed", "length": 16, "token": "[MASK]", "attend": True},
    }
    return write_modules(folder, *parts, model_type="MultiVectorEncoder", transformer=transformer)


def write_static(folder: Path, *, width: int = SMALL.width, seed: int = 0) -> Path:
    """Write a model that averages fixed vectors of tokens, and return its folder."""
    _write_vectors(folder, width, seed)
    _write_index(folder, [{"idx": 0, "name": "0", "path": "", "type": _STATIC}], "SentenceTransformer", None, None)
    return folder


def write_router(folder: Path, shape: EncoderShape = SMALL, *, default: str | None = None, seed: int = 0) -> Path:
    """Write a model that averages fixed vectors for queries and computes documents, and return its folder.

    Args:
        default: the way that texts take which are neither.
    """
    document = folder / "document_0_Transformer"
    write_bert(document, shape, seed=seed)
    write_modules(document)
    for name in ("modules.json", "config_sentence_transformers.json"):
        (document / name).unlink()
    part = pooling(width=shape.width)
    (folder / "document_1_Pooling").mkdir()
    write_json(folder / "document_1_Pooling" / "config.json", part.config)
    _write_vectors(folder / "query_0_StaticEmbedding", shape.width, seed + 1)
    ways = {"query": {"query_0_StaticEmbedding": _STATIC}, "document": {}}
    ways["document"] = {document.name: _TRANSFORMER, "document_1_Pooling": part.kind}
    write_json(
        folder / "router_config.json",
        {
            "types": {name: kind for parts in ways.values() for name, kind in parts.items()},
            "structure": {way: list(parts) for way, parts in ways.items()},
            "parameters": {"default_route": default, "allow_empty_key": False},
        },
    )
    kind = "sentence_transformers.base.modules.router.Router"
    _write_index(folder, [{"idx": 0, "name": "0", "path": "", "type": kind}], "SentenceTransformer", None, None)
    return folder


_STATIC = "sentence_transformers.sentence_transformer.modules.static_embedding.StaticEmbedding"


def _write_vectors(folder: Path, width: int, seed: int) -> None:
    write_bert(folder)
    for name in ("config.json", "tokenizer_config.json"):
        (folder / name).unlink()
    vectors = random_numbers(seed)(len(word_pieces()), width)
    write_safetensors(folder / "model.safetensors", [("embedding.weight", vectors)])


def _write_index(
    folder: Path,
    entries: Sequence[Mapping[str, Any]],
    model_type: str,
    prompts: Mapping[str, str] | None,
    settings: Mapping[str, Any] | None,
) -> None:
    (folder / "modules.json").write_text(json.dumps(list(entries), indent=2) + "\n", encoding="utf-8")
    write_json(
        folder / "config_sentence_transformers.json",
        {
            "model_type": model_type,
            "prompts": dict(prompts or {}),
            "default_prompt_name": None,
            "similarity_fn_name": None,
            **(settings or {}),
        },
    )
