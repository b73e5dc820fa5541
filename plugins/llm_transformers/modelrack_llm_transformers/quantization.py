"""Weights of fewer bits: those that a model comes with, and those that are made while loading."""

from collections.abc import Mapping
from typing import Any

import torch

from modelrack.errors import LaunchFailed

__all__ = ["check_quantized", "quantization_config"]

_PACKAGES = {
    "aqlm": "aqlm",
    "auto-round": "auto-round",
    "awq": "gptqmodel",
    "bitsandbytes": "bitsandbytes",
    "compressed-tensors": "compressed-tensors",
    "fp8": "kernels",
    "gptq": "gptqmodel optimum",
    "hqq": "hqq",
    "mxfp4": "kernels triton",
    "quanto": "optimum-quanto",
    "torchao": "torchao",
}
"""What must be installed for a method."""


def check_quantized(config: Any, device: torch.device) -> str | None:
    """Return the method by which a model's weights are quantized, or None if they are not.

    Args:
        config: the model's, as Transformers reads it.

    Raises: LaunchFailed: they cannot be used here; says what is missing.
    """
    found = getattr(config, "quantization_config", None)
    if found is None:
        return None
    facts: dict[str, Any] = found if isinstance(found, dict) else found.to_dict()
    method = str(getattr(facts.get("quant_method"), "value", facts.get("quant_method", "bitsandbytes")))
    _check(facts, method, device, is_made=False)
    return method


def quantization_config(options: Mapping[str, Any], config: Any, device: torch.device, dtype: torch.dtype) -> Any:
    """Return what `from_pretrained` is given so that weights are quantized while loading; None: they are not.

    Args:
        options: with `quantization`: `none`, `bnb-8bit` or `bnb-4bit`.

    Raises: LaunchFailed: it cannot be done here, or the weights are quantized already.
    """
    wanted = options["quantization"]
    method = check_quantized(config, device)
    if wanted == "none":
        return None
    if method is not None:
        raise LaunchFailed(
            f"The model's weights are quantized already ({method}), so they cannot be quantized as {wanted}.",
            remedy="Launch it without the option quantization.",
        )
    from transformers import BitsAndBytesConfig

    if wanted == "bnb-8bit":
        made = BitsAndBytesConfig(load_in_8bit=True)
    else:
        made = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=dtype)
    _check(made.to_dict(), "bitsandbytes", device, is_made=True)
    return made


def _check(facts: dict[str, Any], method: str, device: torch.device, *, is_made: bool) -> None:
    from transformers.quantizers import AutoHfQuantizer, AutoQuantizationConfig

    packages = _PACKAGES.get(method)
    try:
        config = AutoQuantizationConfig.from_dict(dict(facts))
        quantizer = AutoHfQuantizer.from_config(config, pre_quantized=not is_made)
        quantizer.validate_environment(device_map={"": str(device)}, dtype=torch.float16, weights_only=True)
    except ImportError as error:
        reason = str(error).rstrip(". ")
        raise LaunchFailed(
            f"Weights quantized by {method} need packages that are not in the engine's environment: {reason}.",
            remedy=_remedy(packages),
        ) from error
    except (RuntimeError, ValueError, TypeError, KeyError) as error:
        reason = str(error).rstrip(".")
        raise LaunchFailed(f"Weights quantized by {method} cannot be used here: {reason}.") from error


def _remedy(packages: str | None) -> str | None:
    if packages is None:
        return None
    return f"Install them beside the engine (pip install {packages}), or name them in virtual_env_packages."
