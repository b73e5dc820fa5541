"""Make small GGUF models that embed or rank, for tests; needs the packages `gguf` and `numpy`.

BERT models have a WordPiece vocabulary and see the whole text; Qwen3-style decoders read their last token. Weights are
random, so that what such a model says has no meaning, but texts that are alike get vectors that are alike.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from .gguf import write_tokenizer

__all__ = [
    "BERT",
    "DECODER",
    "RERANK_TEMPLATE",
    "BertShape",
    "DecoderShape",
    "bert_weights",
    "convert_bert",
    "read_safetensors",
    "read_vocabulary",
    "unigram_vocabulary",
    "wordpiece_vocabulary",
    "write_bert_model",
    "write_decoder_model",
]

Pooling = Literal["none", "mean", "cls", "last", "rank"]

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
RERANK_TEMPLATE = (
    "<|im_start|>system\nAnswer yes or no.<|im_end|>\n<|im_start|>user\n<Query>: {query}\n<Document>: {document}"
    "<|im_end|>\n<|im_start|>assistant\n"
)
"""What a decoder that ranks is asked; llama.cpp puts the two texts in."""

_POOLINGS: Mapping[str, int] = {"none": 0, "mean": 1, "cls": 2, "last": 3, "rank": 4}
_FILE_TYPES: Mapping[str, int] = {"f32": 0, "f16": 1, "q8_0": 7}
_CHARACTERS = "abcdefghijklmnopqrstuvwxyz0123456789"
_PUNCTUATION = "!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~"
_WORDS = (
    *("the", "a", "is", "of", "and", "in", "to", "what", "which", "largest", "animal", "blue", "whale", "honey"),
    *("never", "spoils", "water", "boils", "at", "degrees", "planet", "closest", "sun", "mercury", "river", "longest"),
)
_UNKNOWN, _NORMAL, _CONTROL = 2, 1, 3


@dataclass(frozen=True, slots=True, kw_only=True)
class BertShape:
    """Sizes of a BERT model.

    Args:
        positions: tokens of the longest text.
        file_type: `f32`, `f16` or `q8_0`, for the matrices.
    """

    width: int = 64
    layers: int = 2
    heads: int = 4
    hidden: int = 128
    positions: int = 128
    file_type: str = "f32"


BERT = BertShape()
"""About a hundred thousand parameters."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DecoderShape:
    """Sizes of a Qwen3-style decoder."""

    width: int = 64
    layers: int = 2
    heads: int = 4
    kv_heads: int = 2
    head: int = 32
    hidden: int = 128
    context: int = 256
    file_type: str = "f32"


DECODER = DecoderShape()
"""About two hundred thousand parameters."""


def wordpiece_vocabulary() -> list[str]:
    """Return the tokens as BERT's `vocab.txt` has them: special ones, characters, some words."""
    pieces = [*_CHARACTERS, *_PUNCTUATION, *(word for word in _WORDS if len(word) > 1)]
    return [*SPECIAL, *pieces, *(f"##{character}" for character in _CHARACTERS)]


def unigram_vocabulary() -> list[str]:
    """Return tokens as XLM-RoBERTa has them: special ones, characters, words with the mark that they begin with."""
    words = [f"\u2581{word}" for word in (*_CHARACTERS, *(word for word in _WORDS if len(word) > 1))]
    return ["<s>", "<pad>", "</s>", "<unk>", "\u2581", *_CHARACTERS, *_PUNCTUATION, *words]


def write_bert_model(
    path: Path,
    shape: BertShape = BERT,
    *,
    seed: int = 0,
    pooling: Pooling | None = "mean",
    head: bool | None = None,
    labels: int = 1,
    vocabulary: Literal["wordpiece", "unigram"] = "wordpiece",
) -> Path:
    """Write a BERT model with random weights to `path`, and return it.

    Args:
        seed: of the weights; the same seed gives the same file.
        pooling: what the file says of it; None: nothing.
        head: it has what gives a score; default: if the pooling is `rank`.
        labels: scores that it gives.
        vocabulary: as BERT has it, or as XLM-RoBERTa.
    """
    tokens = {"wordpiece": wordpiece_vocabulary, "unigram": unigram_vocabulary}[vocabulary]()
    with_head = pooling == "rank" if head is None else head
    weights = bert_weights(shape, seed, len(tokens), head=with_head, labels=labels)
    _write_bert(path, shape, tokens, weights, pooling)
    return path


def bert_weights(shape: BertShape, seed: int, n_vocab: int, *, head: bool, labels: int = 1) -> dict[str, Any]:
    """Return the weights of a BERT model by the names that Transformers gives them; float32 arrays.

    The segments of a pair have equal embeddings: llama.cpp knows the first only.
    """
    import numpy as np

    random = np.random.default_rng(seed)
    weights: dict[str, Any] = {}

    def matrix(name: str, rows: int, columns: int, scale: float) -> None:
        weights[f"{name}.weight"] = random.standard_normal((rows, columns), dtype=np.float32) * np.float32(scale)
        weights[f"{name}.bias"] = random.standard_normal(rows, dtype=np.float32) * np.float32(0.1)

    def norm(name: str) -> None:
        weights[f"{name}.weight"] = np.ones(shape.width, dtype=np.float32)
        weights[f"{name}.bias"] = random.standard_normal(shape.width, dtype=np.float32) * np.float32(0.1)

    def table(name: str, rows: int, scale: float) -> None:
        weights[name] = random.standard_normal((rows, shape.width), dtype=np.float32) * np.float32(scale)

    width, spread = shape.width, shape.width**-0.5
    table("embeddings.word_embeddings.weight", n_vocab, 1.0)
    table("embeddings.position_embeddings.weight", shape.positions, 0.2)
    segment = random.standard_normal(width, dtype=np.float32) * np.float32(0.1)
    weights["embeddings.token_type_embeddings.weight"] = np.stack([segment, segment])
    norm("embeddings.LayerNorm")
    for layer in range(shape.layers):
        block = f"encoder.layer.{layer}"
        for part in ("query", "key", "value"):
            matrix(f"{block}.attention.self.{part}", width, width, spread)
        matrix(f"{block}.attention.output.dense", width, width, spread)
        norm(f"{block}.attention.output.LayerNorm")
        matrix(f"{block}.intermediate.dense", shape.hidden, width, spread)
        matrix(f"{block}.output.dense", width, shape.hidden, shape.hidden**-0.5)
        norm(f"{block}.output.LayerNorm")
    if head:
        matrix("pooler.dense", width, width, spread)
        matrix("classifier", labels, width, 2 * spread)
    return weights


def convert_bert(folder: Path, path: Path, *, file_type: str = "f32", pooling: Pooling | None = None) -> Path:
    """Write a folder with a BERT model, as Transformers or sentence-transformers save it, as a GGUF file.

    Its vocabulary must be `vocab.txt` or in `tokenizer.json`. Returns `path`.

    Args:
        pooling: what the file says; default: what the folder says, or `rank` if there is a classifier.
    """
    config = json.loads((folder / "config.json").read_text())
    weights = {
        name.removeprefix("bert."): array for name, array in read_safetensors(folder / "model.safetensors").items()
    }
    shape = BertShape(
        width=config["hidden_size"],
        layers=config["num_hidden_layers"],
        heads=config["num_attention_heads"],
        hidden=config["intermediate_size"],
        positions=config["max_position_embeddings"],
        file_type=file_type,
    )
    if pooling is None:
        pooling = "rank" if "classifier.weight" in weights else _pooling_of(folder)
    _write_bert(path, shape, read_vocabulary(folder), weights, pooling, epsilon=config.get("layer_norm_eps", 1e-12))
    return path


def read_safetensors(path: Path) -> dict[str, Any]:
    """Return the arrays of a safetensors file by name, as float32 if they are of floating point."""
    import numpy as np

    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    header.pop("__metadata__", None)
    kinds = {"F32": np.float32, "F16": np.float16, "I64": np.int64, "I32": np.int32}
    arrays = {}
    for name, entry in header.items():
        first, last = (8 + length + offset for offset in entry["data_offsets"])
        array = np.frombuffer(data[first:last], dtype=kinds[entry["dtype"]]).reshape(entry["shape"])
        arrays[name] = array.astype(np.float32) if array.dtype.kind == "f" else array
    return arrays


def write_decoder_model(
    path: Path,
    shape: DecoderShape = DECODER,
    *,
    seed: int = 0,
    pooling: Pooling | None = "last",
    template: str | None = RERANK_TEMPLATE,
) -> Path:
    """Write a Qwen3-style decoder with random weights to `path`, and return it.

    Args:
        pooling: what the file says of it; None: nothing. One that ranks gets an output for yes and one for no.
        template: what one that ranks is asked; None leaves it out.
    """
    writer = _open(path, "qwen3", shape.file_type, pooling)
    writer.add_context_length(shape.context)
    writer.add_embedding_length(shape.width)
    writer.add_block_count(shape.layers)
    writer.add_feed_forward_length(shape.hidden)
    writer.add_head_count(shape.heads)
    writer.add_head_count_kv(shape.kv_heads)
    writer.add_key_length(shape.head)
    writer.add_value_length(shape.head)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_rope_freq_base(10_000.0)
    n_vocab = len(write_tokenizer(writer, chat_template=None, fill_in=False))
    writer.add_add_eos_token(pooling != "rank")
    ranks = pooling == "rank"
    if ranks:
        writer.add_classifier_output_labels(["yes", "no"])
        if template is not None:
            writer.add_string("tokenizer.chat_template.rerank", template)
            writer.add_array("tokenizer.chat_templates", ["rerank"])
    _add_tensors(writer, shape.file_type, _decoder_weights(shape, seed, n_vocab, ranks=ranks))
    return path


def _decoder_weights(shape: DecoderShape, seed: int, n_vocab: int, *, ranks: bool) -> Iterator[tuple[str, Any]]:
    import numpy as np

    random = np.random.default_rng(seed)

    def make(rows: int, columns: int, scale: float) -> Any:
        return random.standard_normal((rows, columns), dtype=np.float32) * np.float32(scale)

    width, spread = shape.width, shape.width**-0.5
    queries, keys = shape.heads * shape.head, shape.kv_heads * shape.head
    ones, head = np.ones(width, dtype=np.float32), np.ones(shape.head, dtype=np.float32)
    yield "token_embd.weight", make(n_vocab, width, 1.0)
    for layer in range(shape.layers):
        block = f"blk.{layer}"
        yield f"{block}.attn_norm.weight", ones
        yield f"{block}.attn_q.weight", make(queries, width, spread)
        yield f"{block}.attn_k.weight", make(keys, width, spread)
        yield f"{block}.attn_v.weight", make(keys, width, spread)
        yield f"{block}.attn_q_norm.weight", head
        yield f"{block}.attn_k_norm.weight", head
        yield f"{block}.attn_output.weight", make(width, queries, queries**-0.5)
        yield f"{block}.ffn_norm.weight", ones
        yield f"{block}.ffn_gate.weight", make(shape.hidden, width, spread)
        yield f"{block}.ffn_up.weight", make(shape.hidden, width, spread)
        yield f"{block}.ffn_down.weight", make(width, shape.hidden, shape.hidden**-0.5)
    yield "output_norm.weight", ones
    if ranks:
        yield "cls.output.weight", make(2, width, 2 * spread)


def _open(path: Path, architecture: str, file_type: str, pooling: Pooling | None) -> Any:
    import gguf  # type: ignore[import-untyped, unused-ignore]

    writer = gguf.GGUFWriter(path, architecture)
    writer.add_name("random")
    writer.add_file_type(_FILE_TYPES[file_type])
    if pooling is not None:
        writer.add_pooling_type(gguf.PoolingType(_POOLINGS[pooling]))
    return writer


def _write_bert(
    path: Path,
    shape: BertShape,
    tokens: list[str],
    weights: Mapping[str, Any],
    pooling: Pooling | None,
    epsilon: float = 1e-12,
) -> None:
    writer = _open(path, "bert", shape.file_type, pooling)
    writer.add_context_length(shape.positions)
    writer.add_embedding_length(shape.width)
    writer.add_block_count(shape.layers)
    writer.add_feed_forward_length(shape.hidden)
    writer.add_head_count(shape.heads)
    writer.add_layer_norm_eps(epsilon)
    writer.add_causal_attention(False)
    write_vocabulary = _write_unigrams if tokens[0] == "<s>" else _write_wordpieces
    writer.add_token_type_count(len(weights["embeddings.token_type_embeddings.weight"]))
    write_vocabulary(writer, tokens)
    if "classifier.weight" in weights:
        writer.add_classifier_output_labels([f"LABEL_{n}" for n in range(len(weights["classifier.weight"]))])
    named = ((_gguf_name(name), array) for name, array in weights.items())
    _add_tensors(writer, shape.file_type, ((name, array) for name, array in named if name))


def _write_unigrams(writer: Any, tokens: list[str]) -> None:
    begin, pad, end, unknown = (tokens.index(token) for token in ("<s>", "<pad>", "</s>", "<unk>"))
    kinds = [_CONTROL if number in (begin, pad, end) else _NORMAL for number in range(len(tokens))]
    kinds[unknown] = _UNKNOWN
    writer.add_tokenizer_model("t5")
    writer.add_tokenizer_pre("default")
    writer.add_token_list(tokens)
    writer.add_token_scores([float(len(token)) - 20 for token in tokens])
    writer.add_token_types(kinds)
    writer.add_add_space_prefix(True)
    writer.add_remove_extra_whitespaces(True)
    writer.add_bos_token_id(begin)
    writer.add_eos_token_id(end)
    writer.add_sep_token_id(end)
    writer.add_unk_token_id(unknown)
    writer.add_pad_token_id(pad)
    writer.add_add_bos_token(True)
    writer.add_add_eos_token(True)
    writer.add_add_sep_token(True)


def _write_wordpieces(writer: Any, tokens: list[str]) -> None:
    kinds = [_CONTROL if token in SPECIAL else _NORMAL for token in tokens]
    kinds[tokens.index("[UNK]")] = _UNKNOWN
    writer.add_tokenizer_model("bert")
    writer.add_tokenizer_pre("default")
    writer.add_token_list([_spaced(token) for token in tokens])
    writer.add_token_types(kinds)
    cls, sep = tokens.index("[CLS]"), tokens.index("[SEP]")
    writer.add_bos_token_id(cls)
    writer.add_eos_token_id(sep)
    writer.add_sep_token_id(sep)
    writer.add_unk_token_id(tokens.index("[UNK]"))
    writer.add_pad_token_id(tokens.index("[PAD]"))
    writer.add_mask_token_id(tokens.index("[MASK]"))
    # llama.cpp writes a pair as [BOS] query [EOS] [SEP] document [EOS], of these what the file asks for.
    writer.add_add_bos_token(True)
    writer.add_add_eos_token(True)
    writer.add_add_sep_token(False)


def _spaced(token: str) -> str:
    """Return a token as GGUF writes it: those that begin a word have a mark, not those that go on."""
    if token in SPECIAL:
        return token
    return token[2:] if token.startswith("##") else "\u2581" + token


_TOP_NAMES = {
    "embeddings.word_embeddings": "token_embd",
    "embeddings.position_embeddings": "position_embd",
    "embeddings.token_type_embeddings": "token_types",
    "embeddings.LayerNorm": "token_embd_norm",
    "pooler.dense": "cls",
    "classifier": "cls.output",
}
_BLOCK_NAMES = {
    "attention.self.query": "attn_q",
    "attention.self.key": "attn_k",
    "attention.self.value": "attn_v",
    "attention.output.dense": "attn_output",
    "attention.output.LayerNorm": "attn_output_norm",
    "intermediate.dense": "ffn_up",
    "output.dense": "ffn_down",
    "output.LayerNorm": "layer_output_norm",
}


def _gguf_name(name: str) -> str | None:
    stem, _, kind = name.rpartition(".")
    if stem in _TOP_NAMES:
        return f"{_TOP_NAMES[stem]}.{kind}"
    if not stem.startswith("encoder.layer."):
        return None
    layer, _, part = stem.removeprefix("encoder.layer.").partition(".")
    return f"blk.{layer}.{_BLOCK_NAMES[part]}.{kind}"


def _add_tensors(writer: Any, file_type: str, tensors: Iterator[tuple[str, Any]]) -> None:
    import gguf
    import numpy as np

    kind = gguf.GGMLQuantizationType[file_type.upper()]
    for name, array in tensors:
        # llama.cpp adds what is not multiplied as float32.
        plain = array.ndim == 1 or name.split(".")[0] in ("position_embd", "token_types") or "norm" in name
        if plain:
            writer.add_tensor(name, np.ascontiguousarray(array, dtype=np.float32))
        else:
            writer.add_tensor(name, gguf.quants.quantize(np.ascontiguousarray(array), kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _pooling_of(folder: Path) -> Pooling:
    config = json.loads((folder / "1_Pooling" / "config.json").read_text())
    named: dict[str, Pooling] = {"cls": "cls", "mean": "mean", "lasttoken": "last"}
    if isinstance(config.get("pooling_mode"), str):
        return named[config["pooling_mode"]]
    flags: dict[str, Pooling] = {"cls_token": "cls", "mean_tokens": "mean", "lasttoken": "last"}
    return next(pooling for flag, pooling in flags.items() if config.get(f"pooling_mode_{flag}"))


def read_vocabulary(folder: Path) -> list[str]:
    """Return the tokens of a folder with a BERT model, in the order of their ids."""
    text = folder / "vocab.txt"
    if text.is_file():
        return text.read_text(encoding="utf-8").splitlines()
    ids = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))["model"]["vocab"]
    return sorted(ids, key=ids.__getitem__)
