"""Look at model files on this machine: which format they have, and what they say of themselves."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..errors import BadRequest
from ..hooks.types import Family, ModelFiles, ModelType, Source
from .gguf import GgufMetadata, quantization_in_name, read_metadata, split_parts
from .names import rank_quantization, same_quantization
from .suggest import did_you_mean, listing

__all__ = ["Inspected", "adhoc_family", "inspect", "inspect_files", "is_projector_name", "source_path"]

_MAX_JSON_BYTES = 16 << 20
_MAX_FILES = 4096
_PICKLES = frozenset({".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle"})
_QUANT_METHODS = {"bitsandbytes": "bnb", "compressed-tensors": "pytorch"}
_RANK_POOLING = 4


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
        raise BadRequest(f"{path} cannot be read: {getattr(error, 'strerror', None) or error}.") from error
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


def adhoc_family(name: str, model_type: ModelType, found: Inspected) -> Family:
    """Describe a model that no family knows, by what its files say.

    Raises: BadRequest: it is a model of another type.
    """
    abilities: tuple[str, ...] = ()
    if "generate" in model_type.abilities:
        if found.gguf is not None:
            _refuse_other_types(found.gguf)
        abilities = ("chat", "generate") if found.chat_template else ("generate",)
        abilities += _further_abilities(found)
        abilities = tuple(ability for ability in abilities if ability in model_type.abilities)
    return Family(
        name=name,
        model_type=model_type.name,
        abilities=abilities,
        context_length=found.context_length,
        architectures=found.architectures,
        reasoning_tags=("<think>", "</think>") if "reasoning" in abilities else None,
    )


def _further_abilities(found: Inspected) -> tuple[str, ...]:
    template = found.chat_template or ""
    more = []
    if "tools" in template:
        more.append("tools")
    if "<think>" in template and "</think>" in template:
        more.append("reasoning")
    if found.files.projector:
        projector = read_metadata(found.files.projector)
        more += [
            name
            for name, key in (("vision", "clip.has_vision_encoder"), ("audio", "clip.has_audio_encoder"))
            if projector.keys.get(key) is True
        ]
    return tuple(more)


def _refuse_other_types(gguf: GgufMetadata) -> None:
    pooling = gguf.pooling_type or 0
    if gguf.is_projector:
        raise BadRequest(
            f"{gguf.path} is a multimodal projector, which is no model by itself.",
            remedy="Give the model's own GGUF file.",
        )
    if pooling == _RANK_POOLING:
        raise BadRequest(
            f"{gguf.path} is a rerank model.", param="model_type", remedy="Launch it with: --model-type rerank"
        )
    if pooling > 0 or gguf.keys.get(f"{gguf.architecture}.attention.causal") is False:
        raise BadRequest(
            f"{gguf.path} is an embedding model.", param="model_type", remedy="Launch it with: --model-type embedding"
        )


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
    if (folder / "config.json").is_file():
        return _inspect_transformers(folder, files)
    if (folder / "model_index.json").is_file():
        index = _read_json(folder / "model_index.json")
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


def _inspect_transformers(folder: Path, files: ModelFiles | None) -> Inspected:
    config = _read_json(folder / "config.json")
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
    template = _read_json(folder / "tokenizer_config.json").get("chat_template")
    if isinstance(template, list):  # several, by name
        named = {item.get("name"): item.get("template") for item in template if isinstance(item, dict)}
        template = named.get("default")
    return template if isinstance(template, str) and template else None


def _read_json(file: Path) -> dict[str, Any]:
    try:
        if file.stat().st_size > _MAX_JSON_BYTES:
            raise BadRequest(f"{file} is larger than {_MAX_JSON_BYTES >> 20} MiB.")
        data = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise BadRequest(f"{file} cannot be read: {error.strerror}.") from error
    except (ValueError, RecursionError) as error:
        raise BadRequest(f"{file} is not valid JSON: {error}.") from error
    if not isinstance(data, dict):
        raise BadRequest(f"{file} is not a JSON object.")
    return data
