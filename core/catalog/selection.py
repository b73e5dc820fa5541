"""Choose which files of a repository belong to one form of a model."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

from ..errors import LaunchFailed
from ..hooks.types import Source
from .gguf import quantization_in_name
from .local import is_projector_name
from .names import rank_quantization, same_quantization
from .suggest import did_you_mean, listing

__all__ = ["Selection", "expand", "select"]

_SPLIT = re.compile(r"-(\d{5})-of-(\d{5})\.gguf$", re.IGNORECASE)
_PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")
_SAFE_WEIGHTS = (".safetensors",)
_FOREIGN = (".h5", ".msgpack", ".onnx", ".onnx_data", ".tflite", ".ot", ".mlmodel", ".gguf", ".gitattributes")
_PICTURES = (".png", ".jpg", ".jpeg", ".gif", ".webp", ".svg", ".mp4", ".pdf")


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """The files of one form.

    Args:
        files: all to download.
        entry: what an engine loads, relative to the repository; None is the folder.
        projector: the multimodal projector, if there is one.
        joined: parts that make one file when they are laid end to end (`….gguf-split-a`); empty if there are none.
        quantization: what the chosen files hold, if their names say.
    """

    files: tuple[str, ...]
    entry: str | None = None
    projector: str | None = None
    joined: tuple[str, ...] = ()
    quantization: str | None = None


def select(source: Source, form: str, quantization: str, files: Mapping[str, int | None]) -> Selection:
    """Choose the files of a form.

    Raises: LaunchFailed: the repository does not hold them; says what it holds.
    """
    names = [name for name in files if _is_safe(name)]
    return _select_gguf(source, quantization, names) if form == "gguf" else _select_folder(source, form, names)


def expand(template: str, quantization: str, part: str = "") -> str:
    """Fill in a template; nothing but the two placeholders is special."""
    return template.replace("{quantization}", quantization).replace("{part}", part)


def _is_safe(name: str) -> bool:
    path = PurePosixPath(name)
    return not path.is_absolute() and ".." not in path.parts and "\\" not in name and "\0" not in name


def _select_gguf(source: Source, quantization: str, names: Sequence[str]) -> Selection:
    weights = [name for name in names if ".gguf" in name.lower() and not is_projector_name(name)]
    if not weights:
        raise _nothing(source, "GGUF files", names)
    chosen = _by_parts(source, quantization, weights) or _by_template(source, quantization, weights)
    if not chosen:
        chosen = _by_name(source, quantization, weights)
    projector = _choose_projector(source, names)
    return Selection(
        files=(*chosen, *([projector] if projector else [])),
        entry=chosen[0],
        projector=projector,
        joined=tuple(chosen) if len(chosen) > 1 and not _SPLIT.search(chosen[0]) else (),
        quantization=quantization_in_name(chosen[0]),
    )


def _by_parts(source: Source, quantization: str, names: Sequence[str]) -> list[str]:
    """Find the parts of a form in parts. The facts may give their number alone; then the names come from the hub."""
    parts = next((value for key, value in source.parts.items() if same_quantization(key, quantization)), None)
    if not source.split_file or not parts:
        return []
    for spelling in _spellings(source, quantization):
        template = expand(source.split_file, spelling, "\0")
        pattern = re.compile("([^/]+)".join(re.escape(piece) for piece in template.split("\0")))
        found = sorted(name for name in names if pattern.fullmatch(name))
        if isinstance(parts, tuple):
            wanted = [expand(source.split_file, spelling, part) for part in parts]
            if set(wanted) <= set(found):
                return wanted
        elif len(found) == parts or _is_complete(found):
            return found
    return []


def _is_complete(names: Sequence[str]) -> bool:
    matches = [match for name in names if (match := _SPLIT.search(name))]
    return bool(matches) and len(matches) == len(names) == int(matches[0][2])


def _by_template(source: Source, quantization: str, names: Sequence[str]) -> list[str]:
    if source.file is None:
        return []
    for spelling in _spellings(source, quantization):
        wanted = expand(source.file, spelling)
        if wanted in names:
            return _with_parts(wanted, names)
    if "{" not in source.file:  # the request names one file
        raise LaunchFailed(
            f"Repository {source.repo} has no file '{source.file}'.{did_you_mean(source.file, names)}",
            remedy=f"It has: {listing(sorted(names), 12)}.",
        )
    return []


def _spellings(source: Source, quantization: str) -> list[str]:
    return list(
        dict.fromkeys(
            [name for name in (*source.quantizations, *source.parts) if same_quantization(name, quantization)]
            + [quantization]
        )
    )


def _by_name(source: Source, quantization: str, names: Sequence[str]) -> list[str]:
    """Find files by the quantization in their names, or in the names of their folders."""
    firsts = [name for name in names if (match := _SPLIT.search(name)) is None or int(match[1]) == 1]
    firsts = [name for name in firsts if name.lower().endswith(".gguf")]
    held = {name: _quantization_of(name) for name in firsts}
    if quantization == "none":
        if not held:
            raise _nothing(source, "GGUF files", names)
        best = min(firsts, key=lambda name: (rank_quantization(held[name] or "?"), name))
        return _with_parts(best, names)
    found = [name for name in firsts if (held[name] and same_quantization(str(held[name]), quantization))]
    if not found:
        kinds = sorted({kind for kind in held.values() if kind})
        raise LaunchFailed(
            f"Repository {source.repo} has no GGUF file with quantization '{quantization}'."
            + did_you_mean(quantization, kinds),
            remedy=f"It has: {listing(kinds or sorted(names), 40)}.",
        )
    return _with_parts(min(found, key=lambda name: (len(name), name)), names)


def _quantization_of(name: str) -> str | None:
    named = quantization_in_name(name)
    if named is not None:
        return named
    folder = name.rpartition("/")[0]
    return quantization_in_name(f"{folder.rpartition('/')[2]}.") if folder else None


def _with_parts(name: str, names: Sequence[str]) -> list[str]:
    """Return all parts of a file; one that is no part is alone."""
    match = _SPLIT.search(name)
    if not match:
        return [name]
    stem, count = name[: match.start()], match[2]
    part_name = re.compile(re.escape(stem) + rf"-\d{{5}}-of-{count}\.gguf", re.IGNORECASE)
    parts = sorted(other for other in names if part_name.fullmatch(other))
    if len(parts) != int(count):
        raise LaunchFailed(
            f"The hub has {len(parts)} of the {int(count)} parts of {name}.", remedy="Choose another one."
        )
    return parts


def _choose_projector(source: Source, names: Sequence[str]) -> str | None:
    known = [name for name in source.projectors if name in names]
    found = known or sorted(name for name in names if is_projector_name(name) and name.lower().endswith(".gguf"))
    return next(
        (name for name in found if "f16" in name.lower() and "bf16" not in name.lower()), next(iter(found), None)
    )


def _select_folder(source: Source, form: str, names: Sequence[str]) -> Selection:
    """Take a whole repository but for what cannot be loaded: other frameworks' weights, pickles, pictures."""
    if not any(name.lower().endswith((".json", *_SAFE_WEIGHTS)) for name in names):
        raise _nothing(source, f"{form} files", names)
    kept = [name for name in names if not name.lower().endswith((*_FOREIGN, *_PICTURES, *_PICKLES))]
    weights = [name for name in kept if name.lower().endswith(_SAFE_WEIGHTS)]
    if not weights and any(name.lower().endswith(_PICKLES) for name in names):
        raise LaunchFailed(
            f"Repository {source.repo} has its weights in a pickle format alone, which can run code when it is loaded.",
            remedy="Choose a repository or revision with safetensors or GGUF files.",
        )
    if not weights and any(name.lower().endswith(".gguf") for name in names):
        raise _nothing(source, f"{form} files", names)
    if any("/" not in name for name in weights):  # the maker's own layout beside the one that is loaded
        kept = [name for name in kept if not name.startswith("original/") and not name.startswith("consolidated")]
    return Selection(files=tuple(kept))


def _nothing(source: Source, what: str, names: Iterable[str]) -> LaunchFailed:
    names = list(names)
    remedy = f"It has: {listing(sorted(names), 12)}."
    if any(name.lower().endswith(".gguf") for name in names):
        remedy = "It has GGUF files: launch it with --model-format gguf."
    elif any(name.lower().endswith(_SAFE_WEIGHTS) for name in names):
        remedy = "It has safetensors files: launch it with --model-format pytorch."
    return LaunchFailed(f"Repository {source.repo} holds no {what}.", remedy=remedy)
