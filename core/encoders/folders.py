"""What a model's folder must be before it is loaded."""

from pathlib import Path

from ..catalog.local import read_json, read_modules
from ..errors import LaunchFailed

__all__ = ["check_weights", "stored_dtype"]

_PICKLES = frozenset({".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle"})
_NO_WEIGHTS = frozenset({"training_args.bin", "optimizer.pt", "scheduler.pt", "scaler.pt", "rng_state.pth"})


def check_weights(folder: Path) -> None:
    """Refuse a folder, or a folder of one of its modules, whose weights are in pickles alone.

    Raises: LaunchFailed: names the file.
    """
    places = dict.fromkeys((folder, *(folder / module.path for module in read_modules(folder))))
    for place in (*places, *(way for parent in places for way in _ways(parent))):
        if not place.is_dir() or any(place.glob("*.safetensors")):
            continue
        pickles = sorted(
            file.name for file in place.iterdir() if file.suffix in _PICKLES and file.name not in _NO_WEIGHTS
        )
        if pickles:
            raise LaunchFailed(
                f"{place / pickles[0]} is in a pickle format, which can run code when it is loaded.",
                remedy="Choose a revision of the model with safetensors files, or convert it to them.",
            )


def _ways(place: Path) -> list[Path]:
    """Return the folders of a module that has modules of its own, for texts of different kinds."""
    file = place / "router_config.json"
    types = read_json(file).get("types") if file.is_file() else None
    return [place / name for name in types if isinstance(name, str)] if isinstance(types, dict) else []


def stored_dtype(folder: Path) -> str | None:
    """Return the type of numbers that `config.json` says the weights are in (`bfloat16`); None: it does not say."""
    file = folder / "config.json"
    if not file.is_file():
        return None
    config = read_json(file)
    found = config.get("dtype") or config.get("torch_dtype")
    return found.removeprefix("torch.") if isinstance(found, str) else None
