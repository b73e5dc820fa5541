"""The description of the whole interface: the management routes as FastAPI sees them, and the inference routes."""

from collections.abc import Callable, Iterable
from importlib import import_module
from typing import Any

from fastapi import FastAPI
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from ..api.files import has_uploads
from ..hooks.types import ModelType, Route
from .routes import failures

__all__ = ["describe_inference", "load_class"]

_REF = "#/components/schemas/{model}"


def load_class(path: str) -> type[BaseModel]:
    """Import a model named by a dotted path `module:Class`."""
    module, _, name = path.partition(":")
    loaded: type[BaseModel] = getattr(import_module(module), name)
    return loaded


def describe_inference(
    app: FastAPI, model_types: Iterable[ModelType], wants_key: bool = False
) -> Callable[[], dict[str, Any]]:
    """Return a maker of the OpenAPI document, inference routes included; it imports their models when called.

    Args:
        wants_key: describe the key that clients must send.
    """
    build = app.openapi
    routes = [(model_type.name, route) for model_type in model_types for route in model_type.routes]

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is not None:
            return app.openapi_schema
        document = build()
        app.openapi_schema = None
        schemas = document.setdefault("components", {}).setdefault("schemas", {})
        _tell_bad_input(document["paths"], schemas)
        _summarize(document["paths"])
        for type_name, route in routes:
            schemas.update(_schemas(route))
            document["paths"].setdefault(route.path, {})["post"] = _operation(type_name, route)
        inference = dict.fromkeys(f"inference: {type_name}" for type_name, _ in routes)
        document["tags"] = [
            {"name": name} for name in (*inference, "models", "registrations", "server", "requests", "files")
        ]
        if wants_key:
            document["components"]["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
            document["security"] = [{"key": []}]
        app.openapi_schema = document
        return document

    return openapi


def _tell_bad_input(paths: dict[str, Any], schemas: dict[str, Any]) -> None:
    """Replace the 422 that FastAPI describes for bad input by what is really answered: a 400 with the common body."""
    error = {"application/json": {"schema": {"$ref": _REF.format(model="ErrorAnswer")}}}
    for operations in paths.values():
        for operation in operations.values():
            if operation["responses"].pop("422", None):
                operation["responses"].setdefault(
                    "400", {"description": failures(400)[400]["description"], "content": error}
                )
    for name in ("HTTPValidationError", "ValidationError"):
        schemas.pop(name, None)


def _summarize(paths: dict[str, Any]) -> None:
    """Let the summary of a management route be what its function says, where FastAPI takes the function's name."""
    for operations in paths.values():
        for operation in operations.values():
            first, _, rest = operation.get("description", "").partition("\n")
            if first:
                operation["summary"] = first
                operation.pop("description")
                if rest.strip():
                    operation["description"] = rest.strip()


def _schemas(route: Route) -> dict[str, Any]:
    wanted: list[tuple[type[BaseModel], Any]] = [(load_class(route.request), "validation")]
    for path in (route.response, route.chunk):
        if path:
            wanted.append((load_class(path), "serialization"))
    _, document = models_json_schema(wanted, ref_template=_REF)
    definitions: dict[str, Any] = document.get("$defs", {})
    return definitions


def _names(route: Route) -> tuple[str, str, str | None]:
    """Return the names that `_schemas` gave the request, the response and the event."""
    wanted: list[tuple[type[BaseModel], Any]] = [(load_class(route.request), "validation")]
    for path in (route.response, route.chunk):
        if path:
            wanted.append((load_class(path), "serialization"))
    refs, _ = models_json_schema(wanted, ref_template=_REF)
    names = [refs[key]["$ref"].rpartition("/")[2] for key in wanted]
    return names[0], names[1], names[2] if len(names) > 2 else None


def _operation(type_name: str, route: Route) -> dict[str, Any]:
    request, response, chunk = _names(route)
    content: dict[str, Any] = {"application/json": {"schema": {"$ref": _REF.format(model=response)}}}
    if chunk:
        content["text/event-stream"] = {"schema": {"$ref": _REF.format(model=chunk)}}
    body = "multipart/form-data" if has_uploads(load_class(route.request)) else "application/json"
    error = {"application/json": {"schema": {"$ref": _REF.format(model="ErrorAnswer")}}}
    answers = {
        str(code): {"description": answer["description"], "content": error}
        for code, answer in failures(400, 404, 413, 429, 500, 502, 503).items()
    }
    return {
        "tags": [f"inference: {type_name}"],
        "summary": route.summary or f"{route.ability} on a running model",
        "operationId": f"infer{route.path.replace('/', '_')}",
        "requestBody": {
            "required": True,
            "content": {body: {"schema": {"$ref": _REF.format(model=request)}}},
        },
        "responses": {"200": {"description": "The answer", "content": content}, **answers},
    }
