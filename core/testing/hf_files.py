"""Write the files of a model folder as Hugging Face's libraries read them; needs the package `numpy`."""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeAlias

__all__ = ["DType", "write_json", "write_safetensors", "write_tokenizer_json"]

DType: TypeAlias = Literal["float32", "float16", "bfloat16"]

_TYPES: Mapping[DType, str] = {"float32": "F32", "float16": "F16", "bfloat16": "BF16"}


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Write an object as a JSON file."""
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def write_safetensors(path: Path, tensors: Iterable[tuple[str, Any]], dtype: DType = "float32") -> None:
    """Write float32 arrays, by their names, as a safetensors file.

    Args:
        dtype: what they are rounded to.

    Source: the format's page, huggingface.co/docs/safetensors: length of the header, header (JSON), data.
    """
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    parts: list[bytes] = []
    end = 0
    for name, values in tensors:
        data = _encoded(values, dtype)
        header[name] = {"dtype": _TYPES[dtype], "shape": list(values.shape), "data_offsets": [end, end + len(data)]}
        end += len(data)
        parts.append(data)
    head = json.dumps(header).encode()
    head += b" " * (-len(head) % 8)
    with path.open("wb") as file:
        file.write(len(head).to_bytes(8, "little") + head)
        file.writelines(parts)


def _encoded(values: Any, dtype: DType) -> bytes:
    import numpy as np

    data: bytes
    if dtype == "bfloat16":
        bits = np.ascontiguousarray(values, dtype="<f4").view("<u4").astype("<u8")
        # To the nearest, ties to even: half of what is cut off, and one more where the last bit that stays is set.
        data = ((bits + 0x7FFF + (bits >> 16 & 1)) >> 16).astype("<u2").tobytes()
    else:
        data = np.ascontiguousarray(values, dtype="<f2" if dtype == "float16" else "<f4").tobytes()
    return data


def write_tokenizer_json(
    folder: Path,
    tokens: Sequence[str],
    pairs: Sequence[tuple[str, str]],
    *,
    specials: Iterable[str],
    plain: Iterable[str] = (),
    eos: str = "<|im_end|>",
    context: int = 2048,
    chat_template: str | None = None,
    extra: Mapping[str, Any] | None = None,
) -> None:
    """Write the files of a byte-level tokenizer.

    Args:
        tokens: as a byte-level vocabulary writes them, in the order of their ids.
        pairs: that are merged, the first first.
        specials: those of the tokens that are special.
        plain: those that are found in texts as they are, though they are not special.
        extra: further keys of `tokenizer_config.json`.
    """
    special = set(specials)
    added = special | set(plain)
    marks = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    bpe = {
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
    found = [
        {"id": number, "content": token, **marks, "special": token in special}
        for number, token in enumerate(tokens)
        if token in added
    ]
    write_json(
        folder / "tokenizer.json",
        {
            "version": "1.0",
            "truncation": None,
            "padding": None,
            "added_tokens": found,
            "normalizer": None,
            "pre_tokenizer": byte_level,
            "post_processor": None,
            "decoder": byte_level,
            "model": bpe,
        },
    )
    config: dict[str, Any] = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "added_tokens_decoder": {str(one["id"]): {k: v for k, v in one.items() if k != "id"} for one in found},
        "bos_token": "<|endoftext|>",
        "eos_token": eos,
        "pad_token": "<|endoftext|>",
        "model_max_length": context,
        "clean_up_tokenization_spaces": False,
        **(extra or {}),
    }
    if chat_template is not None:
        config["chat_template"] = chat_template
    write_json(folder / "tokenizer_config.json", config)
