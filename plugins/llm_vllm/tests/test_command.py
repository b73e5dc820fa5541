"""The command that runs vLLM, from options, devices, adapters and families."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError
from vllm_plans import CHAT_TEMPLATE, flags, make_plan, write_template

from modelrack.errors import BadRequest, LaunchFailed
from modelrack.hooks import Family
from modelrack.testing.hf import write_adapter
from modelrack_llm_vllm.adapters import lora_rank, write_null_adapter
from modelrack_llm_vllm.arguments import REFUSED, check_arguments, known_arguments, render
from modelrack_llm_vllm.command import build_command
from modelrack_llm_vllm.options import VllmOptions
from modelrack_llm_vllm.readers import choose_readers
from modelrack_llm_vllm.settings import LORA_PREFIX, NULL_LORA, VARIABLE, Settings
from modelrack_llm_vllm.templates import folder_template, wrap_template


def _built(**more: Any) -> dict[str, str]:
    return flags(build_command(make_plan(**more), "/run/worker.sock").argv)


def _settings(**more: Any) -> Settings:
    return Settings.load(build_command(make_plan(**more), "/run/worker.sock").env[VARIABLE])


def test_the_command_runs_vllms_server_with_the_environments_python_on_the_socket() -> None:
    command = build_command(make_plan(), "/run/worker.sock")
    assert command.argv[:4] == ("/environment/bin/python", "-P", "-m", "vllm.entrypoints.openai.api_server")
    given = flags(command.argv)
    assert given["--uds"] == "/run/worker.sock" and given["--served-model-name"] == "it"
    assert given["--model"] == "/models/it" and "--host" not in given and "--port" not in given
    assert "--trust-remote-code" not in given and command.env["HF_HUB_OFFLINE"] == "1"
    assert command.ready_path == "/_worker/ready"


def test_bitsandbytes_is_for_gpus() -> None:
    options = {"quantization": "bitsandbytes"}
    assert _built(options=options, accelerators=(0,))["--quantization"] == "bitsandbytes"
    with pytest.raises(BadRequest, match="CUDA and ROCm only") as refused:
        _built(options=options)
    assert refused.value.param == "quantization"


def test_options_become_arguments() -> None:
    options = {
        "max_model_len": 512,
        "dtype": "bfloat16",
        "gpu_memory_utilization": 0.5,
        "enable_prefix_caching": False,
        "enforce_eager": True,
        "limit_mm_per_prompt": {"image": 2},
        "max_num_queued_reqs": 9,
    }
    given = _built(options=options)
    assert given["--max-model-len"] == "512" and given["--dtype"] == "bfloat16"
    assert given["--gpu-memory-utilization"] == "0.5" and given["--max-num-queued-reqs"] == "9"
    assert "--no-enable-prefix-caching" in given and "--enforce-eager" in given
    assert json.loads(given["--limit-mm-per-prompt"]) == {"image": 2}
    plain = _built()
    assert not {"--max-model-len", "--enforce-eager", "--enable-prefix-caching", "--quantization"} & plain.keys()


def test_the_cache_is_bounded_on_the_cpu_and_vllms_on_devices() -> None:
    assert _built()["--kv-cache-memory-bytes"] == str(1 << 30)
    assert _built(options={"kv_cache_gb": 0.5})["--kv-cache-memory-bytes"] == str(1 << 29)
    assert "--kv-cache-memory-bytes" not in _built(accelerators=(0,))
    assert _built(accelerators=(0,), options={"kv_cache_gb": 2})["--kv-cache-memory-bytes"] == str(2 << 30)


@pytest.mark.parametrize(
    ("devices", "options", "tensor", "stages"),
    [(0, {}, "1", "1"), (4, {}, "4", "1"), (4, {"pipeline_parallel_size": 2}, "2", "2")],
)
def test_devices_share_the_model(devices: int, options: dict[str, Any], tensor: str, stages: str) -> None:
    given = _built(accelerators=tuple(range(devices)), options=options)
    assert (given["--tensor-parallel-size"], given["--pipeline-parallel-size"]) == (tensor, stages)


def test_devices_that_cannot_be_shared_so_are_refused_with_the_numbers() -> None:
    for options in ({"tensor_parallel_size": 3}, {"pipeline_parallel_size": 3}):
        with pytest.raises(BadRequest, match="the replica has 4") as caught:
            _built(accelerators=(0, 1, 2, 3), options=options)
        assert caught.value.param == "tensor_parallel_size"


@pytest.mark.parametrize(
    ("options", "config"),
    [
        ({"prompt_lookup": 3}, {"method": "ngram", "prompt_lookup_max": 3, "num_speculative_tokens": 4}),
        ({"draft_model": "/d", "draft_tokens": 2}, {"model": "/d", "num_speculative_tokens": 2}),
        ({"speculative_config": {"method": "eagle", "num_speculative_tokens": 7}}, {"num_speculative_tokens": 7}),
    ],
)
def test_tokens_are_drafted_as_the_launch_says(options: dict[str, Any], config: dict[str, Any]) -> None:
    given = _built(options=options)
    assert config.items() <= json.loads(given["--speculative-config"]).items()
    assert "--logits-processors" not in given and _settings(options=options).drafts
    assert "--logits-processors" in _built() and not _settings().drafts


def test_only_one_way_to_draft_can_be_given() -> None:
    with pytest.raises(ValidationError, match="only one of draft_model and prompt_lookup"):
        VllmOptions(draft_model="/d", prompt_lookup=2)


def test_adapters_are_loaded_under_names_that_no_model_has(tmp_path: Path) -> None:
    lora = tuple((name, str(write_adapter(tmp_path / name, rank=rank))) for name, rank in (("a", 4), ("b", 20)))
    argv = build_command(make_plan(lora=lora, accelerators=(0,)), "/s").argv
    assert _modules(argv) == {f"{LORA_PREFIX}a": lora[0][1], f"{LORA_PREFIX}b": lora[1][1]}
    assert flags(argv)["--max-lora-rank"] == "32" and flags(argv)["--max-loras"] == "2"
    assert _settings(lora=lora, accelerators=(0,)).lora == ("a", "b")


def _modules(argv: tuple[str, ...]) -> dict[str, str]:
    found = [json.loads(word) for word in argv if word.startswith('{"name":')]
    return {one["name"]: one["path"] for one in found}


def test_on_the_cpu_there_is_an_adapter_that_changes_nothing(tmp_path: Path) -> None:
    """vLLM's code for the CPU gives requests without an adapter the last one that is loaded."""
    lora = (("a", str(write_adapter(tmp_path / "a"))),)
    python = tmp_path / "envs" / "it" / "bin" / "python"
    plan = replace(make_plan(lora=lora), python=str(python))
    command = build_command(plan, "/s")
    null = Path(_modules(command.argv)[NULL_LORA])
    assert null.is_relative_to(tmp_path / "cache") and flags(command.argv)["--max-loras"] == "2"
    assert json.loads((null / "adapter_config.json").read_text())["target_modules"] == ["down_proj"]
    data = (null / "adapter_model.safetensors").read_bytes()
    size = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + size])
    (name,) = (key for key in header if ".lora_B." in key)
    assert header[name]["shape"][1] == 1 and not any(data[8 + size :])
    assert build_command(plan, "/s").argv == command.argv and Settings.load(command.env[VARIABLE]).null_lora


def test_ranks_are_read_from_adapters(tmp_path: Path) -> None:
    eight = write_adapter(tmp_path / "a", rank=8)
    assert lora_rank([str(eight)]) == 8
    config = json.loads((eight / "adapter_config.json").read_text())
    (eight / "adapter_config.json").write_text(json.dumps({**config, "rank_pattern": {"q_proj": 40}}))
    assert lora_rank([str(eight)]) == 64
    (eight / "adapter_config.json").write_text(json.dumps({"r": 1000}))
    with pytest.raises(LaunchFailed, match="rank 1000"):
        lora_rank([str(eight)])


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"r": "many"}'])
def test_what_is_no_adapter_is_told_of(tmp_path: Path, text: str) -> None:
    (tmp_path / "adapter_config.json").write_text(text)
    with pytest.raises(LaunchFailed, match="no LoRA adapter"):
        lora_rank([str(tmp_path)])


@pytest.mark.parametrize("data", [b"", b"\x05\0\0\0\0\0\0\0{", b"\x02\0\0\0\0\0\0\0{}"])
def test_adapters_without_matrices_are_told_of(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "adapter_config.json").write_text("{}")
    (tmp_path / "adapter_model.safetensors").write_bytes(data)
    with pytest.raises(LaunchFailed, match=r"adapter_model\.safetensors"):
        write_null_adapter(tmp_path, tmp_path / "cache")


def test_the_chat_template_is_the_launchs_the_familys_or_the_folders(tmp_path: Path) -> None:
    folder = str(write_template(tmp_path, "{{ 'folder' }}"))
    family = Family(name="it", model_type="LLM", chat_template="{{ 'family' }}")
    assert "'folder'" in _built(path=folder)["--chat-template"]
    assert "'family'" in _built(path=folder, family=family)["--chat-template"]
    given = {"chat_template": "{{ 'launch' }}"}
    assert "'launch'" in _built(path=folder, family=family, options=given)["--chat-template"]
    (tmp_path / "own.jinja").write_text("{{ 'file' }}")
    assert _settings(options={"chat_template": str(tmp_path / "own.jinja")}).template == "{{ 'file' }}"
    with pytest.raises(LaunchFailed, match="cannot be read"):
        _built(options={"chat_template": str(tmp_path / "none.jinja")})
    assert "--chat-template" not in _built(path=str(tmp_path / "no-folder"))


def test_templates_are_found_in_tokenizers_configurations(tmp_path: Path) -> None:
    config = tmp_path / "tokenizer_config.json"
    named = [{"name": "tool_use", "template": "b"}, {"name": "default", "template": "a"}]
    for value, found in (("a", "a"), (named, "a"), ([], None), (5, None)):
        config.write_text(json.dumps({"chat_template": value}))
        assert folder_template(tmp_path) == found
    config.write_text("[")
    assert folder_template(tmp_path) is None


def test_a_wrapped_template_passes_written_prompts_on_and_else_writes_them() -> None:
    from jinja2 import Environment

    template = Environment(autoescape=False).from_string(wrap_template("{{ messages[0].content }}!"))
    assert template.render(modelrack_prompt="<a> {{ b }}") == "<a> {{ b }}"
    assert template.render(messages=[{"content": "hi"}]) == "hi!"


def test_modelrack_reads_the_answers_unless_only_vllm_can() -> None:
    plan = make_plan()
    assert choose_readers(plan, CHAT_TEMPLATE).tools is None
    family = Family(name="it", model_type="LLM", tool_format="gpt-oss")
    native = choose_readers(make_plan(family=family), None)
    assert (native.tools, native.reasoning, native.writes_prompts) == ("openai", "openai_gptoss", True)
    named = choose_readers(make_plan(options={"tool_call_parser": "hermes", "reasoning_parser": "qwen3"}), None)
    assert (named.tools, named.reasoning) == ("hermes", "qwen3")
    given = _built(options={"tool_call_parser": "hermes"})
    assert given["--tool-call-parser"] == "hermes" and "--enable-auto-tool-choice" in given
    assert _settings(options={"tool_call_parser": "hermes"}).own_tools and not _settings().own_tools


def test_sleep_mode_opens_vllms_paths_for_it() -> None:
    assert build_command(make_plan(options={"enable_sleep_mode": True}), "/s").env["VLLM_SERVER_DEV_MODE"] == "1"
    assert "VLLM_SERVER_DEV_MODE" not in build_command(make_plan(), "/s").env


# Arguments that are no typed options

_KNOWN: dict[str, dict[str, Any]] = {
    "async_scheduling": {"flag": "--async-scheduling", "kind": "switch", "choices": [], "number": ""},
    "disable_log_stats": {"flag": "--disable-log-stats", "kind": "flag", "choices": [], "number": ""},
    "block_size": {"flag": "--block-size", "kind": "value", "choices": [], "number": "int"},
    "scheduling_policy": {
        "flag": "--scheduling-policy",
        "kind": "value",
        "choices": ["fcfs", "priority"],
        "number": "",
    },
    "cudagraph_capture_sizes": {
        "flag": "--cudagraph-capture-sizes",
        "kind": "list",
        "choices": [],
        "number": "int",
    },
    "compilation_config": {"flag": "--compilation-config", "kind": "value", "choices": [], "number": ""},
}


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"async_scheduling": True}, ["--async-scheduling"]),
        ({"async_scheduling": "false"}, ["--no-async-scheduling"]),
        ({"disable_log_stats": "true"}, ["--disable-log-stats"]),
        ({"disable_log_stats": False}, []),
        ({"block_size": 32}, ["--block-size=32"]),
        ({"block_size": "-5"}, ["--block-size=-5"]),
        ({"cudagraph_capture_sizes": [1, 2]}, ["--cudagraph-capture-sizes", "1", "2"]),
        ({"compilation_config": {"level": 0}}, ['--compilation-config={"level":0}']),
        ({"block_size": None}, []),
    ],
)
def test_further_arguments_are_written_as_vllm_reads_them(given: dict[str, Any], words: list[str]) -> None:
    assert list(render(_KNOWN, given)) == words


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ({"block_sise": 3}, "Did you mean 'block_size'"),
        ({"max_modellen": 3}, "Did you mean 'max_model_len'"),
        ({"block_size": "many"}, "a whole number, not 'many'"),
        ({"scheduling_policy": "fcsf"}, "one of fcfs, priority, not 'fcsf'. Did you mean 'fcfs'"),
        ({"async_scheduling": "perhaps"}, "is true or false"),
    ],
)
def test_further_arguments_that_vllm_does_not_take_are_refused_by_name(given: dict[str, Any], text: str) -> None:
    with pytest.raises(BadRequest) as caught:
        list(render(_KNOWN, given))
    assert text in caught.value.message and caught.value.param == next(iter(given))


def test_some_of_vllms_arguments_no_launch_may_give() -> None:
    for name in ("trust_remote_code", "uds", "middleware", "api_key", "lora_modules"):
        assert name in REFUSED
        with pytest.raises(BadRequest, match=f"'{name}' cannot be given") as caught:
            check_arguments("/none", {name: True})
        assert caught.value.param == name


def test_an_environment_without_vllm_is_told_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "bin").mkdir()
    python = tmp_path / "bin" / "python"
    python.write_text("#!/bin/sh\necho 'ModuleNotFoundError: vllm' >&2; exit 1\n")
    python.chmod(0o755)
    with pytest.raises(LaunchFailed, match="ModuleNotFoundError: vllm"):
        known_arguments(str(python))


def test_vllms_own_parser_is_asked_once(vllm_environment: str, tmp_path: Path) -> None:
    python = f"{vllm_environment}/bin/python"
    known = known_arguments(python)
    assert known["block_size"]["number"] == "int" and "async_scheduling" in known
    assert known_arguments(python) == known
    unknown = [name for name in REFUSED if name not in known and name != "model_tag"]
    assert not unknown, f"vLLM has no such arguments any more: {unknown}"
    same = {name.replace("--", "").replace("-", "_") for name in flags(build_command(make_plan(), "/s").argv)}
    assert same <= known.keys()
