"""Look at model files on this machine: which format they have, and what they say of themselves."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from ..errors import BadRequest
from ..hooks.types import ModelFiles, Source
from .gguf import GgufMetadata, quantization_in_name, read_metadata, split_parts
from .names import rank_quantization, same_quantization
from .suggest import did_you_mean, listing

__all__ = [
    "Inspected",
    "Module",
    "inspect",
    "inspect_files",
    "is_projector_name",
    "read_json",
    "read_modules",
    "source_path",
]

_MAX_JSON_BYTES = 16 << 20
_MAX_FILES = 4096
_MAX_MODULES = 64
_PICKLES = frozenset({".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle"})
_QUANT_METHODS = {"bitsandbytes": "bnb", "compressed-tensors": "pytorch"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Inspected:
    """What files on this machine are.

    Args:
        quantization: as the files say; `none` for full precision.
        metadata: the GGUF's keys, or `config.json`.
    """

    files: ModelFiles
    quantization: str
    size_b: float | None = None
    context_length: int | None = None
    chat_template: str | None = None
    architectures: tuple[str, ...] = ()
    metadata: Mapping[str, Any] = field(default_factory=dict)
    gguf: GgufMetadata | None = None


@dataclass(frozen=True, slots=True)
class Module:
    """A part of a model that sentence-transformers has written.

    Args:
        kind: dotted path of its class.
        path: its folder below the model's; empty: that one.
    """

    kind: str
    path: str


def inspect(path: Path, quantization: str | None = None) -> Inspected:
    """Look at a model file, or at a folder that holds one model.

    Args:
        quantization: which to take of a folder with several GGUF files; None takes the most sensible one.

    Raises: BadRequest: it does not exist, or is nothing that can be loaded.
    """
    try:
        if path.is_dir():
            return _inspect_folder(path, quantization)
        if not path.exists():
            raise BadRequest(f"There is no file or folder {path}.", param="model_path")
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise BadRequest(f"{str(path)[:500]} cannot be read: {reason}.", param="model_path") from error
    suffix = path.suffix.lower()
    if suffix in _PICKLES:
        raise BadRequest(
            f"{path} is in a pickle format, which can run code when it is loaded.",
            remedy="Give the model's folder with safetensors files, or a GGUF file.",
        )
    if suffix == ".safetensors":
        raise BadRequest(f"{path} holds weights alone.", remedy=f"Give the folder with its config.json: {path.parent}")
    return _inspect_gguf(path, None)


def inspect_files(files: ModelFiles) -> Inspected:
    """Look at files that are known already.

    Raises: BadRequest: they are gone or broken.
    """
    path = Path(files.path)
    if path.is_dir():
        return _inspect_folder(path, None, files)
    return (
        _inspect_gguf(path, files.projector) if files.format == "gguf" else Inspected(files=files, quantization="none")
    )


def source_path(source: Source, quantization: str) -> Path:
    """Return the path that a source on this machine names, whether it exists or not."""
    base = Path(source.repo).expanduser()
    if not base.is_dir():
        return base
    parts = source.parts.get(quantization)
    if source.split_file and parts:
        template = source.split_file.replace("{quantization}", quantization)
        first = parts[0] if isinstance(parts, tuple) else f"00001-of-{parts:05d}"
        return base / template.replace("{part}", first)
    return base / source.file.replace("{quantization}", quantization) if source.file else base


def is_projector_name(name: str) -> bool:
    """Tell whether a file is a multimodal projector, by its name."""
    return "mmproj" in name.rsplit("/", 1)[-1].lower()


def _inspect_gguf(path: Path, projector: str | None) -> Inspected:
    gguf = read_metadata(split_parts(path)[0])
    template = gguf.chat_template
    return Inspected(
        files=ModelFiles(path=gguf.path, format="gguf", projector=projector),
        quantization=_named_quantization(path.name, gguf.quantization),
        size_b=gguf.size_b,
        context_length=gguf.context_length,
        chat_template=template,
        architectures=(gguf.architecture,) if gguf.architecture else (),
        metadata=gguf.keys,
        gguf=gguf,
    )


def _named_quantization(name: str, stated: str) -> str:
    """Take the name's word where it says more than the file (`UD-Q4_K_XL` states the type `Q4_K_M`)."""
    named = quantization_in_name(name)
    return named if named and named.upper().startswith("UD-") else stated


def _inspect_folder(folder: Path, quantization: str | None, files: ModelFiles | None = None) -> Inspected:
    modules = read_modules(folder)
    if (folder / "config.json").is_file() or modules:
        return _inspect_transformers(folder, modules, files)
    if (folder / "model_index.json").is_file():
        index = read_json(folder / "model_index.json")
        name = index.get("_class_name")
        return Inspected(
            files=files or ModelFiles(path=str(folder), format="pytorch"),
            quantization="none",
            architectures=(name,) if isinstance(name, str) else (),
            metadata=index,
        )
    weights, projectors = _gguf_files(folder)
    if not weights:
        if files is not None:
            return Inspected(files=files, quantization="none")
        raise BadRequest(
            f"The folder {folder} holds no model: there is no config.json, no model_index.json and no GGUF file.",
            param="model_path",
        )
    chosen = _choose_gguf(folder, weights, quantization)
    return _inspect_gguf(folder / chosen, str(folder / projectors[0]) if len(projectors) == 1 else None)


def _gguf_files(folder: Path) -> tuple[list[str], list[str]]:
    """Return the models (of those in parts, the first part) and the projectors of a folder."""
    names = []
    for number, entry in enumerate(folder.iterdir()):
        if number >= _MAX_FILES:
            break
        if entry.suffix.lower() == ".gguf" and entry.is_file():
            names.append(entry.name)
    firsts = {split_parts(folder / name)[0].name for name in names}
    models = sorted(name for name in firsts if not is_projector_name(name))
    return models, sorted(name for name in firsts if is_projector_name(name))


def _choose_gguf(folder: Path, names: list[str], quantization: str | None) -> str:
    if len(names) == 1 and quantization is None:
        return names[0]
    by_name = {name: quantization_in_name(name) or read_metadata(folder / name).quantization for name in names}
    if quantization is None:
        return min(names, key=lambda name: (rank_quantization(by_name[name]), name))
    for name, found in by_name.items():
        if same_quantization(found, quantization):
            return name
    raise BadRequest(
        f"{folder} holds no GGUF file with quantization '{quantization}'; it has: {listing(sorted(by_name.values()))}."
        + did_you_mean(quantization, by_name.values()),
        param="quantization",
    )


def _inspect_transformers(folder: Path, modules: Sequence[Module], files: ModelFiles | None) -> Inspected:
    first = folder / modules[0].path if modules else folder  # where older versions have put the encoder
    file = next((place / "config.json" for place in (folder, first) if (place / "config.json").is_file()), None)
    config = {} if file is None else read_json(file)
    form, quantization = _quantization_of(config)
    text = config.get("text_config")
    length = config.get("max_position_embeddings")
    if length is None and isinstance(text, dict):
        length = text.get("max_position_embeddings")
    architectures = config.get("architectures")
    return Inspected(
        files=files or ModelFiles(path=str(folder), format=form),
        quantization=quantization,
        context_length=length if isinstance(length, int) and length > 0 else None,
        chat_template=_folder_template(folder),
        architectures=tuple(name for name in architectures if isinstance(name, str))
        if isinstance(architectures, list)
        else (),
        metadata=config,
    )


def _quantization_of(config: Mapping[str, Any]) -> tuple[str, str]:
    """Return format and quantization by `quantization_config`, as Transformers writes it."""
    stated = config.get("quantization_config")
    if not isinstance(stated, dict):
        return "pytorch", "none"
    method = str(stated.get("quant_method", "")).lower()
    form = _QUANT_METHODS.get(method, method) or "pytorch"
    bits = stated.get("bits", stated.get("w_bit"))
    if isinstance(bits, int):
        return form, f"Int{bits}"
    return form, "fp8" if form == "fp8" else "none"


def _folder_template(folder: Path) -> str | None:
    file = folder / "chat_template.jinja"
    if file.is_file() and file.stat().st_size <= 1 << 20:
        return file.read_text(encoding="utf-8", errors="replace")
    if not (folder / "tokenizer_config.json").is_file():
        return None
    template = read_json(folder / "tokenizer_config.json").get("chat_template")
    if isinstance(template, list):  # several, by name
        named = {item.get("name"): item.get("template") for item in template if isinstance(item, dict)}
        template = named.get("default")
    return template if isinstance(template, str) and template else None


def read_json(file: Path) -> dict[str, Any]:
    """Read a small file that holds a JSON object.

    Raises: BadRequest: it cannot be read, is too large, or holds something else.
    """
    data = _decode(file)
    if not isinstance(data, dict):
        raise BadRequest(f"{file} is not a JSON object.")
    return data


def read_modules(folder: Path) -> tuple[Module, ...]:
    """Return the modules that sentence-transformers puts a model together from (`modules.json`); empty: none are named.

    Raises: BadRequest: the file is broken, or names a folder outside of the model's.
    """
    file = folder / "modules.json"
    if not file.is_file():
        return ()
    data = _decode(file)
    entries = data if isinstance(data, list) else []
    modules = []
    for entry in entries[:_MAX_MODULES]:
        kind, path = (entry.get("type"), entry.get("path", "")) if isinstance(entry, dict) else (None, None)
        if not isinstance(kind, str) or not isinstance(path, str) or "\0" in path:
            raise BadRequest(f"{file} is no list of modules.")
        if path.startswith("/") or ".." in PurePosixPath(path).parts:
            raise BadRequest(f"{file} names the folder {path[:100]!r}, which is not inside the model's.")
        modules.append(Module(kind=kind, path=path))
    if not modules:
        raise BadRequest(f"{file} is no list of modules.")
    return tuple(modules)


def _decode(file: Path) -> Any:
    try:
        if file.stat().st_size > _MAX_JSON_BYTES:
            raise BadRequest(f"{file} is larger than {_MAX_JSON_BYTES >> 20} MiB.")
        return json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise BadRequest(f"{file} cannot be read: {error.strerror}.") from error
    except (ValueError, RecursionError) as error:
        raise BadRequest(f"{file} is not valid JSON: {error}.") from error
