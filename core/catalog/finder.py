"""Find what the name of a launch stands for, in which forms, and where the files of each are."""

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from ..api.launch import LaunchRequest
from ..errors import BadRequest, ModelNotFound
from ..hooks.loader import Plugins
from ..hooks.types import Candidate, Family, ModelFiles, ModelType, Source, Variant
from .adhoc import adhoc_family, served_abilities
from .cache import Record, by_version, find_cached, find_cached_repository, read_records
from .catalog import Catalog
from .engines import missing_modules
from .gguf import quantization_in_name
from .local import Inspected, inspect, inspect_files, source_path
from .names import NAME_PATTERN, expand_home, plain_format, same_quantization, same_size
from .reference import HubReference, parse_reference
from .suggest import did_you_mean, listing

__all__ = ["Finder", "Form", "Subject", "check_hub"]

_FILE_HUB = "file"

_INSPECTED = frozenset({"gguf", "pytorch", "gptq", "awq", "fp8", "bnb", "mlx"})
"""Formats whose files say what they hold; a format of a plugin's own is taken as it is, its engine knows it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Form:
    """One form of a model and where it is.

    Args:
        source: where its files come from; None for a path that the request names, or if no hub has it.
        found: its files, if they are on this machine.
        problem: why the files on this machine cannot be used.
    """

    variant: Variant
    quantization: str
    source: Source | None
    found: Inspected | None = None
    problem: BadRequest | None = None

    def candidate(self, family: Family) -> Candidate:
        """Return what an engine is asked about."""
        metadata = self.found.metadata if self.found else {}
        return Candidate(family=family, variant=self.variant, quantization=self.quantization, metadata=metadata)


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """What the name of a request stands for.

    Args:
        is_adhoc: no family describes it; before a download, its abilities are assumed.
        is_fixed: it is one file or folder that the request names.
    """

    family: Family
    forms: tuple[Form, ...]
    is_adhoc: bool = False
    is_fixed: bool = False


class Finder:
    """Find what the name of a request stands for, and where its forms are."""

    def __init__(
        self,
        request: LaunchRequest,
        catalog: Catalog,
        plugins: Plugins,
        chosen_hub: str | None,
        default_hub: str,
        cache_dir: Path,
    ) -> None:
        self._request = request
        self._catalog = catalog
        self._plugins = plugins
        self._chosen_hub = chosen_hub
        self._default_hub = default_hub
        self._cache_dir = cache_dir
        self._records: list[Record] = read_records(cache_dir)
        self._index = by_version(self._records)

    def find(self) -> Subject:
        """Return what is meant.

        Raises: ModelNotFound; BadRequest: a path is no model.
        """
        request = self._request
        family = self._catalog.find(request.model_type, request.model_name)
        if request.model_path is not None:
            return self._at_path(_absolute(request.model_path), family)
        if family is not None:
            return Subject(family=family, forms=tuple(self._form(family, *form) for form in forms_of(family)))
        path = expand_home(request.model_name)
        if path.is_absolute():
            return self._at_path(path, None)
        files = self._plugins.resolve_model(request.model_name)
        if files is not None:
            return self._with_files(inspect_files(files), None)
        reference = parse_reference(request.model_name)
        if reference is None:
            raise self._not_found()
        return self._in_hub(reference)

    def _not_found(self) -> ModelNotFound:
        error = self._catalog.not_found(self._request.model_type, self._request.model_name)
        if self._request.model_name.lower().endswith(".gguf"):
            error.remedy = "Give the absolute path of the file if you mean a file on this machine."
        return error

    def _at_path(self, path: Path, family: Family | None) -> Subject:
        return self._with_files(inspect(path, self._request.quantization), family)

    def _with_files(self, found: Inspected, family: Family | None) -> Subject:
        """Take files as they are: with the facts of a family, or with what they say of themselves."""
        form = found.files.format
        if family is None:
            family = adhoc_family(_name(self._request.model_name), self._type(), found)
            variant = Variant(format=form, size_b=self._request.model_size_in_billions or found.size_b)
        else:
            variant = _closest_variant(family, form, self._request.model_size_in_billions, found.size_b)
        taken = Form(variant=variant, quantization=found.quantization, source=None, found=found)
        return Subject(family=family, forms=(taken,), is_fixed=True)

    def _in_hub(self, reference: HubReference) -> Subject:
        hub = self._chosen_hub or reference.hub or self._default_hub
        check_hub(self._plugins, hub)
        quantization = reference.quantization or self._request.quantization
        family = Family(
            name=_name(reference.name),
            model_type=self._request.model_type,
            abilities=served_abilities(self._type()),  # whatever the files are, when they come
            variants=tuple(
                Variant(
                    format=form,
                    size_b=self._request.model_size_in_billions,
                    sources=(_hub_source(hub, reference, quantization),),
                )
                for form in _formats(reference, self._request.model_format, quantization)
            ),
        )
        return Subject(
            family=family,
            forms=tuple(self._form(family, *form, is_adhoc=True) for form in forms_of(family)),
            is_adhoc=True,
        )

    def _type(self) -> ModelType:
        return self._catalog.model_type(self._request.model_type)

    def _cached(
        self, family: Family, variant: Variant, quantization: str, is_adhoc: bool
    ) -> tuple[Source, ModelFiles] | None:
        if not is_adhoc:
            return find_cached(self._index, self._cache_dir, family, variant, quantization)
        source = variant.sources[0]
        files = find_cached_repository(self._records, self._cache_dir, family, source, variant.format, quantization)
        return (source, files) if files else None

    def _form(self, family: Family, variant: Variant, quantization: str, is_adhoc: bool = False) -> Form:
        """Say where a form is: on this machine, in the cache, or where it is to be fetched from."""
        if not variant.sources:  # it needs no files
            nothing = Inspected(files=ModelFiles(path="", format=variant.format), quantization=quantization)
            return Form(variant=variant, quantization=quantization, source=None, found=nothing)
        local = [source for source in variant.sources if source.hub == _FILE_HUB and _holds(source, quantization)]
        for source in local:
            path = source_path(source, quantization)
            if path.exists():
                return self._local_form(variant, quantization, source, path)
        cached = self._cached(family, variant, quantization, is_adhoc)
        if cached is not None and self._chosen_hub in (None, cached[0].hub):
            return self._checked(variant, quantization, cached[0], cached[1])
        remote = self._remote_source(variant, quantization)
        if remote is not None or not local:
            return Form(variant=variant, quantization=quantization, source=remote)
        missing = BadRequest(
            f"The files of model '{family.name}' are registered at {source_path(local[0], quantization)}, "
            "and nothing is there.",
            remedy="Put them back, or register the model with the right path.",
        )
        return Form(variant=variant, quantization=quantization, source=local[0], problem=missing)

    def _local_form(self, variant: Variant, quantization: str, source: Source, path: Path) -> Form:
        projector = next((Path(source.repo).expanduser() / name for name in source.projectors), None)
        try:
            if variant.format in _INSPECTED:
                found = inspect(path, None if quantization == "none" else quantization)
            else:
                own = ModelFiles(path=str(path), format=variant.format)
                found = Inspected(files=own, quantization=quantization)
        except BadRequest as error:
            return Form(variant=variant, quantization=quantization, source=source, problem=error)
        beside = str(projector) if projector else found.files.projector
        files = replace(found.files, format=variant.format, projector=beside)
        return Form(variant=variant, quantization=quantization, source=source, found=replace(found, files=files))

    def _checked(self, variant: Variant, quantization: str, source: Source, files: ModelFiles) -> Form:
        try:
            found = inspect_files(files)
        except BadRequest as error:
            return Form(variant=variant, quantization=quantization, source=source, problem=error)
        return Form(variant=variant, quantization=quantization, source=source, found=found)

    def _remote_source(self, variant: Variant, quantization: str) -> Source | None:
        """Return the hub to fetch from: the one asked for, else the default, else the first that can be used."""
        remote = [
            source for source in variant.sources if source.hub in self._plugins.hubs and _holds(source, quantization)
        ]
        wanted = [self._chosen_hub] if self._chosen_hub else [self._default_hub, *self._plugins.hubs]
        usable = [name for name in wanted if name and not self._is_unusable(name)]
        for name in dict.fromkeys((*usable, *wanted)):
            for source in remote:
                if source.hub == name:
                    return source
        return None

    def _is_unusable(self, hub: str) -> bool:
        known = self._plugins.hubs.get(hub)
        return known is None or bool(missing_modules(known))


def forms_of(family: Family) -> list[tuple[Variant, str]]:
    """Return every variant with each of its quantizations."""
    return [(variant, quantization) for variant in family.variants for quantization in variant.quantizations]


def check_hub(plugins: Plugins, name: str) -> str:
    """Return the name of a hub.

    Raises: BadRequest: there is no such hub.
    """
    known = next((hub for hub in plugins.hubs if hub.lower() == name.lower()), None)
    if known is None:
        raise BadRequest(
            f"There is no hub '{name[:100]}'; the hubs are: {listing(plugins.hubs)}."
            + did_you_mean(name, plugins.hubs),
            param="download_hub",
        )
    return known


def _absolute(text: str) -> Path:
    path = expand_home(text)
    if not path.is_absolute():
        raise BadRequest(f"model_path: '{text[:200]}' must be an absolute path.", param="model_path")
    return path


def _name(text: str) -> str:
    """Make a family's name out of a path, a repository or any other reference."""
    name = text.rstrip("/").rsplit("/", 1)[-1]
    name = re.sub(r"(-\d{5}-of-\d{5})?\.gguf$", "", name, flags=re.IGNORECASE)
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-._")[:128]
    return name if re.fullmatch(NAME_PATTERN, name) else "model"


def _holds(source: Source, quantization: str) -> bool:
    return not source.quantizations or any(same_quantization(name, quantization) for name in source.quantizations)


def _closest_variant(family: Family, form: str, wanted: float | None, found: float | None) -> Variant:
    """Return the family's variant that the files are most likely of; one without sources if there is none."""
    alike = [variant for variant in family.variants if variant.format == form]
    if wanted is not None:
        chosen = next((variant for variant in alike if same_size(variant.size_b, wanted)), None)
        return replace(chosen, sources=()) if chosen else Variant(format=form, size_b=wanted)
    sized = [variant for variant in alike if variant.size_b]
    if found and sized:
        best = min(sized, key=lambda variant: abs((variant.size_b or 0) - found))
        if abs((best.size_b or 0) - found) <= 0.3 * found:
            return replace(best, sources=())
    elif len(alike) == 1:
        return replace(alike[0], sources=())
    return Variant(format=form, size_b=found)


def _formats(reference: HubReference, wanted: str | None, quantization: str | None) -> Iterable[str]:
    """Guess the formats of a repository, the likeliest first; whether it is so turns out at the download."""
    if wanted is not None:
        return (plain_format(wanted),)
    named = f"{reference.file or ''} {reference.repo}".lower()
    for form in ("gguf", "gptq", "awq", "fp8", "bnb", "mlx"):
        if form in re.split(r"[^a-z0-9]+", named):
            return (form,)
    if quantization is not None and quantization_in_name(f"-{quantization}.") is not None:
        return ("gguf",)
    return ("pytorch", "gguf")


def _hub_source(hub: str, reference: HubReference, quantization: str | None) -> Source:
    names = (quantization,) if quantization and quantization.lower() != "none" else ()
    return Source(hub=hub, repo=reference.repo, revision=reference.revision, quantizations=names, file=reference.file)
