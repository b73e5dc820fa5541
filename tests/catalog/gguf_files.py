"""Write small GGUF files, byte by byte as the specification says."""

import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

U32, F32, BOOL, STRING, ARRAY, U64 = 4, 6, 7, 8, 9, 10
_CODES = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "B", 10: "Q", 11: "q", 12: "d"}


def text(value: str | bytes) -> bytes:
    raw = value.encode() if isinstance(value, str) else value
    return struct.pack("<Q", len(raw)) + raw


def typed(kind: int, value: Any) -> bytes:
    return text(value) if kind == STRING else struct.pack(f"<{_CODES[kind]}", value)


def array(kind: int, values: Sequence[Any]) -> bytes:
    return struct.pack("<IQ", kind, len(values)) + b"".join(typed(kind, value) for value in values)


def value(item: Any) -> bytes:
    """Write a value behind its type, by its Python type; a pair (type, value) states it."""
    if isinstance(item, bool):
        return struct.pack("<I", BOOL) + typed(BOOL, item)
    if isinstance(item, int):
        return struct.pack("<I", U32) + typed(U32, item)
    if isinstance(item, float):
        return struct.pack("<I", F32) + typed(F32, item)
    if isinstance(item, str):
        return struct.pack("<I", STRING) + text(item)
    if isinstance(item, list):
        kind = STRING if item and isinstance(item[0], str) else F32 if item and isinstance(item[0], float) else U32
        return struct.pack("<I", ARRAY) + array(kind, item)
    kind, raw = item
    return struct.pack("<I", kind) + (raw if kind == ARRAY else typed(kind, raw))


def gguf_bytes(
    keys: Mapping[str, Any],
    tensors: Mapping[str, tuple[Sequence[int], int, int]] | None = None,
    *,
    version: int = 3,
    data: bool = True,
) -> bytes:
    """Return a file; tensors are (shape, type number, bytes), laid one after the other."""
    tensors = tensors or {}
    out = b"GGUF" + struct.pack("<IQQ", version, len(tensors), len(keys))
    out += b"".join(text(key) + value(item) for key, item in keys.items())
    offset = 0
    for name, (shape, kind, size) in tensors.items():
        out += text(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, kind, offset)
        offset += -(-size // 32) * 32
    out += b"\0" * (-len(out) % 32)
    return out + (b"\0" * offset if data else b"")


CHAT_TEMPLATE = "{% for message in messages %}{{ message.content }}{% endfor %}"


def llama_keys(**more: Any) -> dict[str, Any]:
    keys = {
        "general.architecture": "llama",
        "general.name": "Tiny",
        "general.file_type": 15,
        "llama.context_length": 2048,
        "llama.block_count": 2,
        "llama.embedding_length": 64,
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.tokens": [f"<{n}>" for n in range(700)],
        "tokenizer.chat_template": CHAT_TEMPLATE,
    }
    keys.update(more)
    return keys


TENSORS: dict[str, tuple[Sequence[int], int, int]] = {
    "token_embd.weight": ((256, 4), 12, 576),
    "output.weight": ((256, 2), 12, 288),
}


def write_gguf(path: Path, keys: Mapping[str, Any] | None = None, **more: Any) -> Path:
    """Write a small model; keys given replace those of `llama_keys`, and None leaves one out."""
    merged = llama_keys(**(keys or {}))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gguf_bytes({key: item for key, item in merged.items() if item is not None}, TENSORS, **more))
    return path
