"""From a multipart form to a request model: the same fields as in JSON, and files."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from pydantic import BaseModel, ValidationError

from ..api.files import OCTETS, FieldShape, Upload, field_shapes
from ..errors import BadRequest
from .validation import explain

__all__ = ["FORM", "make_form_parser"]

FORM = b"multipart/form-data"

PARTS_LIMIT = 256
HEAD_LIMIT_BYTES = 8 * 1024
"""Largest head of a part."""
NAME_LIMIT = 128
"""Longest name of a field; a file's may be twice as long."""
TEXT_LIMIT_BYTES = 1024 * 1024
"""Longest value of a field that is no file."""


@dataclass(slots=True)
class _Part:
    """One part of a form, as it came."""

    headers: dict[bytes, bytes] = field(default_factory=dict)
    pieces: list[bytes] = field(default_factory=list)
    name: str = ""
    file_name: str | None = None

    @property
    def content(self) -> bytes:
        return self.pieces[0] if len(self.pieces) == 1 else b"".join(self.pieces)


def make_form_parser(
    model: type[BaseModel], defaults: Mapping[str, Any] | None = None
) -> Callable[[bytes, bytes], Any]:
    """Return the function that makes a request from a form's Content-Type and body; its errors are BadRequest.

    Text is coerced to the types of the fields. Parts of one name are a list, and so are those called `name[]`. A field
    that need not be given and comes as an empty text, or as a file without name and content, is one not given.

    Args:
        defaults: as for `make_parser`.
    """
    validate = model.__pydantic_validator__.validate_python
    own = {name: value for name, value in (defaults or {}).items() if name in model.model_fields}

    def parse(content_type: bytes, body: bytes) -> Any:
        data = _to_fields(_read_parts(content_type, body), field_shapes(model))
        for name, value in own.items():
            data.setdefault(name, value)
        try:
            return validate(data)
        except ValidationError as error:
            raise explain(error, data, model) from None

    return parse


def _to_fields(parts: list[_Part], shapes: Mapping[str, FieldShape]) -> dict[str, Any]:
    values: dict[str, list[Any]] = {}
    marked = set()
    for part in parts:
        name = part.name
        if name not in shapes and name.endswith("[]"):
            name = name[:-2]
            marked.add(name)
        shape = shapes.get(name)
        value = _to_value(part, name, shape is not None and shape.takes_files)
        is_empty = value is None or value == ""
        if is_empty and (shape is None or shape.is_optional or value is None):
            continue
        values.setdefault(name, []).append(value)
    data: dict[str, Any] = {}
    for name, found in values.items():
        shape = shapes.get(name)
        if shape is None or not shape.takes_many:
            if len(found) > 1:
                raise BadRequest(f"'{name}' is given {len(found)} times.", param=name)
            data[name] = found[0]
        else:
            is_list = len(found) > 1 or name in marked or not shape.takes_one
            data[name] = found if is_list else found[0]
    return data


def _to_value(part: _Part, name: str, takes_files: bool) -> Upload | str | None:
    """Return a file, a text, or None for a file that was not chosen."""
    content = part.content
    media_type = part.headers.get(b"content-type", b"").partition(b";")[0].strip().lower().decode("latin-1")
    if part.file_name is None and not (takes_files and media_type not in ("", "text/plain")):
        if len(content) <= TEXT_LIMIT_BYTES or takes_files:
            try:
                return content.decode()
            except UnicodeDecodeError:
                if not takes_files:
                    raise BadRequest(f"'{name}' is not valid UTF-8.", param=name) from None
        else:
            raise BadRequest(f"'{name}' is longer than {TEXT_LIMIT_BYTES} bytes.", param=name)
    if not content and not part.file_name:
        return None
    return Upload(content, part.file_name or "", media_type or OCTETS)


class _Reader:
    """Collects the parts while the body is parsed."""

    def __init__(self) -> None:
        self.parts: list[_Part] = []
        self.is_complete = False
        self._header = b""
        self._value = b""
        self._head_bytes = 0

    def on_part_begin(self) -> None:
        if len(self.parts) >= PARTS_LIMIT:
            raise BadRequest(f"The form has more than {PARTS_LIMIT} parts.")
        self.parts.append(_Part())
        self._head_bytes = 0

    def on_header_field(self, data: bytes, start: int, end: int) -> None:
        self._count(end - start)
        self._header += data[start:end]

    def on_header_value(self, data: bytes, start: int, end: int) -> None:
        self._count(end - start)
        self._value += data[start:end]

    def on_header_end(self) -> None:
        self.parts[-1].headers[self._header.lower()] = self._value
        self._header = self._value = b""

    def on_headers_finished(self) -> None:
        part = self.parts[-1]
        number = len(self.parts)
        kind, parameters = _options(part.headers.get(b"content-disposition", b""))
        if kind != b"form-data" or b"name" not in parameters:
            raise BadRequest(f"Part {number} of the form has no name.")
        part.name = _decode(parameters[b"name"], f"The name of part {number} of the form", None)
        if not 0 < len(part.name) <= NAME_LIMIT:
            raise BadRequest(f"The name of part {number} of the form must have 1 to {NAME_LIMIT} characters.")
        if b"filename" in parameters:
            whole = _decode(parameters[b"filename"], f"The file name of '{part.name}'", part.name)
            last = whole.replace("\\", "/").rpartition("/")[2]
            part.file_name = "".join(character for character in last if character.isprintable())
            if len(part.file_name) > 2 * NAME_LIMIT:
                text = f"The file name of '{part.name}' is longer than {2 * NAME_LIMIT} characters."
                raise BadRequest(text, param=part.name)
        encoding = part.headers.get(b"content-transfer-encoding", b"binary").strip().lower()
        if encoding not in (b"binary", b"8bit", b"7bit"):
            text = f"'{part.name}' has the Content-Transfer-Encoding {encoding.decode('latin-1')}; send it as it is."
            raise BadRequest(text, param=part.name)

    def on_part_data(self, data: bytes, start: int, end: int) -> None:
        # The body comes as a whole, so this is all of the part: its only copy.
        self.parts[-1].pieces.append(data[start:end])

    def on_end(self) -> None:
        self.is_complete = True

    def _count(self, size: int) -> None:
        self._head_bytes += size
        if self._head_bytes > HEAD_LIMIT_BYTES:
            raise BadRequest(f"The head of part {len(self.parts)} of the form is over {HEAD_LIMIT_BYTES} bytes.")


def _read_parts(content_type: bytes, body: bytes) -> list[_Part]:
    boundary = _options(content_type)[1].get(b"boundary", b"")
    if not 0 < len(boundary) <= 70:
        raise BadRequest("The Content-Type multipart/form-data has no valid boundary.")
    # Imported here: most workers never see a form.
    from python_multipart.exceptions import FormParserError
    from python_multipart.multipart import MultipartParser

    reader = _Reader()
    names = ("on_part_begin", "on_part_data", "on_header_field", "on_header_value", "on_header_end")
    callbacks: Any = {name: getattr(reader, name) for name in (*names, "on_headers_finished", "on_end")}
    try:
        parser = MultipartParser(boundary, callbacks)
        parser.logger.disabled = True  # what is wrong is the client's business, and it is told
        parser.write(body)
    except FormParserError as error:
        raise BadRequest(f"The form is malformed: {error}.") from None
    if not reader.is_complete:
        raise BadRequest("The form is cut off, or a part of it is malformed.")
    return reader.parts


def _options(header: bytes) -> tuple[bytes, dict[bytes, bytes]]:
    from python_multipart.multipart import parse_options_header

    return parse_options_header(header)


def _decode(value: bytes, what: str, param: str | None) -> str:
    try:
        return value.decode()
    except UnicodeDecodeError:
        raise BadRequest(f"{what} is not valid UTF-8.", param=param) from None
