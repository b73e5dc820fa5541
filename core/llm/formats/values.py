"""Parameter values that are written as plain text between marks, made JSON by the tool's schema."""

import re
from collections.abc import Mapping
from typing import Any

from .json_text import escape, loads
from .tape import Script, Sink, Tape

__all__ = ["STRING", "VALUE_LIMIT", "convert", "kinds_of", "property_kinds", "read_value"]

VALUE_LIMIT = 1 << 20
"""Most characters of a value that is not known to be a string; a longer one is taken as a string."""

STRING = frozenset({"string"})
_OPTIONAL = frozenset({"string", "null"})
_DEPTH = 8
_STARTS = frozenset("{[\"-0123456789tfnTFN('")
_OPENERS = ("{", "[")
_WORDS = {"True": "true", "False": "false", "None": "null", "TRUE": "true", "FALSE": "false"}


def property_kinds(schema: Mapping[str, Any], name: str) -> frozenset[str]:
    """Return the JSON types that a tool's parameter may have; none: any."""
    properties = schema.get("properties")
    found = properties.get(name) if isinstance(properties, Mapping) else None
    if found is None:
        found = schema.get("additionalProperties")
    return kinds_of(found, schema)


def kinds_of(schema: Any, root: Mapping[str, Any], depth: int = _DEPTH) -> frozenset[str]:
    """Return the JSON types that a schema allows; none: any, or it cannot be told.

    Args:
        root: where `$ref` begins.
    """
    if not isinstance(schema, Mapping) or depth == 0:
        return frozenset()
    if isinstance(reference := schema.get("$ref"), str):
        return kinds_of(_resolve(reference, root), root, depth - 1)
    kind = schema.get("type")
    if isinstance(kind, str):
        return frozenset({kind})
    if isinstance(kind, list):
        return frozenset(each for each in kind if isinstance(each, str))
    if isinstance(values := schema.get("enum"), list):
        return frozenset(_kind_of(each) for each in values)
    if "const" in schema:
        return frozenset({_kind_of(schema["const"])})
    for word in ("anyOf", "oneOf"):
        if isinstance(parts := schema.get(word), list) and parts:
            kinds = [kinds_of(part, root, depth - 1) for part in parts]
            return frozenset().union(*kinds) if all(kinds) else frozenset()
    for part in schema["allOf"] if isinstance(schema.get("allOf"), list) else ():
        if found := kinds_of(part, root, depth - 1):
            return found
    return frozenset({"object"}) if "properties" in schema else frozenset()


def _resolve(reference: str, root: Mapping[str, Any]) -> Any:
    found: Any = root
    for part in reference.removeprefix("#").split("/")[1:]:
        found = found.get(part.replace("~1", "/").replace("~0", "~")) if isinstance(found, Mapping) else None
    return found if reference.startswith("#") else None


def _kind_of(value: Any) -> str:
    for kind, name in ((bool, "boolean"), (int, "integer"), (float, "number"), (str, "string"), (list, "array")):
        if isinstance(value, kind):
            return name
    return "null" if value is None else "object"


def convert(text: str, kinds: frozenset[str]) -> str:
    """Return the JSON that a text stands for.

    It is JSON already, or a word of Python's, where the schema allows that type, or allows no string; else a string.
    """
    bare = text.strip()
    bare = _WORDS.get(bare, bare) if not kinds or kinds != STRING else bare
    try:
        kind = _kind_of(loads(bare))
    except ValueError:
        return f'"{escape(text)}"'
    fits = not kinds or kind in kinds or (kind == "integer" and "number" in kinds)
    return bare if fits or "string" not in kinds else f'"{escape(text)}"'


def read_value(
    tape: Tape, ends: tuple[str, ...], kinds: frozenset[str], sink: Sink, *, trims_line: bool, start: str = ""
) -> Script[str | None]:
    """Give the value that stands before one of some marks to `sink`, as JSON, and return the mark, not read yet.

    Strings come as they arrive, other values as a whole.

    Args:
        trims_line: the value stands on lines of its own: a line break at its start and one at its end are not of it.
        start: white space of the value that has been read already.

    Returns: None if the text is over; then what is there has come, without its end.
    """
    if kinds != STRING:
        start += yield from tape.skip()
        if not (yield from tape.more()):
            return None
        if (kinds and "string" not in kinds) or tape.text[tape.at] in _STARTS:
            limit = len("null\r\n") if kinds == _OPTIONAL else VALUE_LIMIT
            text, mark = yield from tape.collect(ends, limit)
            text = start + text
            if mark is not None:
                sink(convert(_trim(text) if trims_line else text, kinds))
                return mark
            if tape.is_over and tape.at == len(tape.text) and text.strip()[:1] in _OPENERS:
                sink(text.strip())  # cut off: the beginning of an object or a list
                return None
            start = text
    string = _String(sink, trims_line)
    string.add(start)
    mark = yield from tape.seek(ends, string.add)
    string.end(is_whole=mark is not None)
    return mark


class _String:
    """Writes a text as a JSON string."""

    def __init__(self, sink: Sink, trims_line: bool) -> None:
        self._sink = sink
        self._trims = trims_line
        self._is_first = True
        self._held = ""
        sink('"')

    def add(self, text: str) -> None:
        if not text:
            return
        if self._trims:
            text = self._held + text
            if self._is_first and text in ("\r", "\n", "\r\n"):
                self._held = text
                return
            if self._is_first:
                text = re.sub(r"\A\r?\n", "", text)
            end = re.search(r"\r?\n?\Z", text)
            self._held = end.group() if end else ""
            text = text[: len(text) - len(self._held)]
        self._is_first = False
        if text:
            self._sink(escape(text))

    def end(self, *, is_whole: bool) -> None:
        if self._held == "\r":
            self._sink(escape("\r"))
        if is_whole:
            self._sink('"')


def _trim(text: str) -> str:
    return re.sub(r"\r?\n\Z", "", re.sub(r"\A\r?\n", "", text))
