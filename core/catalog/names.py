"""How names, formats, sizes and versions are written."""

import re
from pathlib import Path

from ..errors import BadRequest
from ..hooks.types import Variant

__all__ = [
    "DEFAULT_QUANTIZATIONS",
    "NAME_PATTERN",
    "check_name",
    "expand_home",
    "format_size",
    "model_version",
    "plain_format",
    "rank_quantization",
    "same_quantization",
    "same_size",
]

NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$"

_FORMAT_ALIASES = {"ggufv2": "gguf", "transformers": "pytorch", "safetensors": "pytorch"}

DEFAULT_QUANTIZATIONS = (
    *("none", "Q4_K_M", "UD-Q4_K_XL", "Q5_K_M", "Q4_K_S", "Q5_K_S", "Q4_K_L", "IQ4_XS", "IQ4_NL", "Q4_0", "Q4_1", "Q4"),
    *("MXFP4", "MXFP4_MOE", "Q5_0", "Q5_1", "Q5", "Q6_K", "Q6_K_L", "UD-Q6_K_XL", "Q6", "Q8_0", "UD-Q8_K_XL", "Q8"),
    *(
        "FP8",
        "Int8",
        "Int4",
        "4-bit",
        "8-bit",
        "Q3_K_M",
        "Q3_K_L",
        "UD-Q3_K_XL",
        "Q3_K_S",
        "BF16",
        "F16",
        "FP16",
        "F32",
    ),
)
"""Preferred quantizations where none is named: a good balance first, then larger ones, then those that cost quality."""

_RANKS = {name.lower(): rank for rank, name in enumerate(DEFAULT_QUANTIZATIONS)}


FORMATS = ("pytorch", "gguf", "gptq", "awq", "fp8", "fp4", "bnb", "mlx")
"""Formats whose sizes can be reckoned; plugins may bring others."""


def check_name(name: str, param: str = "model_name") -> str:
    """Return `name` if a family may be called so.

    Raises: BadRequest: it holds other characters than letters, digits, dots, dashes and underscores, or is too long.
    """
    if not re.fullmatch(NAME_PATTERN, name):
        raise BadRequest(
            f"{param}: {name[:128]!r} may hold letters, digits and . _ -, must start with a letter or digit, "
            "and may have up to 128 characters.",
            param=param,
        )
    return name


def plain_format(name: str) -> str:
    """Return the name of a format as it is written here (`ggufv2` is `gguf`)."""
    lower = name.strip().lower()
    return _FORMAT_ALIASES.get(lower, lower)


def format_size(size_b: float | None) -> int | float | None:
    """Return a size as JSON shows it: 7, not 7.0."""
    return int(size_b) if size_b is not None and size_b == int(size_b) else size_b


def same_size(first: float | None, second: float | None) -> bool:
    """Tell whether two sizes mean the same; without a size, only another without one is the same."""
    if first is None or second is None:
        return first is second
    return abs(first - second) <= 1e-6 * max(first, second)


def same_quantization(first: str, second: str) -> bool:
    """Tell whether two names mean the same quantization; upper and lower case are the same, `F16` is `fp16`."""
    return _plain_quantization(first) == _plain_quantization(second)


def rank_quantization(name: str) -> int:
    """Return the place of a quantization in the order of preference; the lowest is taken where none is named."""
    return _RANKS.get(name.lower(), _RANKS.get(_plain_quantization(name), len(_RANKS)))


def model_version(name: str, variant: Variant, quantization: str) -> str:
    """Return the name of one loadable form, in Xinference's way: `qwen3--8B--gguf--Q4_K_M`."""
    size = "" if variant.size_b is None else f"--{format_size(variant.size_b)}B"
    return f"{name}{size}--{variant.format}--{quantization}"


def expand_home(path: str) -> Path:
    """Return a path with a leading `~` replaced by the home folder."""
    try:
        return Path(path).expanduser()
    except (RuntimeError, ValueError):
        return Path(path)


def _plain_quantization(name: str) -> str:
    lower = name.lower()
    return {"fp16": "f16", "fp32": "f32"}.get(lower, lower)
