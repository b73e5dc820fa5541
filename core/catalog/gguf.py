"""Read what a GGUF file says of itself: bounded in time and memory, whatever the bytes, and without any dependency.

Source of the tables: the GGUF specification and `gguf/constants.py` in ggml-org/llama.cpp.
"""

import os
import re
import stat
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, Final

from ..errors import BadRequest
from .gguf_reader import read_header

__all__ = ["GgufMetadata", "quantization_in_name", "read_metadata", "split_parts"]

_MAX_SPLITS: Final = 1024

_FILE_TYPES: Final[Mapping[int, str]] = dict(
    enumerate(
        (
            *("F32", "F16", "Q4_0", "Q4_1", "", "", "", "Q8_0", "Q5_0", "Q5_1", "Q2_K", "Q3_K_S", "Q3_K_M", "Q3_K_L"),
            *("Q4_K_S", "Q4_K_M", "Q5_K_S", "Q5_K_M", "Q6_K", "IQ2_XXS", "IQ2_XS", "Q2_K_S", "IQ3_XS", "IQ3_XXS"),
            *("IQ1_S", "IQ4_NL", "IQ3_S", "IQ3_M", "IQ2_S", "IQ2_M", "IQ4_XS", "IQ1_M", "BF16", "", "", "", "TQ1_0"),
            *("TQ2_0", "MXFP4_MOE", "NVFP4", "Q1_0"),
        )
    )
)
_GUESSED: Final = 1024  # a flag that writers add to a file type they are not sure of

_SPLIT_NAME: Final = re.compile(r"^(?P<stem>.*)-(?P<no>\d{5})-of-(?P<count>\d{5})\.gguf$", re.IGNORECASE | re.DOTALL)
_QUANTIZATION_NAME: Final = re.compile(
    r"(?<![A-Za-z0-9])((?:UD-)?(?:I?Q[1-8](?:_[01])?(?:_(?:K|NL|XXS|XS|S|M|L))?(?:_(?:XXS|XS|S|M|L|XL))?"
    r"|TQ[12]_0|MXFP4(?:_MOE)?|NVFP4|BF16|FP?16|FP?32))(?![A-Za-z0-9])",
    re.IGNORECASE,
)
_SIZE_LABEL: Final = re.compile(r"^(\d+(?:\.\d+)?)([KMBT])$")
_UNITS: Final = {"K": 1e-6, "M": 1e-3, "B": 1.0, "T": 1e3}


@dataclass(frozen=True, kw_only=True)
class GgufMetadata:
    """What the header of a GGUF model says; for a model in parts, of the first part, with tensors of all parts.

    Args:
        path: the file (of a model in parts: the first).
        parts: all its files.
        keys: the metadata; long arrays are left out unless they were asked for.
        array_lengths: elements of every array, kept or not.
        parameters: elements of all tensors.
        tensor_bytes: bytes of all tensors.
        file_bytes: bytes of all files.
        tensor_type: name of the tensor type that most bytes have.
        head_tensors: shapes of the tensors that make a score of what the model has read, by name.
    """

    path: str
    parts: tuple[str, ...]
    version: int
    keys: Mapping[str, Any]
    array_lengths: Mapping[str, int]
    tensor_count: int
    parameters: int
    tensor_bytes: int
    file_bytes: int
    tensor_type: str | None
    head_tensors: Mapping[str, tuple[int, ...]] = field(default_factory=dict)

    def text(self, key: str) -> str | None:
        """Return a string value, or None if it is absent, empty or no string."""
        value = self.keys.get(key)
        return value if isinstance(value, str) and value else None

    def number(self, key: str) -> int | None:
        """Return a whole number of the architecture (`context_length` reads `llama.context_length`), or None."""
        value = self.keys.get(f"{self.architecture}.{key}")
        return value if isinstance(value, int) and not isinstance(value, bool) else None

    @property
    def architecture(self) -> str:
        """Return `general.architecture`, or an empty string."""
        return self.text("general.architecture") or ""

    @property
    def name(self) -> str | None:
        """Return the name that the model's makers gave it."""
        return self.text("general.name")

    @property
    def context_length(self) -> int | None:
        """Return the tokens the model was trained on."""
        return self.number("context_length")

    @property
    def chat_template(self) -> str | None:
        """Return the Jinja source of the default chat template."""
        return self.text("tokenizer.chat_template")

    @property
    def pooling_type(self) -> int | None:
        """Return how an embedding model pools: 0 none, 1 mean, 2 first token, 3 last token, 4 rank."""
        return self.number("pooling_type")

    @property
    def has_head(self) -> bool:
        """Tell whether it has what makes a score: models that rank do, also those that say nothing of their pooling."""
        return bool(self.head_tensors)

    @property
    def is_projector(self) -> bool:
        """Tell whether this is a multimodal projector, which is no model by itself."""
        return self.architecture == "clip" or self.text("general.type") == "mmproj"

    @property
    def vocabulary_size(self) -> int | None:
        """Return the number of tokens."""
        return self.array_lengths.get("tokenizer.ggml.tokens") or self.number("vocab_size")

    @cached_property
    def quantization(self) -> str:
        """Return the name of the file type (`Q4_K_M`), else of the commonest tensor type, else `none`."""
        value = self.keys.get("general.file_type")
        named = _FILE_TYPES.get(value & ~_GUESSED, "") if isinstance(value, int) and value >= 0 else ""
        return named or self.tensor_type or "none"

    @cached_property
    def size_b(self) -> float | None:
        """Return billions of parameters: the maker's label where it is a plain number, else counted."""
        label = _SIZE_LABEL.match(self.text("general.size_label") or "")
        if label:
            size = float(label[1]) * _UNITS[label[2]]
            if size > 0:
                return float(f"{size:.4g}")
        return float(f"{self.parameters / 1e9:.3g}") if self.parameters else None


def read_metadata(path: str | Path, arrays: Collection[str] = ()) -> GgufMetadata:
    """Read the header of a GGUF file, or of all parts of a model in parts.

    Args:
        path: the file; any part of a model in parts.
        arrays: names of arrays to keep however long (`tokenizer.ggml.tokens`); the vocabulary is skipped otherwise.

    Blocks for some milliseconds; repeated reads of an unchanged file are answered from memory.
    Raises: BadRequest: the file is missing, cut off, not GGUF, big-endian, or claims absurd sizes.
    """
    files = split_parts(path)
    first = _read_cached(files[0], tuple(sorted(arrays)))
    if len(files) == 1:
        return first
    rest = [_read_cached(file, ()) for file in files[1:]]
    types = [part.tensor_type for part in sorted([first, *rest], key=lambda part: part.tensor_bytes, reverse=True)]
    return replace(
        first,
        parts=tuple(str(file) for file in files),
        tensor_count=first.tensor_count + sum(part.tensor_count for part in rest),
        parameters=first.parameters + sum(part.parameters for part in rest),
        tensor_bytes=first.tensor_bytes + sum(part.tensor_bytes for part in rest),
        file_bytes=first.file_bytes + sum(part.file_bytes for part in rest),
        tensor_type=next((name for name in types if name), None),
        head_tensors={name: shape for part in (first, *rest) for name, shape in part.head_tensors.items()},
    )


def split_parts(path: str | Path) -> tuple[Path, ...]:
    """Return all files of a model, in order: those of its parts if the name says `-00001-of-00003.gguf`.

    Raises: BadRequest: a part is missing.
    """
    path = Path(path)
    match = _SPLIT_NAME.match(path.name)
    if not match:
        return (path,)
    count = int(match["count"])
    if not 1 <= count <= _MAX_SPLITS:
        raise BadRequest(f"{path} says it is one of {count} parts; 1 to {_MAX_SPLITS} can be.")
    suffix = path.name[-5:]
    files = tuple(path.with_name(f"{match['stem']}-{no:05d}-of-{count:05d}{suffix}") for no in range(1, count + 1))
    missing = [file.name for file in files if not file.is_file()]
    if missing:
        names = ", ".join(missing[:3]) + (f" and {len(missing) - 3} more" if len(missing) > 3 else "")
        raise BadRequest(f"The model is in {count} parts, and some are missing in {path.parent}: {names}.")
    return files


def quantization_in_name(name: str) -> str | None:
    """Find the quantization in the name of a GGUF file, as spelt there (`model-UD-Q4_K_XL.gguf`: `UD-Q4_K_XL`)."""
    found = _QUANTIZATION_NAME.findall(name.rsplit("/", 1)[-1])
    return str(found[-1]) if found else None


def _read_cached(path: Path, arrays: tuple[str, ...]) -> GgufMetadata:
    try:
        info = path.stat()
    except (OSError, ValueError) as error:
        raise BadRequest(f"{path} cannot be read: {getattr(error, 'strerror', None) or error}.") from error
    if stat.S_ISDIR(info.st_mode):
        raise BadRequest(f"{path} is a folder, not a GGUF file.")
    if not stat.S_ISREG(info.st_mode):
        raise BadRequest(f"{path} is not a regular file.")
    if arrays:
        return _read(path, arrays)
    return _read_unchanged(path, (info.st_dev, info.st_ino, info.st_size, info.st_mtime_ns))


@lru_cache(maxsize=64)
def _read_unchanged(path: Path, _identity: tuple[int, ...]) -> GgufMetadata:
    return _read(path, ())


def _read(path: Path, arrays: tuple[str, ...]) -> GgufMetadata:
    try:
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NONBLOCK", 0))
    except OSError as error:
        raise BadRequest(f"{path} cannot be read: {error.strerror}.") from error
    try:
        header = read_header(path, descriptor, arrays)
    except OSError as error:
        raise BadRequest(f"{path} cannot be read: {error.strerror}.") from error
    finally:
        os.close(descriptor)
    return GgufMetadata(
        path=str(path),
        parts=(str(path),),
        version=header.version,
        keys=header.keys,
        array_lengths=header.array_lengths,
        tensor_count=header.tensor_count,
        parameters=header.parameters,
        tensor_bytes=header.tensor_bytes,
        file_bytes=header.file_bytes,
        tensor_type=header.tensor_type,
        head_tensors=header.head_tensors,
    )
