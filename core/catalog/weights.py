"""How many bytes a model's weights take: counted in its files, else reckoned from parameters and quantization."""

import json
import re
import struct
from collections.abc import Iterator, Mapping
from functools import lru_cache
from pathlib import Path, PurePosixPath
from types import MappingProxyType
from typing import Any, Final

from ..errors import BadRequest
from .local import read_modules
from .names import same_quantization
from .shapes import Shape
from .suggest import did_you_mean, listing

__all__ = ["DTYPE_BYTES", "bits_of", "check_quantization", "folder_weights", "is_known", "weights_by_size"]

DTYPE_BYTES: Final[Mapping[str, float]] = {
    **dict.fromkeys(("float64", "f64", "i64", "u64"), 8.0),
    **dict.fromkeys(("float32", "float", "fp32", "f32", "i32", "u32"), 4.0),
    **dict.fromkeys(("float16", "half", "fp16", "f16", "bfloat16", "bf16", "i16", "u16"), 2.0),
    **dict.fromkeys(("int8", "i8", "u8", "bool", "fp8", "fp8_e4m3", "fp8_e5m2", "f8_e4m3", "f8_e5m2"), 1.0),
    **dict.fromkeys(("float8_e4m3fn", "float8_e5m2", "f8_e8m0", "f8_e4m3fnuz", "f8_e5m2fnuz"), 1.0),
    **dict.fromkeys(("f6_e2m3", "f6_e3m2"), 0.75),
    **dict.fromkeys(("int4", "fp4", "f4", "nvfp4", "mxfp4"), 0.5),
}
"""Bytes of a number, by the names that PyTorch, safetensors and engines' options have for its type, in lower case."""

_BITS: Final[Mapping[str, float]] = {
    **{"IQ1_S": 2.00, "IQ1_M": 2.15, "IQ2_XXS": 2.38, "IQ2_XS": 2.59, "IQ2_S": 2.74, "IQ2_M": 2.93, "IQ3_XXS": 3.25},
    **{"IQ3_XS": 3.50, "IQ3_S": 3.66, "IQ3_M": 3.76, "IQ4_XS": 4.46, "IQ4_NL": 4.68, "Q2_K_S": 2.97, "Q2_K": 3.16},
    **{"Q3_K_S": 3.64, "Q3_K_M": 4.00, "Q3_K_L": 4.30, "Q4_K_S": 4.67, "Q4_K_M": 4.89, "Q4_0": 4.66, "Q4_1": 5.12},
    **{"Q5_0": 5.59, "Q5_1": 6.06, "Q5_K_S": 5.57, "Q5_K_M": 5.70, "Q6_K": 6.56, "Q8_0": 8.50},
}
"""Bits of a parameter in GGUF files, larger tensors included.

Source: the table for Llama 3.1 8B in tools/quantize/README.md of ggml-org/llama.cpp.
"""

_FULL_BITS = 16.0
_SCALES_BITS = 0.25  # a 16-bit scale and a zero point for each 128 weights, as GPTQ and AWQ keep them
_MAX_HEADER_BYTES = 64 << 20
_MAX_FILES = 4096
_PREFIX = re.compile(r"^(?:UD|i1)-", re.IGNORECASE)
"""What quantizers put in front: tensors differ in their types, or an importance matrix was used."""

_KNOWN = re.compile(
    r"(?:(?:UD|i1)-)?(?:I?Q[1-8](?:_[A-Z0-9]+)*|TQ[12]_0|(?:MX|NV)?FP(?:4|6|8|16|32)(?:_[A-Z0-9]+)*|BF16|F(?:16|32)"
    r"|U?INT(?:[1-8]|16)|W[1-8](?:A\d+)?|NF4|AWQ|[1-8]-?BITS?|NONE)(?:-[A-Z0-9]+)*",
    re.IGNORECASE,
)
_NAMED_BITS = re.compile(r"(?:q|int|fp|bf|f|w)(\d+)|(\d+)-?bit", re.IGNORECASE)


def is_known(quantization: str) -> bool:
    """Tell whether the name of a quantization says how many bits a parameter takes."""
    return _KNOWN.fullmatch(quantization) is not None


def check_quantization(name: str) -> str:
    """Return the name of a quantization, if it says how many bits a parameter takes.

    Raises: BadRequest: it does not.
    """
    if not is_known(name):
        known = ("none", "F32", "BF16", "FP8", "FP4", "NF4", "AWQ", "Int8", "Int4", "8-bit", "4-bit", *_BITS)
        raise BadRequest(
            f"'{name[:64]}' is no known quantization; known are: {listing(known, 60)}." + did_you_mean(name, known),
            param="quantization",
        )
    return name


def bits_of(quantization: str) -> float:
    """Return about how many bits a parameter takes, by the quantization's name; 16 where it says nothing."""
    bare = _PREFIX.sub("", quantization)
    plain = bare.upper().replace("_XL", "_M")
    known = next((bits for name, bits in _BITS.items() if same_quantization(name, plain)), None)
    if known is not None:
        return known
    if plain.split("-")[0] == "AWQ":  # the method has four bits; what follows the name is about some layers
        return 4 + _SCALES_BITS
    match = _NAMED_BITS.search(bare)
    bits = float(match[1] or match[2]) if match else _FULL_BITS
    if bits >= _FULL_BITS or bits <= 0:
        return min(max(bits, 1.0), 32.0)
    return bits * 1.12 + 0.4 if re.match(r"I?Q\d", bare, re.IGNORECASE) else bits + _SCALES_BITS


def weights_by_size(size_b: float, quantization: str, form: str, shape: Shape | None, dtype_bytes: float = 2.0) -> int:
    """Return about how many bytes the weights of a model take that is not on this machine.

    In GGUF files all tensors are quantized; other quantizations leave the embedding and the output as they are.

    Args:
        size_b: parameters in billions.
        dtype_bytes: of the parameters that are not quantized.
    """
    parameters = size_b * 1e9
    bits = bits_of(quantization)
    if form == "gguf":
        return int(parameters * bits / 8)
    if bits >= _FULL_BITS:
        return int(parameters * (dtype_bytes if bits == _FULL_BITS else bits / 8))
    kept = 0.0
    if shape is not None:
        kept = min(parameters / 2, shape.vocabulary * shape.width * (1 if shape.tied else 2))
    return int((parameters - kept) * bits / 8 + kept * dtype_bytes)


def folder_weights(folder: Path, dtype_bytes: float | None = None) -> int | None:
    """Return the bytes that the safetensors files of a folder take once they are loaded, or None if it has none.

    Those of a model's modules (`modules.json` of sentence-transformers) count too.

    Args:
        dtype_bytes: of a floating-point number where weights are converted while loading; None keeps them as they are.

    Files that cannot be understood count as they are on disk.
    """
    total = 0
    files = [file for place in (folder, *_module_folders(folder)) for file in _weight_files(place)]
    for file in files:
        numbers = _numbers_of(file)
        if numbers is None:
            total += file.stat().st_size
            continue
        for name, count in numbers.items():
            as_stored = DTYPE_BYTES.get(name, 2.0)
            is_plain_float = name in ("f64", "f32", "f16", "bf16")
            total += int(count * (dtype_bytes if dtype_bytes is not None and is_plain_float else as_stored))
    return total if files else None


def _module_folders(folder: Path) -> Iterator[Path]:
    try:
        modules = read_modules(folder)
    except BadRequest:  # whoever loads it says what is wrong
        return
    for path in dict.fromkeys(module.path for module in modules):
        if PurePosixPath(path).parts and (folder / path).is_dir():
            yield folder / path


def _weight_files(folder: Path) -> Iterator[Path]:
    """Find the files that are loaded: those that an index names, else all at the top but for the maker's own copy."""
    index = folder / "model.safetensors.index.json"
    if index.is_file() and index.stat().st_size <= _MAX_HEADER_BYTES:
        try:
            named = json.loads(index.read_bytes())["weight_map"].values()
            names = sorted({name for name in named if isinstance(name, str) and "/" not in name})
        except (ValueError, RecursionError, KeyError, TypeError, AttributeError):
            names = []
        found = [folder / name for name in names if (folder / name).is_file()]
        if found:
            yield from found
            return
    for number, file in enumerate(sorted(folder.glob("*.safetensors"))):
        if number < _MAX_FILES and not file.name.startswith("consolidated") and file.is_file():
            yield file


def _numbers_of(file: Path) -> Mapping[str, int] | None:
    info = file.stat()
    return _read_numbers(file, (info.st_dev, info.st_ino, info.st_size, info.st_mtime_ns))


@lru_cache(maxsize=512)
def _read_numbers(file: Path, identity: tuple[int, ...]) -> Mapping[str, int] | None:
    """Count the numbers of each type in a safetensors file, by its header; None if it cannot be understood."""
    with file.open("rb") as stream:
        head = stream.read(8)
        length = struct.unpack("<Q", head)[0] if len(head) == 8 else 0
        if not 2 <= length <= min(_MAX_HEADER_BYTES, identity[2] - 8):
            return None
        try:
            header: Any = json.loads(stream.read(length))
        except (ValueError, RecursionError):
            return None
    if not isinstance(header, dict):
        return None
    counts: dict[str, int] = {}
    for name, tensor in header.items():
        if name == "__metadata__":
            continue
        kind, shape = (tensor.get("dtype"), tensor.get("shape")) if isinstance(tensor, dict) else (None, None)
        if not isinstance(kind, str) or not isinstance(shape, list):
            return None
        count = 1
        for size in shape:
            if not isinstance(size, int) or not 0 <= size <= 1 << 40:
                return None
            count *= size
        counts[kind.lower()] = counts.get(kind.lower(), 0) + min(count, 1 << 50)
    return MappingProxyType(counts)
