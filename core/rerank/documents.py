"""What is ranked of a request's documents, and what is answered of them."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import orjson

from ..api.rerank import MAX_CHARACTERS, Document
from ..errors import BadRequest

__all__ = ["as_answered", "texts_of"]


def texts_of(documents: Sequence[Document], fields: Sequence[str] | None) -> list[str]:
    """Return the text of each document: the string itself, the named fields of an object, or its `text`.

    Raises: BadRequest: a document lacks a field, is nested too deeply, or comes out empty or far too long.
    """
    return [_checked(index, _text(index, document, fields)) for index, document in enumerate(documents)]


def as_answered(document: Document, text: str) -> dict[str, Any]:
    """Return a document as it is given back: an object with all its fields, and the text, where its own is none."""
    if isinstance(document, str):
        return {"text": text}
    return {**document, "text": text} if not isinstance(document.get("text"), str) else document


def _text(index: int, document: Document, fields: Sequence[str] | None) -> str:
    if isinstance(document, str):
        document = {"text": document}
    _check_depth(index, document)
    if fields is not None:
        return "\n".join(_field(index, document, name) for name in fields)
    text = document.get("text")
    if not isinstance(text, str):
        found = f"'text' is {_kind(text)}" if "text" in document else "there is no 'text'"
        raise BadRequest(
            f"'documents.{index}' must be a string or an object with a string as its 'text': {found}.",
            param=f"documents.{index}.text",
            remedy="rank_fields can name other fields of objects.",
        )
    return text


def _check_depth(index: int, document: Mapping[str, Any]) -> None:
    """Refuse what can be read as JSON, but not be written, where it stands in the answer: four levels down."""
    nested = [value for value in document.values() if isinstance(value, (list, dict))]
    try:
        orjson.dumps([[[nested]]])
    except orjson.JSONEncodeError as error:
        raise BadRequest(f"'documents.{index}' is nested too deeply.", param=f"documents.{index}") from error


def _field(index: int, document: Mapping[str, Any], name: str) -> str:
    value = document.get(name)
    if value is None:
        raise BadRequest(
            f"'rank_fields' names '{name}', which 'documents.{index}' does not have.", param=f"documents.{index}.{name}"
        )
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _checked(index: int, text: str) -> str:
    if not text.strip():
        raise BadRequest(f"'documents.{index}' is empty.", param=f"documents.{index}")
    if len(text) > MAX_CHARACTERS:
        raise BadRequest(
            f"'documents.{index}' has {len(text)} characters, and {MAX_CHARACTERS} are taken at most.",
            param=f"documents.{index}",
            remedy="Cut it into parts, and rank these.",
        )
    return text


def _kind(value: Any) -> str:
    return "null" if value is None else f"of the type {type(value).__name__}"
