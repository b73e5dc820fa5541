"""Read registrations: a family as JSON, in Xinference's shape (versions 1 and 2) or in our own."""

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from typing import Annotated, Any, TypeVar
from urllib.parse import unquote, urlsplit

import orjson
from pydantic import (
    AfterValidator,
    AliasChoices,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PositiveInt,
    ValidationError,
)

from ..api.launch import parse_size
from ..errors import BadRequest
from ..hooks.types import Family, ModelType, Source, Variant
from .adhoc import served_abilities
from .merge import Contradiction, merge_variants
from .names import check_name, plain_format
from .suggest import did_you_mean, listing

__all__ = ["FACT_FIELDS", "MAX_PAYLOAD_BYTES", "dump_family", "local_path", "parse_family"]

MAX_PAYLOAD_BYTES = 8 << 20
_REPO = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}(/[A-Za-z0-9][A-Za-z0-9._-]{0,127})?")
_PLACEHOLDER = re.compile(r"\{[^{}]*\}")


def local_path(uri: str) -> str:
    """Return the path that a `file://` address or a bare path names.

    Raises: ValueError: it is a relative path, or an address of another kind.
    """
    parts = urlsplit(uri)
    if parts.scheme == "file":
        if parts.netloc not in ("", "localhost"):
            raise ValueError(f"names the host {parts.netloc!r}; a file address has three slashes: file:///path")
        path = unquote(parts.path)
    elif len(parts.scheme) > 1:
        raise ValueError(f"has the scheme {parts.scheme!r}; give file:///path, a path, or model_id with model_hub")
    else:
        path = uri
    if not path.startswith(("/", "~")) or "\0" in path:
        raise ValueError("must be an absolute path")
    return path


def _check_repo(value: str) -> str:
    if not _REPO.fullmatch(value.replace("{quantization}", "q")) or ".." in value:
        raise ValueError("must be a repository of the hub, such as owner/name")
    return value


def _check_uri(value: str) -> str:
    local_path(value)
    return value


def _check_template(value: str) -> str:
    unknown = set(_PLACEHOLDER.findall(value)) - {"{quantization}", "{part}"}
    if unknown:
        raise ValueError(f"may hold {{quantization}} and {{part}}, not {sorted(unknown)[0]}")
    return _check_inside(value)


def _check_inside(value: str) -> str:
    if value.startswith(("/", "~")) or "\\" in value or "\0" in value or ".." in value.split("/"):
        raise ValueError("must stay inside the model's folder")
    return value


def _as_list(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


Size = Annotated[float | None, BeforeValidator(parse_size)]
Repo = Annotated[str, AfterValidator(_check_repo)]
Template = Annotated[str, AfterValidator(_check_template), Field(max_length=1024)]
Inside = Annotated[str, AfterValidator(_check_inside), Field(max_length=1024)]
Uri = Annotated[str, AfterValidator(_check_uri), Field(max_length=4096)]
Quantization = Annotated[str, AfterValidator(_check_inside), Field(min_length=1, max_length=64)]
Parts = dict[str, PositiveInt | list[Inside]]
Strings = Annotated[list[str], BeforeValidator(_as_list)]
Texts = Annotated[list[Annotated[str, Field(min_length=1)]], BeforeValidator(_as_list)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", protected_namespaces=())


class _FileFields(_Strict):
    """Where files are, as Xinference writes it: in a spec, under a hub's name, or beside the family's facts."""

    model_id: Repo | None = None
    model_uri: Uri | None = None
    model_revision: Annotated[str, Field(max_length=256)] | None = None
    quantization: Quantization | None = None
    quantizations: list[Quantization] | None = None
    model_file_name_template: Template | None = None
    model_file_name_split_template: Template | None = None
    quantization_parts: Parts | None = None
    multimodal_projectors: list[Inside] | None = None

    def to_source(self, hub: str) -> Source | None:
        """Return the place of the files, or None if none is given; a path on this machine goes before a hub."""
        names = list(self.quantizations or ())
        if self.quantization and self.quantization not in names:
            names.append(self.quantization)
        if self.model_uri:
            hub, repo = "file", local_path(self.model_uri)
        elif self.model_id:
            repo = self.model_id
        else:
            return None
        return Source(
            hub=hub,
            repo=repo,
            revision=self.model_revision or None,
            quantizations=() if names == ["none"] else tuple(names),
            file=self.model_file_name_template or None,
            split_file=self.model_file_name_split_template or None,
            parts=_parts(self.quantization_parts or {}),
            projectors=tuple(self.multimodal_projectors or ()),
        )


class _SpecFields(_FileFields):
    model_format: str = Field("pytorch", min_length=1, max_length=32)
    model_size_in_billions: Size = None
    activated_size_in_billions: Size = None
    model_hub: str | None = None
    model_src: dict[str, _FileFields] | None = None
    cache_status: Any = None  # part of what GET answers; says nothing about the family

    def to_variant(self, where: str, hub: str = "huggingface") -> Variant:
        """Return the variant with its sources.

        Args:
            where: the field that it stands in, for errors.
            hub: of its files, where it names none.

        Raises: BadRequest: it says nowhere where the files are.
        """
        sources = [self.to_source(self.model_hub or hub)]
        sources += [place.to_source(hub) for hub, place in (self.model_src or {}).items()]
        found = tuple(source for source in sources if source is not None)
        if not found:
            param = f"{where}.model_id" if where else "model_id"
            raise BadRequest(
                f"{param}: missing; give model_id (a repository of the hub) or model_uri (a path).", param=param
            )
        return Variant(
            format=plain_format(self.model_format),
            size_b=self.model_size_in_billions,
            active_b=self.activated_size_in_billions,
            sources=found,
        )


_OF_FAMILY = ("model_hub", "cache_status")
"""Fields of a spec that may stand beside `model_specs`: older versions say there which hub all of them are of."""


class _Facts(_Strict):
    """Facts that only some types have; one list for all types, so that a type is data and no class."""

    model_family: str | None = None
    stop_token_ids: list[int] | None = None
    virtualenv: dict[str, Any] | None = None
    cache_config: dict[str, Any] | str | None = None
    dimensions: PositiveInt | None = None
    max_tokens: PositiveInt | None = None
    type: str | None = Field(None, validation_alias=AliasChoices("type", "kind"))
    multilingual: bool | None = None
    engine: str | None = None
    controlnet: list[Any] | None = None
    default_model_config: dict[str, Any] | None = None
    default_generate_config: dict[str, Any] | None = None
    default_transcription_config: dict[str, Any] | None = None
    gguf_model_id: Repo | None = None
    gguf_quantizations: list[Quantization] | None = None
    gguf_model_file_name_template: Template | None = None
    lightning_model_id: Repo | None = None
    lightning_versions: list[str] | None = None
    lightning_model_file_name_template: Template | None = None


FACT_FIELDS = tuple(_Facts.model_fields)
"""Facts that Xinference's shape writes beside the name; all others are under `facts`."""


class _Registration(_Facts, _SpecFields):
    """A family in Xinference's shape. Types without `model_specs` have the fields of a spec at the top."""

    version: Annotated[int, Field(ge=1, le=2)] | None = None
    model_name: str
    model_type: str | None = None
    model_description: str | None = None
    context_length: PositiveInt | None = None
    model_lang: Strings | None = None
    language: Strings | None = None
    model_ability: Strings | None = None
    model_specs: list[_SpecFields] | None = None
    architectures: Strings | None = None
    chat_template: Annotated[str, Field(max_length=1 << 20)] | None = None
    stop: Texts | None = None
    reasoning_start_tag: str | None = None
    reasoning_end_tag: str | None = None
    tool_parser: str | None = None
    facts: dict[str, Any] | None = None
    # Answered by GET, and no facts: a family read from a server can be registered with another name as it is.
    is_builtin: Any = None
    model_version: Any = None
    featured: Any = None
    updated_at: Any = None
    download_hubs: Any = None

    def to_family(self, model_type: str) -> Family:
        """Return the family.

        Raises: BadRequest: names the field at fault.
        """
        if self.model_specs:
            for name in _SpecFields.model_fields:
                if name in self.model_fields_set and name not in _OF_FAMILY and getattr(self, name):
                    raise BadRequest(f"{name}: give it in model_specs, or leave model_specs out.", param=name)
            hub = self.model_hub or "huggingface"
            variants = [spec.to_variant(f"model_specs.{index}", hub) for index, spec in enumerate(self.model_specs)]
        else:
            variants = [self.to_variant("")]
        facts = {name: value for name in FACT_FIELDS if (value := getattr(self, name)) is not None}
        return Family(
            name=self.model_name,
            model_type=model_type,
            abilities=tuple(self.model_ability or ()),
            languages=tuple(_one_of(self, "model_lang", "language")),
            description=self.model_description or "",
            context_length=self.context_length,
            architectures=tuple(self.architectures or ()),
            chat_template=self.chat_template or None,
            tool_format=self.tool_parser or None,
            reasoning_tags=_tags(self.reasoning_start_tag, self.reasoning_end_tag),
            stop=tuple(self.stop or ()),
            variants=tuple(variants),
            facts={**(self.facts or {}), **facts},
        )


class _OwnSource(_Strict):
    hub: str = Field(min_length=1, max_length=64)
    repo: str = Field(min_length=1, max_length=4096)
    revision: str | None = None
    quantizations: list[Quantization] = []
    file: Template | None = None
    split_file: Template | None = None
    parts: Parts = {}
    projectors: list[Inside] = []

    def to_source(self, where: str) -> Source:
        """Return the source.

        Raises: BadRequest: `repo` is no path or no repository.
        """
        try:
            repo = local_path(self.repo) if self.hub == "file" else _check_repo(self.repo)
        except ValueError as error:
            raise BadRequest(f"{where}.repo: {error}.", param=f"{where}.repo") from error
        return Source(
            hub=self.hub,
            repo=repo,
            revision=self.revision,
            quantizations=tuple(self.quantizations),
            file=self.file,
            split_file=self.split_file,
            parts=_parts(self.parts),
            projectors=tuple(self.projectors),
        )


class _OwnVariant(_Strict):
    format: str = Field(min_length=1, max_length=32)
    size_b: Size = None
    active_b: Size = None
    sources: list[_OwnSource] = Field(min_length=1)


class _OwnFamily(_Strict):
    """A family in our own shape: the members of `modelrack.hooks.Family`."""

    name: str
    model_type: str | None = None
    abilities: Strings = []
    languages: Strings = []
    description: str = ""
    context_length: PositiveInt | None = None
    architectures: Strings = []
    chat_template: Annotated[str, Field(max_length=1 << 20)] | None = None
    tool_format: str | None = None
    reasoning_tags: tuple[str, str] | None = None
    stop: Texts = []
    variants: list[_OwnVariant] = Field(min_length=1)
    facts: dict[str, Any] = {}

    def to_family(self, model_type: str) -> Family:
        """Return the family.

        Raises: BadRequest: names the field at fault.
        """
        variants = [
            Variant(
                format=plain_format(variant.format),
                size_b=variant.size_b,
                active_b=variant.active_b,
                sources=tuple(
                    source.to_source(f"variants.{index}.sources.{place}")
                    for place, source in enumerate(variant.sources)
                ),
            )
            for index, variant in enumerate(self.variants)
        ]
        return Family(
            name=self.name,
            model_type=model_type,
            abilities=tuple(self.abilities),
            languages=tuple(self.languages),
            description=self.description,
            context_length=self.context_length,
            architectures=tuple(self.architectures),
            chat_template=self.chat_template,
            tool_format=self.tool_format,
            reasoning_tags=self.reasoning_tags,
            stop=tuple(self.stop),
            variants=tuple(variants),
            facts=self.facts,
        )


def parse_family(
    model_type: ModelType, payload: str | Mapping[str, Any], base: Callable[[str], Family | None] = lambda name: None
) -> Family:
    """Read a registration.

    Args:
        model_type: the type it is registered under.
        payload: the family, as JSON text or decoded.
        base: finds a family of this type by name: facts left out are taken from the one that `model_family` names.

    Raises: BadRequest: names the field at fault, as a dotted path.
    """
    data = _decode(payload)
    is_own = "name" in data and "model_name" not in data
    parsed = _validate(_OwnFamily, data) if is_own else _validate(_Registration, data)
    name_field, abilities_field = ("name", "abilities") if is_own else ("model_name", "model_ability")
    if parsed.model_type not in (None, model_type.name):
        raise BadRequest(
            f"model_type: is '{parsed.model_type}', but it is registered as '{model_type.name}'.", param="model_type"
        )
    family = parsed.to_family(model_type.name)
    check_name(family.name, name_field)
    family = replace(family, abilities=_abilities(model_type, family.abilities, abilities_field))
    try:
        family = replace(family, variants=merge_variants(family.variants))
    except Contradiction as error:
        raise BadRequest(f"model_specs: {error}.", param="model_specs") from error
    parent = base(str(family.facts.get("model_family", "")))
    return family if parent is None or parent.name == family.name else _inherit(family, parent)


def dump_family(family: Family) -> dict[str, Any]:
    """Return a family in our own shape, JSON-ready; `parse_family` reads it back as an equal one."""
    return asdict(family)


def _decode(payload: str | Mapping[str, Any]) -> dict[str, Any]:
    if isinstance(payload, Mapping):
        return dict(payload)
    if len(payload) > MAX_PAYLOAD_BYTES:
        raise BadRequest(f"model: is larger than {MAX_PAYLOAD_BYTES >> 20} MiB.", param="model")
    try:
        data = json.loads(payload)
        payload.encode()  # halves of characters could not be written back,
        orjson.dumps(data)  # nor could those that are escaped, nor numbers beyond 64 bits
    except (ValueError, TypeError, RecursionError) as error:
        raise BadRequest(f"model: is not valid JSON: {error}.", param="model") from error
    if not isinstance(data, dict):
        raise BadRequest("model: must be a JSON object that describes a family.", param="model")
    return data


_Parsed = TypeVar("_Parsed", bound=BaseModel)


def _validate(kind: type[_Parsed], data: dict[str, Any]) -> _Parsed:
    try:
        return kind.model_validate(data)
    except ValidationError as error:
        problems = error.errors(include_url=False, include_input=False)
    places = [".".join(str(step) for step in problem["loc"]) or "model" for problem in problems]
    texts = []
    for place, problem in zip(places[:5], problems[:5], strict=True):
        text = problem["msg"].removeprefix("Value error, ")
        if problem["type"] == "extra_forbidden":
            text = "is no field of a registration." + did_you_mean(
                str(problem["loc"][-1]), _fields_at(kind, problem["loc"])
            )
        elif problem["type"] == "missing":
            text = "missing"
        texts.append(f"{place}: {text}" if text.endswith((".", "?")) else f"{place}: {text}.")
    raise BadRequest(" ".join(texts), param=places[0])


def _fields_at(kind: type[BaseModel], location: tuple[int | str, ...]) -> list[str]:
    nested: dict[str, type[BaseModel]] = {
        "model_specs": _SpecFields,
        "model_src": _FileFields,
        "variants": _OwnVariant,
        "sources": _OwnSource,
    }
    names = [step for step in location[:-1] if step in nested]
    return list((nested[str(names[-1])] if names else kind).model_fields)


def _abilities(model_type: ModelType, given: tuple[str, ...], field: str) -> tuple[str, ...]:
    """Check abilities, and add the one that every model of the type has: Xinference writes it for LLMs only.

    Raises: BadRequest: names the field.
    """
    known, served = model_type.abilities, served_abilities(model_type)
    for index, ability in enumerate(given):
        if known and ability not in known:
            raise BadRequest(
                f"{field}.{index}: '{ability}' is no ability of type {model_type.name}, which has: {listing(known)}."
                + did_you_mean(ability, known),
                param=f"{field}.{index}",
            )
    if len(served) == 1:
        return tuple(dict.fromkeys((*served, *given)))
    if known and not given:
        raise BadRequest(f"{field}: missing; a model of type {model_type.name} has: {listing(known)}.", param=field)
    return given


def _inherit(family: Family, parent: Family) -> Family:
    return replace(
        family,
        architectures=family.architectures or parent.architectures,
        tool_format=family.tool_format or parent.tool_format,
        reasoning_tags=family.reasoning_tags or parent.reasoning_tags,
        stop=family.stop or parent.stop,
    )


def _one_of(parsed: _Registration, first: str, second: str) -> list[str]:
    values = getattr(parsed, first), getattr(parsed, second)
    if values[0] and values[1] and values[0] != values[1]:
        raise BadRequest(f"{second}: differs from {first}; give one of them.", param=second)
    return values[0] or values[1] or []


def _tags(start: str | None, end: str | None) -> tuple[str, str] | None:
    if not start and not end:
        return None
    if not end or start is None:
        missing = "reasoning_start_tag" if end else "reasoning_end_tag"
        raise BadRequest(f"{missing}: missing; the marks around reasoning come as a pair.", param=missing)
    return start, end


def _parts(parts: Mapping[str, int | list[str]]) -> dict[str, int | tuple[str, ...]]:
    return {name: value if isinstance(value, int) else tuple(value) for name, value in parts.items()}
