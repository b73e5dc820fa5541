"""`modelrack plan` and `modelrack cal-model-mem`."""

import json
from pathlib import Path

import pytest

from modelrack.testing.serving import Server, clean_environment

from .commands import run, run_json

SHAPE = {
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "vocab_size": 128256,
    "max_position_embeddings": 8192,
    "architectures": ["LlamaForCausalLM"],
}
MIB = 1 << 20


def test_a_plan_is_printed(server: Server) -> None:
    text = run(server.environment, "plan", "-n", "demo-chat", "-en", "llama.cpp", "--n-ctx", "640").stdout
    for line in ("engine       llama.cpp", "environment  beside the server", "download     nothing, it is at /"):
        assert line in text
    assert "estimated: weights" in text and "fits         yes: needs about" in text
    found = run_json(server.environment, "plan", "-n", "demo-chat", "-en", "llama.cpp", "--n-ctx", "640")
    assert found["choice"]["model_engine"] == "llama.cpp" and found["room"]["is_enough"]


def test_a_plan_that_cannot_be(server: Server) -> None:
    done = run(server.environment, "plan", "-n", "demo-chat", "-q", "Q9", code=1)
    assert "no quantization 'Q9'" in done.stderr and done.stdout == ""


def test_engines_show_rank_and_environment(server: Server) -> None:
    text = run(server.environment, "engine", "-n", "echo").stdout
    heading, _, row = text.splitlines()[:3]
    assert heading.split()[-2:] == ["Rank", "Environment"]
    assert row.split()[-1] == "server"


# cal-model-mem, which asks no server


def test_memory_by_size_alone() -> None:
    done = run(clean_environment(), "cal-model-mem", "-s", "7", "-q", "Int4", "-f", "gptq", "-c", "16384")
    lines = dict(line.strip().split(": ") for line in done.stdout.splitlines() if ": " in line)
    assert list(lines) == [
        *("model_name", "kv_cache_dtype", "model size", "quant", "context"),
        *("model mem", "kv_cache", "overhead", "active", "total"),
    ]
    amounts = {name: int(lines[name].split()[0]) for name in ("model mem", "kv_cache", "overhead", "active", "total")}
    assert 4000 < amounts["model mem"] < 6000
    assert amounts["kv_cache"] == 16384 * 2 * 32 * 2 * 8 * 128 // MIB
    assert abs(sum(amounts.values()) - 2 * amounts["total"]) < 5
    assert "a model of about its size was taken" in done.stderr


def test_memory_of_a_folder(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(SHAPE))
    found = run_json(clean_environment(), "cal-model-mem", "-n", str(tmp_path), "-s", "8", "--kv-cache-dtype", "8")
    assert (found["basis"], found["context_length"], found["kv_cache_dtype"]) == ("config", 8192, 8)
    assert found["kv_cache_mem"] == 8192 * 32 * 2 * 8 * 128 // MIB
    assert found["model_mem"] == -(-16_000_000_000 // MIB)


def test_memory_of_a_family() -> None:
    found = run_json(clean_environment(), "cal-model-mem", "-n", "demo-chat", "-f", "gguf", "-c", "1024")
    assert (found["basis"], found["weights_are_counted"], found["model_mem"]) == ("gguf", True, 4)
    known = run_json(clean_environment(), "cal-model-mem", "-n", "qwen3", "-s", "8", "-f", "gguf", "-q", "Q4_K_M")
    assert (known["basis"], known["weights_are_counted"], known["quantization"]) == ("typical", False, "Q4_K_M")


def test_what_was_taken_is_told() -> None:
    done = run(clean_environment(), "cal-model-mem", "-n", "qwen3", "-s", "8", "-f", "gguf")
    assert "Taken: gguf, Q4_K_M" in done.stderr
    assert "Taken" not in run(clean_environment(), "cal-model-mem", "-s", "8", "-f", "gguf").stderr


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["-s", "7"], 2, "--model-format, or --model-name"),
        (["-s", "many", "-f", "gguf"], 2, "must be a number of billions"),
        (["-s", "7", "-f", "gguf", "-c", "0"], 2, "0 is not in the range"),
        (["-s", "7", "-f", "gguf", "-c", str(1 << 40)], 1, "The context must be 1 to"),
        (["-s", "7", "-f", "gguf", "--kv-cache-dtype", "4"], 2, "'4' is not one of"),
        (["-n", "no-such-model"], 1, "no-such-model"),
        (["-n", "qwen3", "-s", "9"], 1, "no size '9'"),
        (["-n", "qwen3"], 1, "several sizes: 0.6, 1.7, 4, 8, 14, 30, 32, 235 (billions"),
        (["-n", "qwen3", "-f", "gguf"], 1, "--size-in-billions"),
        (["-n", "qwen3", "-s", "8", "-q", "Q4_KM"], 1, "no quantization 'Q4_KM'"),
        (["-s", "7", "-f", "ggfu"], 1, "'ggfu' is no known format; known are: pytorch, gguf, gptq, awq"),
        (["-s", "7", "-f", "gguf", "-q", "Q9_K"], 1, "'Q9_K' is no known quantization; known are: none, F32"),
        (["-s", "7", "-f", "awq", "-q", "int"], 1, "Did you mean"),
    ],
)
def test_wrong_questions(arguments: list[str], code: int, message: str) -> None:
    done = run(clean_environment(), "cal-model-mem", *arguments, code=code)
    assert message in done.stderr
