"""Files in requests: what a field of a request model is declared as, and how it is read from a form or from JSON."""

import base64
import binascii
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from types import NoneType, UnionType
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import AliasChoices, BaseModel, GetJsonSchemaHandler
from pydantic.fields import FieldInfo
from pydantic_core import CoreSchema, core_schema

__all__ = ["FieldShape", "Upload", "field_shapes", "has_uploads"]

OCTETS = "application/octet-stream"
"""Media type of a file whose sender says nothing of it."""

_LISTS = (list, tuple, set, frozenset, Sequence)


@dataclass(frozen=True, slots=True)
class Upload:
    """A file that came with a request. Declare fields as `image: Upload` or `images: list[Upload]`.

    In a form it is a part of its own; in JSON its content as base64, or a `data:` URL. It is never empty.

    Args:
        file_name: what the client calls it, without folders; good for messages and to guess a format, not as a path.
        media_type: what the client says it is, in lower case and without parameters; nothing vouches for it.
    """

    content: bytes = field(repr=False)
    file_name: str = ""
    media_type: str = OCTETS

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: Any) -> CoreSchema:
        """Say how pydantic reads one."""
        dump = core_schema.plain_serializer_function_ser_schema(_dump, when_used="json")
        return core_schema.no_info_plain_validator_function(_read, serialization=dump)

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        """Describe one as OpenAPI does."""
        return {"type": "string", "format": "binary"}


def _dump(upload: Upload) -> str:
    return base64.b64encode(upload.content).decode()


def _read(value: Any) -> Upload:
    if isinstance(value, str):
        value = _from_text(value)
    if not isinstance(value, Upload):
        raise ValueError("must be a file: a part of a form, or base64 or a data: URL in JSON")
    if not value.content:
        raise ValueError("is an empty file")
    return value


def _from_text(text: str) -> Upload:
    media_type = OCTETS
    if text[:5].lower() == "data:":
        head, comma, text = text[5:].partition(",")
        kinds = [part.strip().lower() for part in head.split(";")]
        if not comma or kinds[-1] != "base64":
            raise ValueError("must be a data: URL with base64")
        media_type = kinds[0] or OCTETS
    try:
        content = base64.b64decode(text, validate=True)
    except ValueError:  # binascii's is one of them; other text than ASCII is another
        try:  # long base64 comes in lines, too
            content = base64.b64decode(text.replace("\r", "").replace("\n", ""), validate=True)
        except (binascii.Error, ValueError):
            raise ValueError("must be base64 or a data: URL where it is text") from None
    return Upload(content, media_type=media_type)


@dataclass(frozen=True, slots=True)
class FieldShape:
    """What a form must know of a field to fill it.

    Args:
        takes_many: it may be a list. `takes_one`: it may be something else.
        takes_files: files may be its value, or in its list.
        is_optional: it need not be given.
    """

    takes_many: bool
    takes_one: bool
    takes_files: bool
    is_optional: bool


@lru_cache(maxsize=256)
def field_shapes(model: type[BaseModel]) -> Mapping[str, FieldShape]:
    """Return the shapes of a model's fields, by each name that a request may use for them."""
    return {name: _shape(info) for key, info in model.model_fields.items() for name in _names(key, info, model)}


def has_uploads(model: type[BaseModel]) -> bool:
    """Tell whether a model has a field for files: its route is then described as one that takes a form."""
    return any(shape.takes_files for shape in field_shapes(model).values())


def _names(key: str, info: FieldInfo, model: type[BaseModel]) -> set[str]:
    alias = info.validation_alias
    choices = alias.choices if isinstance(alias, AliasChoices) else [alias]
    names = {choice for choice in choices if isinstance(choice, str)}
    config = model.model_config
    if not names or config.get("populate_by_name") or config.get("validate_by_name"):
        names.add(key)
    return names


def _shape(info: FieldInfo) -> FieldShape:
    kinds = list(_kinds(info.annotation))
    lists = [kind for kind in kinds if get_origin(kind) in _LISTS or kind in _LISTS]
    items = [item for kind in lists for argument in get_args(kind) for item in _kinds(argument)]
    return FieldShape(
        takes_many=bool(lists) or Any in kinds,
        takes_one=len(lists) < len(kinds),
        takes_files=Upload in (*kinds, *items),
        is_optional=not info.is_required(),
    )


def _kinds(annotation: Any) -> Iterator[Any]:
    """Yield the members of a union, however it is wrapped; None is no member."""
    origin = get_origin(annotation)
    if origin is Annotated:
        yield from _kinds(get_args(annotation)[0])
    elif origin in (Union, UnionType):
        for member in get_args(annotation):
            yield from _kinds(member)
    elif hasattr(annotation, "__value__"):  # a type alias
        yield from _kinds(annotation.__value__)
    elif annotation not in (None, NoneType):
        yield annotation
