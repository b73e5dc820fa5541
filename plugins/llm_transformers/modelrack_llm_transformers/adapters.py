"""LoRA adapters of a model, by peft: one of them, or none, computes at a time."""

import json
import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from modelrack.errors import LaunchFailed

__all__ = ["Adapters"]

_WEIGHTS = "adapter_model.safetensors"
_LOCAL = {"local_files_only": True}


class Adapters:
    """Loads adapters into a model, and switches between them.

    Args:
        model: gets further layers beside those that are adapted.
        lora: (name, path of a folder as peft writes it).

    Raises: LaunchFailed: one of them is no adapter, or not one for this model.
    """

    def __init__(self, model: Any, lora: Sequence[tuple[str, str]]) -> None:
        self.names = tuple(name for name, _ in lora)
        self._model = model
        # Names of adapters become names of modules, which must not have dots.
        self._inner = {name: f"adapter_{number}" for number, name in enumerate(self.names)}
        for name, path in lora:
            _load(model, name, path, self._inner[name])
        self._applied: str | None = None
        model.disable_adapters()

    def apply(self, name: str | None) -> None:
        """Let the model compute with one adapter, or with none."""
        if name == self._applied:
            return
        if name is None:
            self._model.disable_adapters()
        else:
            self._model.set_adapter(self._inner[name])
            self._model.enable_adapters()
        self._applied = name


def _load(model: Any, name: str, path: str, inner: str) -> None:
    folder = Path(path)
    _check(folder, name)
    try:
        with _quietly():
            info = model.load_adapter(path, adapter_name=inner, use_safetensors=True, adapter_kwargs=_LOCAL)
    except Exception as error:
        # Files of any content may come here, and peft checks them by what fails.
        reason = str(error).strip().partition("\n")[0].rstrip(".")
        if "ignore_mismatched_sizes" in reason:
            reason = "its matrices have other sizes"
        raise LaunchFailed(f"The LoRA adapter '{name}' in {path} cannot be used with this model: {reason}.") from error
    # Keys of the adapters that were loaded before are reported as missing each time.
    missing = {key for key in info.missing_keys if f".{inner}." in f"{key}."}
    mismatched = {key if isinstance(key, str) else key[0] for key in info.mismatched_keys}
    unfit = sorted(missing | mismatched | set(info.unexpected_keys))
    if unfit:
        raise LaunchFailed(
            f"The LoRA adapter '{name}' in {path} does not fit this model, which has other layers or sizes: {unfit[0]} "
            f"(and {len(unfit) - 1} more)."
        )


@contextmanager
def _quietly() -> Iterator[None]:
    """Keep back what is said of other adapters than the one that is being loaded."""
    log = logging.getLogger("transformers")
    level = log.level
    log.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            # That a model has several adapters is the purpose.
            warnings.filterwarnings("ignore", message="Already found a `peft_config`")
            yield
    finally:
        log.setLevel(level)


def _check(folder: Path, name: str) -> None:
    """See to it that a folder is an adapter, and one that is safe to read."""
    try:
        config = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise LaunchFailed(
            f"The LoRA adapter '{name}': {folder} has no adapter_config.json.",
            remedy="Give the folder that peft's save_pretrained has written.",
        ) from None
    except (OSError, ValueError) as error:
        raise LaunchFailed(f"The LoRA adapter '{name}': its adapter_config.json cannot be read: {error}.") from error
    kind = config.get("peft_type") if isinstance(config, dict) else None
    if kind != "LORA":
        raise LaunchFailed(f"The LoRA adapter '{name}' is of peft's type {kind}; only LORA is loaded.")
    if not (folder / _WEIGHTS).is_file():
        raise LaunchFailed(
            f"The LoRA adapter '{name}': {folder} has no {_WEIGHTS}.",
            remedy="Convert adapter_model.bin, which is a pickle and may run code, to safetensors.",
        )
