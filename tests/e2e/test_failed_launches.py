"""A launch that fails tells why and what to do, by REST and by the command line alike."""

import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from modelrack.testing.serving import Server, start_server
from modelrack_demo.plugin import MODELS

GHOST = """
from modelrack.hooks import Engine, Family, PythonWorker, Variant, hookimpl

@hookimpl
def register_engines():
    return [Engine(
        name="ghost", model_types=("LLM",), worker=PythonWorker(loader="nothing:Nothing"), accepts=lambda c, m: None,
        requires=("no_such_engine_library",), remedy="pip install modelrack-ghost[engine]",
    )]

@hookimpl
def register_families():
    return [Family(name="ghost-model", model_type="LLM", abilities=("chat",), variants=(Variant(format="ghost"),))]
"""


@dataclass(frozen=True)
class Case:
    """A launch that cannot work.

    Args:
        status: of the REST answer.
        reason, remedy: what must be said; a remedy may stand in the reason.
    """

    request: dict[str, Any]
    status: int
    reason: str
    remedy: str = ""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Run a server that has an engine whose library is not installed."""
    site = tmp_path_factory.mktemp("site")
    (site / "ghost_plugin.py").write_text(GHOST)
    info = site / "modelrack_ghost-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: modelrack-ghost\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[modelrack]\nghost = ghost_plugin\n")
    home = tmp_path_factory.mktemp("home")
    with start_server(home, PYTHONPATH=str(site), HF_HUB_OFFLINE="1") as running:
        yield running


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Lay down files that are no models, in several ways."""
    folder = tmp_path_factory.mktemp("files")
    whole = (MODELS / "demo-chat" / "demo-chat-q8_0.gguf").read_bytes()
    (folder / "cut.gguf").write_bytes(whole[: len(whole) // 2])
    (folder / "text.gguf").write_text("This is a poem about whales.\n" * 100)
    (folder / "empty.gguf").touch()
    (folder / "strange.gguf").write_bytes(whole.replace(b"llama", b"zebra"))
    return folder


CASES = {
    "missing file": Case({"model_name": "{files}/nothing.gguf"}, 400, "nothing.gguf"),
    "missing path": Case({"model_name": "demo-chat", "model_path": "/nowhere/at/all"}, 400, "/nowhere/at/all"),
    "cut file": Case({"model_name": "{files}/cut.gguf"}, 400, "cut off", "Download or copy it again"),
    "text file": Case({"model_name": "{files}/text.gguf"}, 400, "text.gguf"),
    "empty file": Case({"model_name": "{files}/empty.gguf"}, 400, "empty.gguf"),
    "unknown architecture": Case({"model_name": "{files}/strange.gguf"}, 500, "zebra"),
    "unknown option": Case(
        {"model_name": "demo-chat", "n_ctxx": 9}, 400, "no option 'n_ctxx'", "Did you mean 'n_ctx'?"
    ),
    "bad option": Case({"model_name": "demo-chat", "n_ctx": "many"}, 400, "'n_ctx'"),
    "unknown engine": Case({"model_name": "demo-chat", "model_engine": "lama.cpp"}, 400, "Did you mean 'llama.cpp'"),
    "engine not installed": Case(
        {"model_name": "ghost-model", "model_engine": "ghost"},
        400,
        "no_such_engine_library",
        "pip install modelrack-ghost[engine]",
    ),
    "no engine installed": Case(
        {"model_name": "ghost-model"}, 400, "ghost: not installed", "pip install modelrack-ghost"
    ),
    "unknown model": Case({"model_name": "demo-cat"}, 404, "Did you mean 'demo-chat'", "modelrack registrations"),
    "unknown type": Case({"model_name": "demo-chat", "model_type": "llm"}, 400, "LLM"),
    "unknown quantization": Case({"model_name": "demo-chat", "quantization": "Q9"}, 400, "Q8_0"),
    "not downloaded, offline": Case({"model_name": "qwen2.5-instruct", "model_format": "gguf"}, 500, "HF_HUB_OFFLINE"),
}


def filled(case: Case, files: Path) -> dict[str, Any]:
    return {key: value.format(files=files) if isinstance(value, str) else value for key, value in case.request.items()}


@pytest.mark.parametrize("name", CASES)
def test_by_rest(server: Server, files: Path, name: str) -> None:
    case = CASES[name]
    with httpx.Client(base_url=server.url, timeout=60) as api:
        response = api.post("/v1/models", json=filled(case, files))
        body = response.json()
        assert response.status_code == case.status, body
        assert case.reason in body["error"]["message"] and case.remedy in body["error"]["message"]
        assert body["detail"] == body["error"]["message"]
        assert api.get("/v1/models").json()["data"] == []


@pytest.mark.parametrize("name", CASES)
def test_by_command_line(server: Server, files: Path, name: str) -> None:
    case = CASES[name]
    arguments = []
    for key, value in filled(case, files).items():
        arguments += [f"--{key.replace('_', '-')}", str(value)]
    done = subprocess.run(
        [sys.executable, "-m", "modelrack.cli", "launch", *arguments],
        env=server.environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 1, done
    assert done.stderr.startswith("Error: ") and "Traceback" not in done.stderr
    assert case.remedy in done.stderr
    assert case.reason in done.stderr or "There is no file" in done.stderr
