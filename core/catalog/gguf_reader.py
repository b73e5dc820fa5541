"""Parse the header of a GGUF file: bounded in time and memory, whatever the bytes.

Source of the layout and of the tables: the GGUF specification and `gguf/constants.py` in ggml-org/llama.cpp.
"""

import math
import os
import re
import struct
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, NoReturn

from ..errors import BadRequest

__all__ = ["Header", "read_header"]

_WINDOW: Final = 1 << 20
_MAX_KEYS: Final = 1 << 16
_MAX_TENSORS: Final = 1 << 17
_HEAD_TENSORS: Final = frozenset({"cls.weight", "cls.output.weight"})
_MAX_KEY_BYTES: Final = (1 << 16) - 1
_MAX_STRING_BYTES: Final = 16 << 20
_MAX_KEPT_BYTES: Final = 64 << 20
_MAX_HEADER_BYTES: Final = 1 << 30
_MAX_STRINGS: Final = 1 << 24
_MAX_NESTED_ARRAYS: Final = 1 << 16
_MAX_DEPTH: Final = 4
_SHORT_ARRAY: Final = 512
_BLOCK: Final = 1024

_STRING, _ARRAY, _BOOL = 8, 9, 7
_SCALARS: Final = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "B", 10: "Q", 11: "q", 12: "d"}
_STRUCTS: Final = {kind: struct.Struct("<" + code) for kind, code in _SCALARS.items()}
_U32: Final = struct.Struct("<I")
_U64: Final = struct.Struct("<Q")

_TENSOR_TYPES: Final[Mapping[int, tuple[str, int, int]]] = {
    0: ("F32", 1, 4),
    1: ("F16", 1, 2),
    2: ("Q4_0", 32, 18),
    3: ("Q4_1", 32, 20),
    6: ("Q5_0", 32, 22),
    7: ("Q5_1", 32, 24),
    8: ("Q8_0", 32, 34),
    9: ("Q8_1", 32, 40),
    10: ("Q2_K", 256, 84),
    11: ("Q3_K", 256, 110),
    12: ("Q4_K", 256, 144),
    13: ("Q5_K", 256, 176),
    14: ("Q6_K", 256, 210),
    15: ("Q8_K", 256, 292),
    16: ("IQ2_XXS", 256, 66),
    17: ("IQ2_XS", 256, 74),
    18: ("IQ3_XXS", 256, 98),
    19: ("IQ1_S", 256, 50),
    20: ("IQ4_NL", 32, 18),
    21: ("IQ3_S", 256, 110),
    22: ("IQ2_S", 256, 82),
    23: ("IQ4_XS", 256, 136),
    24: ("I8", 1, 1),
    25: ("I16", 1, 2),
    26: ("I32", 1, 4),
    27: ("I64", 1, 8),
    28: ("F64", 1, 8),
    29: ("IQ1_M", 256, 56),
    30: ("BF16", 1, 2),
    34: ("TQ1_0", 256, 54),
    35: ("TQ2_0", 256, 66),
    39: ("MXFP4", 32, 17),
    40: ("NVFP4", 64, 36),
    41: ("Q1_0", 128, 18),
}
"""Name, elements in a block and bytes of a block, by the number in the file."""

_FOREIGN: Final[tuple[tuple[bytes, str], ...]] = (
    (b"PK\x03\x04", "it is a zip archive"),
    (b"version https://git-lfs", "it is a Git LFS pointer; the real file was not downloaded (git lfs pull)"),
    (b"tjgg", "it is an old GGML file; convert the model to GGUF again"),
    (b"fmgg", "it is an old GGML file; convert the model to GGUF again"),
    (b"lmgg", "it is an old GGML file; convert the model to GGUF again"),
    (b"<", "it looks like a web page"),
    (b"{", "it looks like JSON"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Header:
    """What one file says before its tensors' data.

    Args:
        keys: the metadata; long arrays are left out unless they were asked for.
        array_lengths: elements of every array, kept or not.
        parameters: elements of all tensors.
        tensor_bytes: bytes of all tensors.
        file_bytes: bytes of the file.
        tensor_type: name of the tensor type that most bytes have.
        head_tensors: shapes of the tensors that make a score of what the model has read, by name.
    """

    version: int
    keys: Mapping[str, Any]
    array_lengths: Mapping[str, int]
    tensor_count: int
    parameters: int
    tensor_bytes: int
    file_bytes: int
    tensor_type: str | None
    head_tensors: Mapping[str, tuple[int, ...]]


def read_header(path: Path, descriptor: int, arrays: Collection[str]) -> Header:
    """Read the header of an open file.

    Args:
        path: for messages.
        arrays: names of arrays to keep however long.

    Raises: BadRequest: it is cut off, no GGUF file, or claims absurd sizes. OSError: it cannot be read.
    """
    return _Reader(path, descriptor, frozenset(arrays)).read()


@lru_cache(maxsize=1)
def _string_block() -> re.Pattern[bytes]:
    """Return a pattern of `_BLOCK` strings shorter than 256 bytes: skips a vocabulary thrice as fast as a loop does."""
    lengths = b"|".join(re.escape(bytes([n])) + b"\\0{7}.{%d}" % n for n in range(256))
    return re.compile(b"(?s:(?:" + lengths + b"){%d}+)" % _BLOCK)


class _Reader:
    """One pass over a header, through a window. It is not mapped: a mapped file that shrinks kills the process."""

    def __init__(self, path: Path, descriptor: int, arrays: frozenset[str]) -> None:
        self._path = path
        self._descriptor = descriptor
        self._arrays = arrays
        self._size = os.fstat(descriptor).st_size
        self._data = b""
        self._base = 0
        self._at = 0
        self._kept = 0
        self._strings = 0
        self._nested = 0

    def read(self) -> Header:
        """Read everything up to the tensors' data."""
        version = self._check_magic()
        tensor_count = self._bounded(_MAX_TENSORS, "tensors")
        key_count = self._bounded(_MAX_KEYS, "metadata keys")
        keys: dict[str, Any] = {}
        lengths: dict[str, int] = {}
        for _ in range(key_count):
            key = self._key()
            if key in keys or key in lengths:
                self._refuse(f"it has the key '{key}' twice")
            kind = self._number(_U32)
            if kind == _ARRAY:
                length, values = self._array(key in self._arrays, 0)
                lengths[key] = length
                if values is not None:
                    keys[key] = values
            else:
                keys[key] = self._value(kind)
        tensors = self._tensors(tensor_count, keys)
        return Header(
            version=version,
            keys=MappingProxyType(keys),
            array_lengths=MappingProxyType(lengths),
            tensor_count=tensor_count,
            parameters=tensors[0],
            tensor_bytes=tensors[1],
            file_bytes=self._size,
            tensor_type=tensors[2],
            head_tensors=MappingProxyType(tensors[3]),
        )

    def _check_magic(self) -> int:
        head = os.pread(self._descriptor, 24, 0)
        if not head:
            self._refuse("it is empty")
        if head[:4] != b"GGUF":
            known = next((text for magic, text in _FOREIGN if head.startswith(magic)), None)
            if known is None and head.isascii() and head.decode().isprintable():
                known = "it looks like text"
            elif known is None and not any(head):
                known = "it starts with zeros (an unfinished download?)"
            raise BadRequest(f"{self._path} is not a GGUF file: {known or 'it does not start with the mark of one'}.")
        self._skip_to(4)
        version = self._number(_U32)
        if version and not version & 0xFFFF:
            self._refuse("it is big-endian; convert the model on a little-endian machine")
        if version not in (2, 3):
            self._refuse(f"it has version {version} of the format; 2 and 3 can be read")
        return version

    def _refuse(self, reason: str) -> NoReturn:
        raise BadRequest(f"{self._path} is not a usable GGUF file: {reason}.")

    def _cut(self, needed: int) -> NoReturn:
        raise BadRequest(
            f"{self._path} is cut off: it has {self._size} bytes and needs at least {needed}.",
            remedy="Download or copy it again.",
        )

    def _skip_to(self, position: int) -> None:
        """Move to a place in the file, which may lie beyond what is loaded."""
        if position > self._size:
            self._cut(position)
        if position > _MAX_HEADER_BYTES:
            self._refuse(f"its metadata is larger than {_MAX_HEADER_BYTES >> 20} MiB")
        if position - self._base > len(self._data):
            self._data, self._base = b"", position
        self._at = position - self._base

    def _need(self, count: int) -> int:
        """Load the next bytes and step over them; returns the index where they start."""
        start = self._at
        if start + count > len(self._data):
            position = self._base + start
            if position + count > self._size:
                self._cut(position + count)
            if position + count > _MAX_HEADER_BYTES:
                self._refuse(f"its metadata is larger than {_MAX_HEADER_BYTES >> 20} MiB")
            self._data = os.pread(self._descriptor, max(count, _WINDOW), position)
            self._base, start = position, 0
            if len(self._data) < count:  # it shrank while it was read
                self._cut(position + count)
        self._at = start + count
        return start

    def _number(self, form: struct.Struct) -> int:
        return int(self._unpack(form)[0])

    def _unpack(self, form: struct.Struct) -> tuple[Any, ...]:
        start = self._need(form.size)  # first: it may load another window
        return form.unpack_from(self._data, start)

    def _bounded(self, limit: int, what: str) -> int:
        count = self._number(_U64)
        if count > limit:
            self._refuse(f"it claims {count} {what}; at most {limit} are read")
        return count

    def _keep(self, count: int) -> None:
        self._kept += count
        if self._kept > _MAX_KEPT_BYTES:
            self._refuse(f"its metadata holds more than {_MAX_KEPT_BYTES >> 20} MiB of values")

    def _text(self, limit: int, what: str) -> bytes:
        count = self._bounded(limit, f"bytes in {what}")
        self._keep(count + 64)
        start = self._need(count)
        return self._data[start : start + count]

    def _key(self) -> str:
        try:
            return self._text(_MAX_KEY_BYTES, "a key").decode()
        except UnicodeDecodeError:
            self._refuse("the name of a key is not UTF-8")

    def _value(self, kind: int) -> Any:
        if kind == _STRING:
            return self._text(_MAX_STRING_BYTES, "a string").decode(errors="replace")
        form = _STRUCTS.get(kind)
        if form is None:
            self._refuse(f"it has a value of the unknown type {kind}")
        value = self._unpack(form)[0]
        return bool(value) if kind == _BOOL else value

    def _array(self, wanted: bool, depth: int) -> tuple[int, list[Any] | None]:
        """Read or skip an array; returns its length, and its values if they are wanted or few."""
        kind = self._number(_U32)
        count = self._number(_U64)
        wanted = wanted or count <= _SHORT_ARRAY
        if kind == _ARRAY:
            self._nested += count
            if depth >= _MAX_DEPTH or self._nested > _MAX_NESTED_ARRAYS:
                self._refuse("its arrays are nested too deeply")
            inner = [self._array(wanted, depth + 1)[1] for _ in range(count)]
            return count, inner if wanted else None
        if kind == _STRING:
            self._strings += count
            if self._strings > _MAX_STRINGS:
                self._refuse(f"it claims more than {_MAX_STRINGS} strings")
            if wanted:
                return count, [self._value(_STRING) for _ in range(count)]
            self._skip_strings(count)
            return count, None
        form = _STRUCTS.get(kind)
        if form is None:
            self._refuse(f"it has an array of the unknown type {kind}")
        total = count * form.size
        if not wanted:
            self._skip_to(self._base + self._at + total)
            return count, None
        if self._base + self._at + total > self._size:
            self._cut(self._base + self._at + total)
        self._keep(count * 32)
        values = self._unpack(struct.Struct(f"<{count}{_SCALARS[kind]}"))
        return count, [bool(value) for value in values] if kind == _BOOL else list(values)

    def _skip_strings(self, count: int) -> None:
        block = _string_block()
        while count:
            if count >= _BLOCK and (match := block.match(self._data, self._at)):
                self._at = match.end()
                count -= _BLOCK
                continue
            for _ in range(min(count, _BLOCK)):  # near the window's end, or a long string among them
                length = self._number(_U64)
                self._skip_to(self._base + self._at + length)
            count -= min(count, _BLOCK)

    def _tensors(self, count: int, keys: Mapping[str, Any]) -> tuple[int, int, str | None, dict[str, tuple[int, ...]]]:
        """Read the tensors' list; returns elements, bytes, the commonest type, and the shapes of those of a head."""
        elements = 0
        end = 0
        sizes: dict[str, int] = {}
        heads: dict[str, tuple[int, ...]] = {}
        for _ in range(count):
            tensor = self._key()
            dimensions = self._number(_U32)
            if dimensions > 8:
                self._refuse(f"a tensor has {dimensions} dimensions")
            start = self._need(8 * dimensions + 12)
            *shape, kind, offset = struct.unpack_from(f"<{dimensions}QIQ", self._data, start)
            size = math.prod(shape)
            name, block, block_bytes = _TENSOR_TYPES.get(kind, ("", 1, 0))
            size_bytes = size // block * block_bytes
            if offset + size_bytes > 1 << 62:
                self._refuse("a tensor claims an absurd size")
            elements += size
            if tensor in _HEAD_TENSORS:
                heads[tensor] = tuple(shape)
            end = max(end, offset + size_bytes)
            sizes[name] = sizes.get(name, 0) + size_bytes
        alignment = keys.get("general.alignment", 32)
        if not isinstance(alignment, int) or not 1 <= alignment <= 1 << 20:
            self._refuse(f"its alignment is {alignment!r}")
        position = self._base + self._at
        data = -(-position // alignment) * alignment
        if count and data + end > self._size:
            self._cut(data + end)
        return elements, sum(sizes.values()), max(sizes, key=sizes.__getitem__, default=None) or None, heads
