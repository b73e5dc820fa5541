"""Further fields of a request as one JSON string, as Xinference's client sends the options of media calls."""

from typing import Any

import orjson
from pydantic import BaseModel, Field, GetJsonSchemaHandler, model_validator
from pydantic_core import CoreSchema

from ..errors import BadRequest
from .common import InferenceRequest
from .files import field_shapes

__all__ = ["KwargsRequest", "unpack_kwargs"]


def unpack_kwargs(model: type[BaseModel], data: Any) -> Any:
    """Take what `kwargs` holds as fields of the request, where it does not give them itself; for "before" validators.

    A field that both give with one value is no matter (in forms, where all is text, `3` and `"3"` are one); null counts
    as not given, in either.

    Raises: BadRequest: it is no JSON object, names a field that the model does not have, or has another value for one
        than the request.
    """
    if not isinstance(data, dict) or "kwargs" not in data:
        return data
    packed = data["kwargs"]
    if packed is None:
        packed = {}
    fields = packed
    if isinstance(packed, str):
        try:
            fields = orjson.loads(packed)
        except orjson.JSONDecodeError:
            fields = None
    if not isinstance(fields, dict):
        raise BadRequest("'kwargs' must be a JSON object, as a string.", param="kwargs")
    known = field_shapes(model)
    for name, value in fields.items():
        if name not in known or name in ("kwargs", "model"):
            raise BadRequest(f"'kwargs' has an unknown field '{name}'.", param=f"kwargs.{name}")
        if value is None:
            continue
        own = data.get(name)
        if own is not None and own != value and not (isinstance(own, str) and own.encode() == orjson.dumps(value)):
            raise BadRequest(f"'kwargs' has another value for '{name}' than the request.", param=f"kwargs.{name}")
        # In place: errors of these fields are looked up in the request.
        data[name] = value
    del data["kwargs"]
    return data


class KwargsRequest(InferenceRequest):
    """Base of request models whose options may also come packed in `kwargs`."""

    request_id: str | None = Field(None, max_length=256, description="The client's id of this request.")

    @model_validator(mode="before")
    @classmethod
    def _unpack(cls, data: Any) -> Any:
        return unpack_kwargs(cls, data)

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        """Describe `kwargs` too: it is no field, for nothing is left of it."""
        described = handler(schema)
        properties = handler.resolve_ref_schema(described).setdefault("properties", {})
        text = "Further fields of the request, as a JSON object in a string."
        properties["kwargs"] = {"type": "string", "title": "Kwargs", "description": text}
        return described
