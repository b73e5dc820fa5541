"""A broken plugin costs only itself: a row with the reason and the remedy, and the server serves all the rest."""

import json
import subprocess
from pathlib import Path
from typing import Any

import httpx
import pytest

from modelrack.testing.serving import Server, clean_environment, start_server
from virtualenvs import Environment, make_environment

ENGINE = """
from modelrack.hooks import Engine, Family, PythonWorker, Source, Variant, hookimpl
def engine(name):
    return Engine(name=name, model_types=("LLM",), worker=PythonWorker(loader="m:L"), accepts=lambda c, m: "no")
"""

# Plugins load in the order of their names, and what comes first keeps a name; so these two come after `echo`.
# For each: the module, what the reason says, and whether anything of the plugin is in use.
BROKEN = {
    "no_import": ("import a_module_that_is_nowhere", "a_module_that_is_nowhere", "failed"),
    "wrong_syntax": ("def register_engines(:", "SyntaxError", "failed"),
    "exits": ("raise SystemExit(3)", "SystemExit", "failed"),
    "misspelt": (f"{ENGINE}\n@hookimpl\ndef register_engine():\n    return []", "register_engines", "failed"),
    "extra_argument": (f"{ENGINE}\n@hookimpl\ndef register_engines(app):\n    return []", "app", "failed"),
    "raises": (f"{ENGINE}\n@hookimpl\ndef register_families():\n    raise ZeroDivisionError('oh')", "oh", "failed"),
    "no_list": (f"{ENGINE}\n@hookimpl\ndef register_engines():\n    return engine('x')", "list", "failed"),
    "wrong_value": (f"{ENGINE}\n@hookimpl\ndef register_engines():\n    return ['x']", "str", "failed"),
    "with_duplicate": (
        f"{ENGINE}\n@hookimpl\ndef register_engines():\n    return [engine('ECHO'), engine('own')]",
        "echo",
        "partial",
    ),
    "wrong_api": (f"{ENGINE}\nMODELRACK_API = 99", "99", "failed"),
    "with_contradiction": (
        f"{ENGINE}\n@hookimpl\ndef register_families():\n"
        "    return [Family(name='echo', model_type='LLM', context_length=3, variants=(Variant(format='x'),))]",
        "echo",
        "partial",
    ),
}

# A plugin that is sound, but the package that its engine runs on is not here.
WITHOUT_ENGINE = f"""{ENGINE}
@hookimpl
def register_engines():
    engine = Engine(
        name="absent",
        model_types=("LLM",),
        worker=PythonWorker(loader="m:L"),
        accepts=lambda c, m: None,
        aliases=("away",),
        requires=("a_package_that_is_nowhere",),
        remedy="pip install a-package",
    )
    return [engine]
"""


def install(environment: Environment, name: str, code: str) -> None:
    """Install one module as a plugin, with the metadata that pip would write."""
    packages = next(environment.folder.glob("lib/python*/site-packages"))
    (packages / f"broken_{name}.py").write_text(code)
    info = packages / f"modelrack_{name}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: modelrack-{name.replace('_', '-')}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[modelrack]\n{name} = broken_{name}\n")


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Environment:
    environment = make_environment(tmp_path_factory.mktemp("environment") / "venv")
    for name, (code, _, _) in BROKEN.items():
        install(environment, name, code)
    install(environment, "without_engine", WITHOUT_ENGINE)
    return environment


@pytest.fixture(scope="module")
def rows(environment: Environment) -> dict[str, dict[str, Any]]:
    """Return what `modelrack plugins --json` prints, by name."""
    done = subprocess.run(
        [environment.bin / "modelrack", "plugins", "--json"],
        env=clean_environment(),
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return {row["name"]: row for row in json.loads(done.stdout)}


@pytest.mark.parametrize("name", [name for name in BROKEN if name != "with_contradiction"])
def test_the_row_has_reason_and_remedy(rows: dict[str, dict[str, Any]], name: str) -> None:
    _, reason, state = BROKEN[name]
    row = rows[name]
    assert row["state"] == state
    assert reason.lower() in row["failure"].lower()
    assert row["remedy"]
    assert (row["distribution"], row["version"]) == (f"modelrack-{name.replace('_', '-')}", "1.0")


def test_what_is_good_of_a_plugin_stays(rows: dict[str, dict[str, Any]]) -> None:
    assert rows["with_duplicate"]["engines"] == ["own"]


def test_the_others_are_whole(rows: dict[str, dict[str, Any]]) -> None:
    assert {name: row["failure"] for name, row in rows.items() if name not in BROKEN and row["failure"]} == {}
    assert "echo" in rows["echo"]["engines"]


def test_the_table_shows_them_too(environment: Environment) -> None:
    done = subprocess.run(
        [environment.bin / "modelrack", "plugins"], env=clean_environment(), capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert "a_module_that_is_nowhere" in done.stdout and "register_engines" in done.stdout


def test_a_missing_package_of_an_engine_is_told_with_its_remedy(
    environment: Environment, rows: dict[str, dict[str, Any]]
) -> None:
    row = rows["without_engine"]
    assert (row["state"], row["failure"]) == ("loaded", None)
    assert "a_package_that_is_nowhere cannot be found" in row["missing"]["absent"]["reason"]
    assert row["missing"]["absent"]["remedy"] == "pip install a-package"
    assert rows["echo"]["missing"] == {}
    done = subprocess.run(
        [environment.bin / "modelrack", "plugins"], env=clean_environment(), capture_output=True, text=True, timeout=60
    )
    assert "without_engine: Engine 'absent' is not installed here" in done.stdout
    assert "  pip install a-package" in done.stdout


def test_the_server_serves_all_the_same(environment: Environment, tmp_path: Path) -> None:
    server: Server
    with start_server(tmp_path, executable=environment.python) as server:
        with httpx.Client(base_url=server.url, timeout=60) as api:
            body = {"model_name": "echo", "model_engine": "echo"}
            launched = api.post("/v1/models", params={"wait_ready": True}, json=body)
            assert launched.status_code == 200, launched.text
            refused = api.post("/v1/models", json={"model_name": "echo", "model_engine": "away"})
            assert refused.status_code == 400, refused.text
            error = refused.json()["error"]
            assert "Engine 'absent' is not installed here: a_package_that_is_nowhere" in error["message"]
            assert error["remedy"] == "pip install a-package" and error["param"] == "model_engine"
            done = subprocess.run(
                [environment.bin / "modelrack", "engine", "-n", "echo", "-en", "AWAY", "--json"],
                env=server.environment,
                capture_output=True,
                text=True,
                timeout=60,
            )
            assert "pip install a-package" in json.loads(done.stdout)["engines"]["absent"]
            message = {"role": "user", "content": "one two three"}
            answer = api.post("/v1/chat/completions", json={"model": "echo", "messages": [message]})
            assert "one two three" in answer.json()["choices"][0]["message"]["content"]
        assert "no_import" in server.output and "was left out" in server.output
        # Facts that contradict each other are found when the catalog merges what all have brought.
        assert "with_contradiction" in server.output
