"""What the server and the command line tell of the engine, where it is installed and where it is not."""

import importlib.util
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from modelrack.hooks.loader import load_plugins
from modelrack.testing.serving import Server, start_server

NAME = "llama-cpp-python"
HAS_ENGINE = importlib.util.find_spec("llama_cpp") is not None
with_engine = pytest.mark.skipif(not HAS_ENGINE, reason="llama-cpp-python is not installed here: make test-engines")
without_engine = pytest.mark.skipif(HAS_ENGINE, reason="llama-cpp-python is installed here")
ALONE = "demo,llm_gguf"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Run a server that has this engine for GGUF files, and no other."""
    with start_server(tmp_path_factory.mktemp("home"), MODELRACK_PLUGINS=ALONE) as running:
        yield running


def command(server: Server, *arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "modelrack.cli", *arguments],
        env={**server.environment, "MODELRACK_PLUGINS": ALONE, "COLUMNS": "160"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=90,
    )


def launch(server: Server, engine: str) -> httpx.Response:
    body = {"model_name": "demo-chat", "model_engine": engine, "n_ctx": 512}
    return httpx.post(f"{server.url}/v1/models", params={"wait_ready": True}, json=body, timeout=90)


def test_the_description_needs_no_engine() -> None:
    """It is loaded by every server, which must not pay for an engine that it may never start."""
    code = (
        "import sys, modelrack_llm_gguf.plugin as plugin; plugin.register_engines()\n"
        "print([name for name in ('llama_cpp', 'llguidance', 'numpy') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout == "[]\n", done.stdout + done.stderr


def test_the_name_of_the_other_engine_is_an_alias() -> None:
    """Commands written for one of them go on where only the other is installed."""
    both = load_plugins("llm_gguf,llm_xllamacpp")
    assert (engine := both.find_engine("llama.cpp")) and engine.name == "llama.cpp"
    assert both.owner("engine", engine.name) == "llm_xllamacpp"
    alone = load_plugins("llm_gguf")
    assert (engine := alone.find_engine("llama.cpp")) and engine.name == NAME
    assert (engine := both.find_engine(NAME.upper())) and engine.name == NAME


def test_the_wheel_goes_first_where_both_are_installed() -> None:
    both = load_plugins("llm_gguf,llm_xllamacpp").engines
    wheel, own = both["llama.cpp"].rank, both[NAME].rank
    assert isinstance(wheel, int) and isinstance(own, int) and wheel > own


@with_engine
@pytest.mark.parametrize("engine", [NAME, "llama.cpp"])
def test_its_options_are_shown(server: Server, engine: str) -> None:
    """By name and by alias."""
    done = command(server, "engine", "-n", "demo-chat", "-en", engine)
    assert done.returncode == 0, done.stderr
    assert f"Options of {NAME}" in done.stdout
    fields = load_plugins("llm_gguf").engines[NAME].options_for("LLM").model_fields
    assert [name for name in fields if f"--{name.replace('_', '-')} " not in done.stdout] == []
    assert all(field.description for field in fields.values())
    shown: dict[str, Any] = json.loads(command(server, "engine", "-n", "demo-chat", "--json").stdout)
    assert shown["options"][NAME]["properties"].keys() == fields.keys()


@with_engine
def test_it_is_launched_by_its_alias(server: Server) -> None:
    answer = launch(server, "llama.cpp")
    assert answer.status_code == 200, answer.text
    described = httpx.get(f"{server.url}/v1/models/demo-chat").json()
    assert described["model_engine"] == NAME
    question = {"role": "user", "content": "What is the largest animal?"}
    body = {"model": "demo-chat", "messages": [question], "temperature": 0, "max_tokens": 64}
    said = httpx.post(f"{server.url}/v1/chat/completions", json=body, timeout=60).json()
    assert "blue whale" in said["choices"][0]["message"]["content"]
    httpx.delete(f"{server.url}/v1/models/demo-chat", timeout=60).raise_for_status()


@with_engine
def test_a_wrong_option_is_refused_by_its_name(server: Server) -> None:
    body = {"model_name": "demo-chat", "model_engine": NAME, "n_cxt": 512}
    answer = httpx.post(f"{server.url}/v1/models", json=body, timeout=60)
    assert answer.status_code == 400
    assert "'n_ctx'" in answer.json()["error"]["message"]


@without_engine
@pytest.mark.parametrize("engine", [NAME, "llama.cpp"])
def test_a_launch_without_llama_cpp_is_refused_with_the_remedy(server: Server, engine: str) -> None:
    answer = launch(server, engine)
    assert answer.status_code == 400, answer.text
    error = answer.json()["error"]
    assert f"Engine '{NAME}' is not installed here: llama_cpp" in error["message"]
    assert error["param"] == "model_engine"
    assert error["remedy"].startswith("pip install modelrack-llm-gguf")
    done = command(server, "launch", "--model-name", "demo-chat", "--model-engine", engine)
    assert done.returncode == 1
    assert "llama_cpp" in done.stderr and "pip install modelrack-llm-gguf" in done.stderr


@without_engine
def test_what_is_missing_is_shown_before_a_launch(server: Server) -> None:
    shown = command(server, "engine", "-n", "demo-chat").stdout
    assert re.search(rf"^{NAME} +not installed \(.*llama_cpp.*pip install modelrack-llm-gguf", shown, re.MULTILINE)
    listed = command(server, "plugins").stdout
    assert f"llm_gguf: Engine '{NAME}' is not installed here: llama_cpp" in listed
    assert "pip install modelrack-llm-gguf" in listed


def test_the_page_names_every_way_to_build_it() -> None:
    page = (Path(__file__).parents[1] / "README.md").read_text()
    for flag in ("GGML_CUDA", "GGML_METAL", "GGML_VULKAN", "GGML_HIP", "GGML_BLAS", "GGML_NATIVE"):
        assert f"-D{flag}=" in page
