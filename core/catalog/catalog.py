"""The families that can be launched by name: what plugins bring, and what users registered."""

import json
import logging
import os
import tempfile
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import AlreadyExists, BadRequest, ModelNotFound, ModelrackError
from ..hooks.types import Family, ModelType
from .custom import MAX_PAYLOAD_BYTES, dump_family, parse_family
from .merge import Merged, merge_families
from .names import check_name
from .suggest import did_you_mean, listing

if TYPE_CHECKING:
    from ..hooks.loader import Plugins

__all__ = ["Catalog"]

log = logging.getLogger(__name__)


class Catalog:
    """Find, register and unregister families. Safe to use from several threads.

    A family that a user registered goes before one that a plugin brings later under the same name.

    Args:
        plugins: what was loaded; families that contradict each other become problems of the plugin that came second.
        custom_dir: where registrations that shall last are kept, one JSON file each.
    """

    def __init__(self, plugins: "Plugins", custom_dir: Path) -> None:
        self._types: Mapping[str, ModelType] = plugins.model_types
        self._builtin: dict[tuple[str, str], Merged] = merge_families(
            ((owner, family) for owner, family in plugins.families if self._is_known(plugins, owner, family)),
            plugins.add_problem,
        )
        self._custom_dir = custom_dir
        self._lock = threading.Lock()
        self._custom: dict[tuple[str, str], Family] = {}
        for name in self._types:
            self._load_custom(name)

    def _is_known(self, plugins: "Plugins", owner: str, family: Family) -> bool:
        if family.model_type in self._types:
            return True
        plugins.add_problem(owner, f"family '{family.name}' has the unknown model type '{family.model_type}'")
        return False

    def model_type(self, name: str) -> ModelType:
        """Return a type.

        Raises: BadRequest: no such type; lists those there are.
        """
        kind = self._types.get(name)
        if kind is None:
            raise BadRequest(
                f"There is no model type '{name[:100]}'; the types are: {listing(self._types)}."
                + did_you_mean(name, self._types),
                param="model_type",
            )
        return kind

    def families(self, model_type: str) -> list[Family]:
        """Return the families of a type, by lower-case name.

        Raises: BadRequest: no such type.
        """
        self.model_type(model_type)
        found = {name: merged.family for (kind, name), merged in self._builtin.items() if kind == model_type}
        with self._lock:
            found.update({name: family for (kind, name), family in self._custom.items() if kind == model_type})
        return [found[name] for name in sorted(found, key=lambda name: (name.lower(), name))]

    def find(self, model_type: str, name: str) -> Family | None:
        """Return a family, or None. Its exact name goes before one that differs in upper and lower case.

        Raises: BadRequest: no such type.
        """
        self.model_type(model_type)
        exact = self._exact(model_type, name)
        if exact is not None:
            return exact
        alike = [family for family in self.families(model_type) if family.name.lower() == name.lower()]
        return alike[0] if len(alike) == 1 else None

    def get(self, model_type: str, name: str) -> Family:
        """Return a family.

        Raises: ModelNotFound: with the closest names; BadRequest: no such type.
        """
        family = self.find(model_type, name)
        if family is None:
            raise self.not_found(model_type, name)
        return family

    def not_found(self, model_type: str, name: str, param: str = "model_name") -> ModelNotFound:
        """Return the error for an unknown name, with the closest names and the types that do know it."""
        message = f"There is no {model_type} model '{name[:200]}'."
        elsewhere = [kind for kind in self._types if kind != model_type and self._exact(kind, name) is not None]
        if elsewhere:
            message += f" It is a model of type {' and '.join(elsewhere)}."
        else:
            message += did_you_mean(name, [family.name for family in self.families(model_type)])
        remedy = f"See what there is with: modelrack registrations --model-type {model_type}"
        return ModelNotFound(message, param=param, remedy=remedy)

    def is_builtin(self, model_type: str, name: str) -> bool:
        """Tell whether the family of this name comes from a plugin."""
        with self._lock:
            return (model_type, name) in self._builtin and (model_type, name) not in self._custom

    def owners(self, model_type: str, name: str) -> tuple[str, ...]:
        """Return the plugins that brought a family."""
        merged = self._builtin.get((model_type, name))
        return merged.owners if merged else ()

    def register(self, model_type: str, payload: str | dict[str, Any], persist: bool) -> Family:
        """Add a family, in Xinference's shape or our own; with `persist` it is there after a restart, too.

        Raises: BadRequest: names the field at fault; AlreadyExists: the name is taken.
        """
        kind = self.model_type(model_type)
        family = parse_family(kind, payload, lambda name: self._exact(model_type, name))
        key = model_type, family.name
        with self._lock:
            taken = [name for known, name in (*self._builtin, *self._custom) if known == model_type]
            same = next((name for name in taken if name.lower() == family.name.lower()), None)
            if same is not None:
                raise AlreadyExists(
                    f"model_name: there is a model '{same}' of type {model_type} already.",
                    param="model_name",
                    remedy="Choose another name."
                    if key in self._builtin
                    else "Unregister it first, or choose another name.",
                )
            if persist:
                self._write(family)
            self._custom[key] = family
        return family

    def unregister(self, model_type: str, name: str) -> None:
        """Remove a family that a user registered.

        Raises: BadRequest: it comes from a plugin; ModelNotFound.
        """
        self.model_type(model_type)
        key = model_type, name
        with self._lock:
            if key in self._custom:
                self._file(model_type, name).unlink(missing_ok=True)
                del self._custom[key]
                return
        if key in self._builtin:
            owners = listing(self._builtin[key].owners)
            raise BadRequest(
                f"Model '{name}' is built in (plugin {owners}) and cannot be unregistered.", param="model_name"
            )
        raise self.not_found(model_type, name)

    def _exact(self, model_type: str, name: str) -> Family | None:
        with self._lock:
            family = self._custom.get((model_type, name))
        if family is not None:
            return family
        merged = self._builtin.get((model_type, name))
        return merged.family if merged else None

    def _file(self, model_type: str, name: str) -> Path:
        return self._custom_dir / check_name(model_type, "model_type") / f"{check_name(name)}.json"

    def _write(self, family: Family) -> None:
        file = self._file(family.model_type, family.name)
        text = json.dumps({"schema": 1, "family": dump_family(family)}, ensure_ascii=False, indent=1)
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            descriptor, temporary = tempfile.mkstemp(dir=file.parent, suffix=".tmp")
            try:
                with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
                    stream.write(text)
                    stream.flush()
                    os.fsync(stream.fileno())
                os.replace(temporary, file)
            except BaseException:
                Path(temporary).unlink(missing_ok=True)
                raise
        except OSError as error:
            raise ModelrackError(
                f"The registration could not be written to {file.parent}: {error.strerror}."
            ) from error

    def _load_custom(self, model_type: str) -> None:
        """Read what was registered before; a file that cannot be used is left where it is and reported in the log."""
        try:
            files = sorted(self._file(model_type, "x").parent.glob("*.json"))
        except (OSError, BadRequest):
            return
        for file in files:
            try:
                stored = json.loads(_read_registration(file))
                if (
                    not isinstance(stored, dict)
                    or stored.get("schema") != 1
                    or not isinstance(stored.get("family"), dict)
                ):
                    raise BadRequest("it has an unknown layout")
                family = parse_family(self._types[model_type], stored["family"])
                if family.name != file.stem:
                    raise BadRequest(f"it holds the family '{family.name}'")
            except (OSError, ValueError, RecursionError, ModelrackError) as error:
                log.warning("registration %s is left out: %s", file, error)
                continue
            self._custom[model_type, family.name] = family


def _read_registration(file: Path) -> str:
    """Read a file that anybody may have put there: a pipe would never end, and a device neither."""
    if not file.is_file():
        raise BadRequest("it is no file")
    if file.stat().st_size > MAX_PAYLOAD_BYTES * 2:  # written with indentation
        raise BadRequest(f"it is larger than {MAX_PAYLOAD_BYTES * 2 >> 20} MiB")
    return file.read_text(encoding="utf-8")
