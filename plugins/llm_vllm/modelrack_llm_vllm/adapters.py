"""LoRA adapters as vLLM takes them, and one that changes nothing."""

import hashlib
import os
import shutil
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import orjson

from modelrack.errors import LaunchFailed

__all__ = ["lora_rank", "write_null_adapter"]

_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
_MOST_HEADER_BYTES = 64 << 20
_FLOAT32 = 4


def lora_rank(folders: Sequence[str]) -> int:
    """Return the least of the ranks that vLLM knows which holds these adapters.

    Raises: LaunchFailed: one of them is no adapter as peft writes them, or its rank is too large.
    """
    most = 1
    for folder in folders:
        config = _config(Path(folder))
        try:
            ranks = [config["r"], *(config.get("rank_pattern") or {}).values()]
            most = max(most, *(int(rank) for rank in ranks))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise LaunchFailed(f"{folder} is no LoRA adapter as peft writes them: {error!r}") from error
    found = next((rank for rank in _RANKS if rank >= most), None)
    if found is None:
        raise LaunchFailed(f"an adapter has the rank {most}; vLLM takes ranks up to {_RANKS[-1]}")
    return found


def write_null_adapter(like: Path, parent: Path) -> Path:
    """Return a folder with an adapter that changes nothing; it is written below `parent` unless it is there.

    Args:
        like: an adapter of the same model, whose first matrix shows a module to adapt.

    Raises: LaunchFailed: that one cannot be read.
    """
    config = _config(like)
    name, inputs, outputs = _module(like / "adapter_model.safetensors")
    null = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "r": 1, "lora_alpha": 1, "lora_dropout": 0.0, "bias": "none"}
    null["base_model_name_or_path"] = config.get("base_model_name_or_path")
    null["target_modules"] = [name.rpartition(".")[2]]
    tensors = {f"{name}.lora_A.weight": (1, inputs), f"{name}.lora_B.weight": (outputs, 1)}
    files = {"adapter_config.json": orjson.dumps(null), "adapter_model.safetensors": _zeros(tensors)}
    digest = hashlib.sha256(b"".join(files.values())).hexdigest()[:24]
    folder = parent / f"null-{digest}"
    if not folder.is_dir():
        draft = parent / f".{folder.name}.{os.getpid()}"
        try:
            draft.mkdir(parents=True, exist_ok=True)
            for file, data in files.items():
                (draft / file).write_bytes(data)
            draft.replace(folder)
        except OSError as error:
            shutil.rmtree(draft, ignore_errors=True)
            if not folder.is_dir():  # else somebody was quicker
                raise LaunchFailed(f"{folder} cannot be written: {error.strerror}") from error
    return folder


def _config(folder: Path) -> Mapping[str, Any]:
    try:
        config = orjson.loads((folder / "adapter_config.json").read_bytes())
    except (OSError, ValueError) as error:
        raise LaunchFailed(f"{folder} is no LoRA adapter as peft writes them: {error}") from error
    if not isinstance(config, dict):
        raise LaunchFailed(f"{folder} is no LoRA adapter as peft writes them: its adapter_config.json is no object")
    return config


def _module(path: Path) -> tuple[str, int, int]:
    """Return a module that an adapter adapts, with the sizes of what goes in and comes out.

    Raises: LaunchFailed: there is none.
    """
    try:
        with path.open("rb") as file:
            (size,) = struct.unpack("<Q", file.read(8))
            header = orjson.loads(file.read(min(size, _MOST_HEADER_BYTES)))
        for key, tensor in header.items():
            name, found, _ = key.partition(".lora_A.")
            if found and len(tensor["shape"]) == 2:
                other = header[key.replace(".lora_A.", ".lora_B.")]
                return name, int(tensor["shape"][1]), int(other["shape"][0])
    except (OSError, ValueError, KeyError, TypeError, AttributeError, struct.error) as error:
        raise LaunchFailed(f"{path} is no adapter's safetensors file: {error}") from error
    raise LaunchFailed(f"{path} has no LoRA matrices")


def _zeros(tensors: Mapping[str, tuple[int, int]]) -> bytes:
    """Return a safetensors file of zeros."""
    header: dict[str, Any] = {}
    end = 0
    for name, (rows, columns) in tensors.items():
        size = rows * columns * _FLOAT32
        header[name] = {"dtype": "F32", "shape": [rows, columns], "data_offsets": [end, end + size]}
        end += size
    head = orjson.dumps(header)
    head += b" " * (-len(head) % 8)
    return struct.pack("<Q", len(head)) + head + bytes(end)
