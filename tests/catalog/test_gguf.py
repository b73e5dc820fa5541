import os
import struct
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from catalog.gguf_files import (
    ARRAY,
    CHAT_TEMPLATE,
    STRING,
    TENSORS,
    U64,
    array,
    gguf_bytes,
    llama_keys,
    text,
    write_gguf,
)
from modelrack.catalog.gguf import quantization_in_name, read_metadata, split_parts
from modelrack.errors import BadRequest

GOOD = gguf_bytes(llama_keys(), TENSORS)


def put(folder: Path, data: bytes, name: str = "model.gguf") -> Path:
    path = folder / name
    path.write_bytes(data)
    return path


@pytest.mark.parametrize("version", [2, 3])
def test_reads_what_the_header_says(tmp_path: Path, version: int) -> None:
    found = read_metadata(write_gguf(tmp_path / "a.gguf", version=version))
    assert found.version == version
    assert (found.architecture, found.name, found.context_length) == ("llama", "Tiny", 2048)
    assert (found.number("block_count"), found.number("nothing")) == (2, None)
    assert found.chat_template == CHAT_TEMPLATE
    assert found.quantization == "Q4_K_M" and found.tensor_type == "Q4_K"
    assert found.parameters == 256 * 4 + 256 * 2 and found.tensor_bytes == 576 + 288 and found.tensor_count == 2
    assert found.file_bytes == (tmp_path / "a.gguf").stat().st_size
    assert found.vocabulary_size == 700 and "tokenizer.ggml.tokens" not in found.keys


def test_arrays_are_kept_when_short_or_asked_for(tmp_path: Path) -> None:
    tokens = [f"<{n}>" for n in range(700)]
    path = write_gguf(tmp_path / "a.gguf", {"general.languages": ["en", "de"], "llama.head_count_kv": [8, 4]})
    plain = read_metadata(path)
    assert plain.keys["general.languages"] == ["en", "de"] and plain.keys["llama.head_count_kv"] == [8, 4]
    assert read_metadata(path, arrays=["tokenizer.ggml.tokens"]).keys["tokenizer.ggml.tokens"] == tokens


def test_skips_long_strings_in_the_middle_of_a_vocabulary(tmp_path: Path) -> None:
    tokens = ["x" * (n % 9) for n in range(5000)]
    tokens[2500], tokens[4000] = "y" * 300, "z" * (2 << 20)
    keys = {"tokenizer.ggml.tokens": tokens, "tokenizer.ggml.scores": [0.5] * 5000, "tail": "here"}
    found = read_metadata(put(tmp_path, gguf_bytes(keys, TENSORS)))
    assert found.keys["tail"] == "here" and found.array_lengths["tokenizer.ggml.tokens"] == 5000


def test_a_large_vocabulary_is_skipped(tmp_path: Path) -> None:
    raw = struct.pack("<IQ", STRING, 150_000) + b"".join(text("t" * (n % 12)) for n in range(150_000))
    path = put(tmp_path, gguf_bytes({"tokens": (ARRAY, raw), "merges": (ARRAY, raw), "tail": "here"}))
    first = read_metadata(path)
    assert first.keys["tail"] == "here" and "tokens" not in first.keys
    assert read_metadata(path) is first  # from memory


def test_a_changed_file_is_read_again(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "a.gguf")
    assert read_metadata(path).name == "Tiny"
    write_gguf(path, {"general.name": "Other!"})
    assert read_metadata(path).name == "Other!"


@pytest.mark.parametrize(
    ("keys", "quantization", "size"),
    [
        ({"general.file_type": 7}, "Q8_0", 1.54e-06),
        ({"general.file_type": 1024 + 17}, "Q5_K_M", 1.54e-06),
        ({"general.file_type": 999}, "Q4_K", 1.54e-06),
        ({"general.file_type": None}, "Q4_K", 1.54e-06),
        ({"general.size_label": "7B"}, "Q4_K_M", 7.0),
        ({"general.size_label": "270M"}, "Q4_K_M", 0.27),
        ({"general.size_label": "8x7B"}, "Q4_K_M", 1.54e-06),
    ],
)
def test_quantization_and_size(tmp_path: Path, keys: dict[str, Any], quantization: str, size: float) -> None:
    found = read_metadata(write_gguf(tmp_path / "a.gguf", keys))
    assert (found.quantization, found.size_b) == (quantization, size)


def test_models_in_parts_are_read_as_one(tmp_path: Path) -> None:
    first = write_gguf(tmp_path / "big-00001-of-00003.gguf", {"split.count": 3})
    tensors = {"blk.0.w": ((256, 8), 12, 1152)}
    for number in (2, 3):
        put(tmp_path, gguf_bytes({"split.no": number - 1}, tensors), f"big-0000{number}-of-00003.gguf")
    found = read_metadata(tmp_path / "big-00002-of-00003.gguf")
    assert found.path == str(first) and len(found.parts) == 3 and found.name == "Tiny"
    assert found.parameters == 1536 + 2 * 2048 and found.tensor_bytes == 864 + 2 * 1152 and found.tensor_count == 4
    (tmp_path / "big-00003-of-00003.gguf").unlink()
    with pytest.raises(BadRequest, match=r"3 parts, and some are missing.*big-00003-of-00003\.gguf"):
        read_metadata(first)
    assert split_parts(tmp_path / "single.gguf") == (tmp_path / "single.gguf",)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "it is empty"),
        (b"PK\x03\x04" + bytes(100), "zip archive"),
        (b"hello, this is a text file, no model", "looks like text"),
        (b"<!DOCTYPE html><html>", "web page"),
        (b'{"a": 1}', "JSON"),
        (b"version https://git-lfs.github.com/spec/v1\n", "Git LFS pointer"),
        (bytes(4096), "zeros"),
        (os.urandom(8).join([b"\xff", b"\xfe"]), "mark"),
        (b"GG", "looks like text"),
        (b"GGUF", "cut off"),
        (b"GGUF" + struct.pack("<IQQ", 1, 0, 0), "version 1"),
        (b"GGUF" + struct.pack("<IQQ", 9, 0, 0), "version 9"),
        (b"GGUF" + struct.pack(">IQQ", 3, 0, 0), "big-endian"),
        (GOOD[:100], "cut off"),
        (GOOD[:-600], "cut off"),
        (b"GGUF" + struct.pack("<IQQ", 3, 1 << 40, 0), "tensors; at most"),
        (b"GGUF" + struct.pack("<IQQ", 3, 0, 1 << 40), "metadata keys; at most"),
        (gguf_bytes({"a": (STRING, "b")})[:24] + struct.pack("<Q", 1 << 50), "bytes in a key"),
        (b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + text("k") + struct.pack("<I", 77), "unknown type 77"),
        (b"GGUF" + struct.pack("<IQQ", 3, 0, 2) + 2 * (text("k") + struct.pack("<II", 4, 1)), "twice"),
        (b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + text(b"\xff\xfe") + struct.pack("<II", 4, 1), "UTF-8"),
        (gguf_bytes({"general.alignment": (U64, 0)}), "alignment"),
    ],
)
def test_other_files_are_refused_with_the_reason(tmp_path: Path, data: bytes, reason: str) -> None:
    with pytest.raises(BadRequest, match=reason) as caught:
        read_metadata(put(tmp_path, data))
    assert str(tmp_path / "model.gguf") in caught.value.message and "\n" not in caught.value.message


def test_missing_files_folders_and_pipes_are_refused(tmp_path: Path) -> None:
    with pytest.raises(BadRequest, match="No such file"):
        read_metadata(tmp_path / "none.gguf")
    with pytest.raises(BadRequest, match="is a folder"):
        read_metadata(tmp_path)
    os.mkfifo(tmp_path / "pipe.gguf")
    with pytest.raises(BadRequest, match="not a regular file"):
        read_metadata(tmp_path / "pipe.gguf")
    with pytest.raises(BadRequest):
        read_metadata("a\0b")


def test_absurd_arrays_cost_neither_time_nor_memory(tmp_path: Path) -> None:
    nested = struct.pack("<IQ", ARRAY, 1 << 40) + struct.pack("<IQ", ARRAY, 1 << 40)
    strings = struct.pack("<IQ", STRING, 1 << 60)
    numbers = struct.pack("<IQ", 4, 1 << 60)
    start = time.process_time()
    for raw in (nested, strings, numbers, array(STRING, []) * 3):
        path = put(tmp_path, gguf_bytes({"a": (ARRAY, raw), "b": 1}) + bytes(2 << 20))
        try:
            read_metadata(path, arrays=["a"])
        except BadRequest:
            continue
    sparse = put(tmp_path, gguf_bytes({"a": (ARRAY, struct.pack("<IQ", STRING, (1 << 24) - 1))}), "sparse.gguf")
    os.truncate(sparse, 1 << 34)
    with pytest.raises(BadRequest):
        read_metadata(put(tmp_path, gguf_bytes({"a": (ARRAY, strings)}) + bytes(100)))
    assert time.process_time() - start < 2


@settings(max_examples=150, deadline=2000, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_nothing_but_bad_request_comes_of_broken_files(tmp_path: Path, data: st.DataObject) -> None:
    raw = bytearray(GOOD)
    for _ in range(data.draw(st.integers(1, 6))):
        place = data.draw(st.integers(0, len(raw) - 1))
        piece = data.draw(st.one_of(st.binary(min_size=1, max_size=8), st.sampled_from([b"\xff" * 8, bytes(8)])))
        raw[place : place + len(piece)] = piece
    cut = data.draw(st.integers(0, len(raw)))
    path = put(tmp_path, bytes(raw[:cut] if data.draw(st.booleans()) else raw))
    try:
        found = read_metadata(path, arrays=["tokenizer.ggml.tokens"])
    except BadRequest:
        return
    assert found.parameters >= 0 and isinstance(found.quantization, str)
    assert found.size_b is None or found.size_b > 0 or found.parameters == 0


@settings(max_examples=100, deadline=2000, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=400))
def test_nothing_but_bad_request_comes_of_any_bytes(tmp_path: Path, tail: bytes) -> None:
    path = put(tmp_path, b"GGUF" + struct.pack("<IQQ", 3, 1, 3) + tail)
    try:
        read_metadata(path)
    except BadRequest:
        return


@pytest.mark.parametrize(
    ("name", "quantization"),
    [
        ("qwen2.5-0.5b-instruct-q4_k_m.gguf", "q4_k_m"),
        ("Qwen3-235B-A22B-UD-Q4_K_XL-00001-of-00003.gguf", "UD-Q4_K_XL"),
        ("llama-2-7b.Q5_0.gguf", "Q5_0"),
        ("model-IQ2_XXS.gguf", "IQ2_XXS"),
        ("gpt-oss-20b-MXFP4.gguf", "MXFP4"),
        ("folder/BF16/x-BF16-00001-of-00002.gguf", "BF16"),
        ("tiny-fp16.gguf", "fp16"),
        ("Qwen3-8B.gguf", None),
    ],
)
def test_quantization_in_name(name: str, quantization: str | None) -> None:
    assert quantization_in_name(name) == quantization
