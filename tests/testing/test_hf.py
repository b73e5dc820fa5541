"""Model folders as Hugging Face's libraries read them: the same models as the GGUF files, in another form."""

import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gguf import GGUFReader

from modelrack.testing import gguf, gguf_extras, hf, hf_extras, recital
from modelrack.testing.conformance import SCRIPTS, Subject, hf_models
from modelrack.testing.gguf import TINY, Shape
from modelrack.testing.hf_files import write_safetensors

EXACT = Shape(file_type="f32", layers=2)
TYPES: dict[str, Any] = {"F32": np.dtype("<f4"), "F16": np.dtype("<f2"), "BF16": np.dtype("<u2")}


def read_tensors(path: Path) -> dict[str, Any]:
    """Return the arrays of a safetensors file, read as the format's page says; bfloat16 as its bits."""
    data = path.read_bytes()
    (size,) = struct.unpack_from("<Q", data)
    header = json.loads(data[8 : 8 + size])
    assert header.pop("__metadata__") == {"format": "pt"}
    found = {}
    ends = 0
    for name, one in header.items():
        begin, end = one["data_offsets"]
        assert begin == ends, "the tensors have gaps"
        ends = end
        flat = np.frombuffer(data[8 + size + begin : 8 + size + end], TYPES[one["dtype"]])
        found[name] = flat.reshape(one["shape"])
    assert 8 + size + ends == len(data)
    return found


def read_gguf(path: Path) -> dict[str, Any]:
    return {tensor.name: np.asarray(tensor.data) for tensor in GGUFReader(path).tensors}


def read_json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def test_the_weights_are_those_of_the_gguf_file(tmp_path: Path) -> None:
    ours = read_tensors(hf.write_random_model(tmp_path / "folder", EXACT, seed=3) / "model.safetensors")
    theirs = read_gguf(gguf.write_random_model(tmp_path / "file.gguf", EXACT, seed=3))
    assert len(ours) == len(theirs)
    names = {"model.embed_tokens": "token_embd", "lm_head": "output", "model.norm": "output_norm"}
    names |= {"model.layers.1.mlp.down_proj": "blk.1.ffn_down", "model.layers.0.self_attn.v_proj": "blk.0.attn_v"}
    for name, other in names.items():
        assert np.array_equal(ours[f"{name}.weight"], theirs[f"{other}.weight"])


@pytest.mark.parametrize("part", ["q", "k"])
def test_heads_are_turned_as_the_format_has_it(tmp_path: Path, part: str) -> None:
    """GGUF turns neighbours by a token's position, Hugging Face the halves of a head: the outcome is the same."""
    ours = read_tensors(hf.write_random_model(tmp_path / "folder", EXACT) / "model.safetensors")
    theirs = read_gguf(gguf.write_random_model(tmp_path / "file.gguf", EXACT))
    heads = {"q": EXACT.heads, "k": EXACT.kv_heads}[part]
    size = EXACT.width // EXACT.heads
    vector = np.random.default_rng(0).standard_normal(EXACT.width).astype(np.float32)
    angles = 7 * 10000.0 ** (-np.arange(0, size, 2) / size)
    cos, sin = np.cos(angles), np.sin(angles)
    mine = (ours[f"model.layers.0.self_attn.{part}_proj.weight"] @ vector).reshape(heads, 2, size // 2)
    other = (theirs[f"blk.0.attn_{part}.weight"] @ vector).reshape(heads, size // 2, 2)
    a, b = mine[:, 0], mine[:, 1]
    x, y = other[..., 0], other[..., 1]
    assert np.allclose(a * cos - b * sin, x * cos - y * sin)
    assert np.allclose(a * sin + b * cos, x * sin + y * cos)


def test_the_tokens_are_those_of_the_gguf_file(tmp_path: Path) -> None:
    folder = hf.write_random_model(tmp_path / "folder")
    tokenizer, told = read_json(folder / "tokenizer.json"), read_json(folder / "tokenizer_config.json")
    reader = GGUFReader(gguf.write_random_model(tmp_path / "file.gguf"))
    names = [str(name) for name in reader.fields["tokenizer.ggml.tokens"].contents()]
    vocabulary = tokenizer["model"]["vocab"]
    assert sorted(vocabulary, key=vocabulary.__getitem__) == names
    assert [" ".join(pair) for pair in tokenizer["model"]["merges"]] == reader.fields[
        "tokenizer.ggml.merges"
    ].contents()
    config = read_json(folder / "config.json")
    assert names[config["eos_token_id"]] == told["eos_token"] == "<|im_end|>"
    assert config["eos_token_id"] == reader.fields["tokenizer.ggml.eos_token_id"].contents()
    assert config["vocab_size"] == len(names)
    assert [one["content"] for one in tokenizer["added_tokens"]] == list(gguf.SPECIAL_TOKENS)
    assert told["chat_template"] == gguf.CHATML
    assert told["model_max_length"] == config["max_position_embeddings"] == TINY.context


def test_a_recital_is_that_of_the_gguf_file(tmp_path: Path) -> None:
    texts = {"@one": "größer 🐋 or not", "@two": "ab<|x|>cde"}
    folder = hf.write_recital(tmp_path / "folder", texts, controls=["<|x|>"])
    theirs = read_gguf(recital.write_recital(tmp_path / "file.gguf", texts, controls=["<|x|>"]))
    ours = read_tensors(folder / "model.safetensors")
    assert np.allclose(ours["lm_head.weight"], theirs["output.weight"], rtol=1e-3, atol=1e-6)
    added = {one["content"]: one["special"] for one in read_json(folder / "tokenizer.json")["added_tokens"]}
    assert added["<|x|>"] and not added["@one"] and "größ" not in added
    assert set(ours) >= {"model.layers.0.self_attn.k_proj.weight", "model.norm.weight"}


def test_an_adapter_is_that_of_the_gguf_file(tmp_path: Path) -> None:
    folder = hf.write_adapter(tmp_path / "folder", EXACT, seed=2)
    theirs = read_gguf(gguf_extras.write_adapter(tmp_path / "file.gguf", EXACT, seed=2))
    ours = read_tensors(folder / "adapter_model.safetensors")
    assert len(ours) == len(theirs) == 2 * EXACT.layers
    for part in "AB":
        mine = ours[f"base_model.model.model.layers.1.mlp.down_proj.lora_{part}.weight"]
        assert np.array_equal(mine, theirs[f"blk.1.ffn_down.weight.lora_{part.lower()}"])
    config = read_json(folder / "adapter_config.json")
    assert (config["r"], config["lora_alpha"], config["target_modules"]) == (4, 4, ["down_proj"])


def test_a_recurrent_model_is_that_of_the_gguf_file(tmp_path: Path) -> None:
    ours = read_tensors(hf_extras.write_recurrent_model(tmp_path / "folder") / "model.safetensors")
    theirs = read_gguf(gguf_extras.write_recurrent_model(tmp_path / "file.gguf"))
    assert len(ours) == len(theirs)
    mixer = "backbone.layers.1.mixer"
    assert np.array_equal(ours[f"{mixer}.in_proj.weight"], theirs["blk.1.ssm_in.weight"])
    assert np.array_equal(ours[f"{mixer}.conv1d.weight"][:, 0], theirs["blk.1.ssm_conv1d.weight"])
    assert np.allclose(-np.exp(ours[f"{mixer}.A_log"]), theirs["blk.1.ssm_a"])


def test_a_model_that_sees_has_the_weights_of_one_that_does_not(tmp_path: Path) -> None:
    seeing = hf_extras.write_seeing_model(tmp_path / "seeing")
    ours = read_tensors(seeing / "model.safetensors")
    plain = read_tensors(hf.write_random_model(tmp_path / "plain") / "model.safetensors")
    for name, values in plain.items():
        found = ours[f"language_model.{name}"]
        assert np.array_equal(found[: len(values)], values)
        assert not found[len(values) :].any()
    config = read_json(seeing / "config.json")
    vocabulary = read_json(seeing / "tokenizer.json")["model"]["vocab"]
    assert vocabulary[hf_extras.IMAGE_TOKEN] == config["image_token_index"] == len(vocabulary) - 1
    eye = hf_extras.EYE
    patches = ours["vision_tower.vision_model.embeddings.position_embedding.weight"]
    assert patches.shape == (eye.tokens + 1, eye.width)


@pytest.mark.parametrize(("dtype", "error"), [("float32", 0.0), ("float16", 2.0**-11), ("bfloat16", 2.0**-8)])
def test_weights_are_rounded_to_the_type_asked_for(tmp_path: Path, dtype: Any, error: float) -> None:
    exact = np.random.default_rng(0).standard_normal((50, 7)).astype(np.float32)
    # The last two lie halfway between two values of bfloat16; ties go to the even one.
    exact[-1, -3:] = 0.0, 1 + 2.0**-8, 1 + 3 * 2.0**-8
    write_safetensors(tmp_path / "file", [("one", exact), ("two", exact[:1])], dtype)
    found = read_tensors(tmp_path / "file")
    values = found["one"]
    if dtype == "bfloat16":
        values = (values.astype("<u4") << 16).view("<f4")
        assert values[-1, -3:].tolist() == [0.0, 1.0, 1 + 4 * 2.0**-8]
    assert found["two"].shape == (1, 7)
    assert (np.abs(values - exact) <= error * np.abs(exact)).all()
    model = hf.write_random_model(tmp_path / "model", dtype=dtype)
    assert read_json(model / "config.json")["torch_dtype"] == dtype


def test_the_models_of_the_kit_are_for_every_role(tmp_path: Path) -> None:
    models = hf_models(draft=lambda model: {"draft": str(model)})
    assert Subject(engine="any", models=models).problems() == []
    assert set(hf_models(images=False)) == {"main", "reciter", "adapted"}
    for role, model in models.items():
        folder = tmp_path / role
        folder.mkdir()
        assert not isinstance(model.name, str)
        path = model.name(folder)
        assert (path / "config.json").is_file() and (path / "model.safetensors").is_file()
        for make in model.adapters.values():
            assert (make(folder) / "adapter_config.json").is_file()
        if callable(model.options):
            assert model.options(folder) == {"draft": str(path)}
    assert all(models["reciter"].cue(name) for name in SCRIPTS)  # type: ignore[misc]
