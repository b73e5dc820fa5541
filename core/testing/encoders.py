"""Make small encoder models with random weights in Hugging Face folders, for tests; needs the package `numpy`.

BERT and RoBERTa, bare or with a head, and Qwen3 as a decoder that embeds or ranks, each with a tokenizer of its kind.
"""

import string
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

from .gguf import vocabulary
from .hf_files import DType, write_json, write_safetensors

__all__ = ["SMALL", "EncoderShape", "Head", "write_bert", "write_qwen3", "write_roberta"]

Head: TypeAlias = Literal["none", "masked", "classification"]

WORDS = (
    "the a of and to in is it that for on with as at by from this not what which who how where when largest animal "
    "blue whale ocean land water river mountain city country capital people language light sun moon red green small "
    "big fast slow old new good bad day night time world book music house tree bird fish dog cat"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class EncoderShape:
    """Sizes of a model. `positions`: the table's rows; RoBERTa reads two tokens less."""

    width: int = 32
    hidden: int = 64
    layers: int = 2
    heads: int = 4
    positions: int = 128
    labels: int = 1


SMALL = EncoderShape()


def write_bert(
    folder: Path, shape: EncoderShape = SMALL, *, head: Head = "none", seed: int = 0, dtype: DType = "float32"
) -> Path:
    """Write a BERT with a WordPiece vocabulary into a new folder, and return it."""
    tokens = word_pieces()
    _write_encoder(folder, shape, head, seed, dtype, kind="bert", n_vocab=len(tokens), pad=0)
    specials = {name: tokens.index(name) for name in ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")}
    model = {
        "type": "WordPiece",
        "unk_token": "[UNK]",
        "continuing_subword_prefix": "##",
        "max_input_chars_per_word": 100,
        "vocab": {token: number for number, token in enumerate(tokens)},
    }
    normalizer = {
        "type": "BertNormalizer",
        "clean_text": True,
        "handle_chinese_chars": True,
        "strip_accents": None,
        "lowercase": True,
    }
    write_tokenizer(
        folder,
        model,
        specials,
        begin=("[CLS]",),
        end=("[SEP]",),
        middle=("[SEP]",),
        second_type=1,
        normalizer=normalizer,
        pre_tokenizer={"type": "BertPreTokenizer"},
        decoder={"type": "WordPiece", "prefix": "##", "cleanup": True},
        config={
            "tokenizer_class": "BertTokenizer",
            "model_max_length": shape.positions,
            "do_lower_case": True,
            "cls_token": "[CLS]",
            "sep_token": "[SEP]",
            "pad_token": "[PAD]",
            "unk_token": "[UNK]",
            "mask_token": "[MASK]",
        },
    )
    return folder


def write_roberta(
    folder: Path, shape: EncoderShape = SMALL, *, head: Head = "none", seed: int = 0, dtype: DType = "float32"
) -> Path:
    """Write a RoBERTa with a byte-level vocabulary into a new folder, and return it. Its positions begin behind 1."""
    tokens, pairs = _byte_pieces(("<s>", "<pad>", "</s>", "<unk>", "<mask>"))
    _write_encoder(folder, shape, head, seed, dtype, kind="roberta", n_vocab=len(tokens), pad=1)
    specials = {name: tokens.index(name) for name in ("<s>", "<pad>", "</s>", "<unk>", "<mask>")}
    write_tokenizer(
        folder,
        _bpe(tokens, pairs),
        specials,
        begin=("<s>",),
        end=("</s>",),
        middle=("</s>", "</s>"),
        second_type=0,
        config={
            "tokenizer_class": "RobertaTokenizer",
            "model_max_length": shape.positions - 2,
            "bos_token": "<s>",
            "eos_token": "</s>",
            "cls_token": "<s>",
            "sep_token": "</s>",
            "pad_token": "<pad>",
            "unk_token": "<unk>",
            "mask_token": "<mask>",
        },
    )
    return folder


def write_qwen3(
    folder: Path,
    shape: EncoderShape = SMALL,
    *,
    head: Literal["none", "causal", "classification"] = "none",
    ends_texts: bool = True,
    chat_template: str | None = None,
    seed: int = 0,
    dtype: DType = "float32",
) -> Path:
    """Write a Qwen3 with a byte-level vocabulary into a new folder, and return it. It pads on the left.

    Args:
        head: `causal` writes tokens, as rerankers that answer yes or no do; `classification` gives scores.
        ends_texts: its tokenizer puts an end token behind each text, as Qwen3-Embedding's does.
    """
    names = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
    tokens, pairs = _byte_pieces(names)
    specials = {name: tokens.index(name) for name in names}
    folder.mkdir(parents=True, exist_ok=True)
    head_dim = shape.width // shape.heads
    architecture = {"none": "Model", "causal": "ForCausalLM", "classification": "ForSequenceClassification"}[head]
    config: dict[str, Any] = {
        "architectures": [f"Qwen3{architecture}"],
        "model_type": "qwen3",
        "hidden_act": "silu",
        "hidden_size": shape.width,
        "intermediate_size": shape.hidden,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": max(1, shape.heads // 2),
        "head_dim": head_dim,
        "max_position_embeddings": shape.positions,
        "rms_norm_eps": 1e-6,
        "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
        "attention_bias": False,
        "tie_word_embeddings": True,
        "vocab_size": len(tokens),
        "pad_token_id": specials["<|endoftext|>"],
        "eos_token_id": specials["<|im_end|>"],
        "dtype": dtype,
    }
    if head == "classification":
        config |= _labels(shape.labels)
    write_json(folder / "config.json", config)
    prefix = "" if head == "none" else "model."
    weights = [(prefix + name, values) for name, values in _qwen3_weights(shape, len(tokens), seed)]
    if head == "classification":
        weights.append(("score.weight", random_numbers(seed + 1)(shape.labels, shape.width)))
    write_safetensors(folder / "model.safetensors", weights, dtype)
    extra = {} if chat_template is None else {"chat_template": chat_template}
    write_tokenizer(
        folder,
        _bpe(tokens, pairs),
        specials,
        begin=(),
        end=("<|endoftext|>",) if ends_texts else (),
        middle=(),
        second_type=0,
        config={
            "tokenizer_class": "PreTrainedTokenizerFast",
            "model_max_length": shape.positions,
            "padding_side": "left",
            "eos_token": "<|im_end|>",
            "pad_token": "<|endoftext|>",
            **extra,
        },
    )
    return folder


def write_tokenizer(
    folder: Path,
    model: Mapping[str, Any],
    specials: Mapping[str, int],
    *,
    begin: Sequence[str],
    middle: Sequence[str],
    end: Sequence[str],
    second_type: int,
    config: Mapping[str, Any],
    normalizer: Mapping[str, Any] | None = None,
    pre_tokenizer: Mapping[str, Any] | None = None,
    decoder: Mapping[str, Any] | None = None,
) -> None:
    """Write the files of a tokenizer.

    Args:
        model: of `tokenizer.json`.
        begin, middle, end: special tokens before a text, between two, and at the end.
        second_type: type of the tokens of the second of two texts.
    """
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}

    def marks(names: Sequence[str], kind: int = 0) -> list[dict[str, Any]]:
        return [{"SpecialToken": {"id": name, "type_id": kind}} for name in names]

    first, second = {"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": second_type}}
    processor = {
        "type": "TemplateProcessing",
        "single": [*marks(begin), first, *marks(end)],
        "pair": [*marks(begin), first, *marks(middle), second, *marks(end, second_type)],
        "special_tokens": {
            name: {"id": name, "ids": [specials[name]], "tokens": [name]}
            for name in dict.fromkeys((*begin, *middle, *end))
        },
    }
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    write_json(
        folder / "tokenizer.json",
        {
            "version": "1.0",
            "truncation": None,
            "padding": None,
            "added_tokens": [
                {"id": number, "content": name, **flags}
                for name, number in sorted(specials.items(), key=lambda o: o[1])
            ],
            "normalizer": normalizer,
            "pre_tokenizer": pre_tokenizer or byte_level,
            "post_processor": processor,
            "decoder": decoder or byte_level,
            "model": model,
        },
    )
    write_json(folder / "tokenizer_config.json", {"clean_up_tokenization_spaces": False, **config})


def word_pieces() -> list[str]:
    """Return the tokens of the WordPiece vocabulary in the order of their ids."""
    marks = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    letters = [*string.ascii_lowercase, *string.digits]
    words = [word for word in WORDS.split() if len(word) > 1]
    return [*marks, *string.punctuation, *letters, *("##" + letter for letter in letters), *words, "##ing"]


def _byte_pieces(specials: Sequence[str]) -> tuple[list[str], list[tuple[str, str]]]:
    """Return the byte-level vocabulary of `modelrack.testing.gguf` with other special tokens, which come first."""
    tokens, pairs = vocabulary()
    merged = {"".join(pair) for pair in pairs}
    plain = [token for token in tokens if token in merged or len(token) == 1]
    return [*specials, *plain], pairs


def _bpe(tokens: Sequence[str], pairs: Sequence[tuple[str, str]]) -> dict[str, Any]:
    return {
        "type": "BPE",
        "dropout": None,
        "unk_token": None,
        "continuing_subword_prefix": None,
        "end_of_word_suffix": None,
        "fuse_unk": False,
        "byte_fallback": False,
        "ignore_merges": False,
        "vocab": {token: number for number, token in enumerate(tokens)},
        "merges": [list(pair) for pair in pairs],
    }


def _labels(count: int) -> dict[str, Any]:
    names = [f"LABEL_{number}" for number in range(count)]
    return {"id2label": dict(enumerate(names)), "label2id": {name: number for number, name in enumerate(names)}}


def random_numbers(seed: int) -> Any:
    """Return a function `draw(*shape, scale, mean)` of float32 arrays."""
    import numpy as np

    generator = np.random.default_rng(seed)

    def draw(*shape: int, scale: float = 0.15, mean: float = 0.0) -> Any:
        return (mean + scale * generator.standard_normal(shape)).astype(np.float32)

    return draw


def _write_encoder(
    folder: Path, shape: EncoderShape, head: Head, seed: int, dtype: DType, *, kind: str, n_vocab: int, pad: int
) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    prefix = {"bert": "Bert", "roberta": "Roberta"}[kind]
    architecture = {"none": "Model", "masked": "ForMaskedLM", "classification": "ForSequenceClassification"}[head]
    config: dict[str, Any] = {
        "architectures": [prefix + architecture],
        "model_type": kind,
        "hidden_act": "gelu",
        "hidden_size": shape.width,
        "intermediate_size": shape.hidden,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "max_position_embeddings": shape.positions,
        "type_vocab_size": 2 if kind == "bert" else 1,
        "layer_norm_eps": 1e-12 if kind == "bert" else 1e-5,
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
        "pad_token_id": pad,
        "vocab_size": n_vocab,
        "dtype": dtype,
    }
    if head == "classification":
        config |= _labels(shape.labels)
    write_json(folder / "config.json", config)
    draw = random_numbers(seed)
    stem = "" if head == "none" else f"{kind}."
    bare = _encoder_weights(
        shape,
        draw,
        n_vocab,
        config["type_vocab_size"],
        pooler=head == "none" or (kind, head) == ("bert", "classification"),
    )
    weights = [(stem + name, values) for name, values in bare]
    weights += _head_weights(shape, draw, kind, head, n_vocab)
    write_safetensors(folder / "model.safetensors", weights, dtype)


def _encoder_weights(
    shape: EncoderShape, draw: Any, n_vocab: int, types: int, *, pooler: bool
) -> Iterator[tuple[str, Any]]:
    def linear(name: str, rows: int, columns: int) -> Iterator[tuple[str, Any]]:
        yield f"{name}.weight", draw(rows, columns)
        yield f"{name}.bias", draw(rows, scale=0.05)

    def norm(name: str) -> Iterator[tuple[str, Any]]:
        yield f"{name}.weight", draw(width, scale=0.1, mean=1.0)
        yield f"{name}.bias", draw(width, scale=0.05)

    width = shape.width
    yield "embeddings.word_embeddings.weight", draw(n_vocab, width, scale=0.5)
    yield "embeddings.position_embeddings.weight", draw(shape.positions, width)
    yield "embeddings.token_type_embeddings.weight", draw(types, width)
    yield from norm("embeddings.LayerNorm")
    for number in range(shape.layers):
        layer = f"encoder.layer.{number}"
        for part in ("query", "key", "value"):
            yield from linear(f"{layer}.attention.self.{part}", width, width)
        yield from linear(f"{layer}.attention.output.dense", width, width)
        yield from norm(f"{layer}.attention.output.LayerNorm")
        yield from linear(f"{layer}.intermediate.dense", shape.hidden, width)
        yield from linear(f"{layer}.output.dense", width, shape.hidden)
        yield from norm(f"{layer}.output.LayerNorm")
    if pooler:
        yield from linear("pooler.dense", width, width)


def _head_weights(shape: EncoderShape, draw: Any, kind: str, head: Head, n_vocab: int) -> list[tuple[str, Any]]:
    width = shape.width
    dense = [draw(width, width), draw(width, scale=0.05)]
    norm = [draw(width, scale=0.1, mean=1.0), draw(width, scale=0.05)]
    scores = [draw(shape.labels, width, scale=0.5), draw(shape.labels, scale=0.05)]
    bias = draw(n_vocab, scale=0.05)
    names: Mapping[tuple[str, str], Sequence[tuple[str, Any]]] = {
        ("bert", "masked"): [
            ("cls.predictions.bias", bias),
            ("cls.predictions.transform.dense.weight", dense[0]),
            ("cls.predictions.transform.dense.bias", dense[1]),
            ("cls.predictions.transform.LayerNorm.weight", norm[0]),
            ("cls.predictions.transform.LayerNorm.bias", norm[1]),
        ],
        ("roberta", "masked"): [
            ("lm_head.bias", bias),
            ("lm_head.dense.weight", dense[0]),
            ("lm_head.dense.bias", dense[1]),
            ("lm_head.layer_norm.weight", norm[0]),
            ("lm_head.layer_norm.bias", norm[1]),
        ],
        ("bert", "classification"): [("classifier.weight", scores[0]), ("classifier.bias", scores[1])],
        ("roberta", "classification"): [
            ("classifier.dense.weight", dense[0]),
            ("classifier.dense.bias", dense[1]),
            ("classifier.out_proj.weight", scores[0]),
            ("classifier.out_proj.bias", scores[1]),
        ],
    }
    return list(names.get((kind, head), ()))


def _qwen3_weights(shape: EncoderShape, n_vocab: int, seed: int) -> Iterator[tuple[str, Any]]:
    draw = random_numbers(seed)
    width, head_dim = shape.width, shape.width // shape.heads
    keys = max(1, shape.heads // 2) * head_dim

    def norm(name: str, size: int) -> tuple[str, Any]:
        return f"{name}.weight", draw(size, scale=0.1, mean=1.0)

    yield "embed_tokens.weight", draw(n_vocab, width, scale=0.5)
    for number in range(shape.layers):
        layer = f"layers.{number}"
        yield norm(f"{layer}.input_layernorm", width)
        yield f"{layer}.self_attn.q_proj.weight", draw(width, width)
        yield f"{layer}.self_attn.k_proj.weight", draw(keys, width)
        yield f"{layer}.self_attn.v_proj.weight", draw(keys, width)
        yield f"{layer}.self_attn.o_proj.weight", draw(width, width)
        yield norm(f"{layer}.self_attn.q_norm", head_dim)
        yield norm(f"{layer}.self_attn.k_norm", head_dim)
        yield norm(f"{layer}.post_attention_layernorm", width)
        yield f"{layer}.mlp.gate_proj.weight", draw(shape.hidden, width)
        yield f"{layer}.mlp.up_proj.weight", draw(shape.hidden, width)
        yield f"{layer}.mlp.down_proj.weight", draw(width, shape.hidden)
    yield norm("norm", width)
