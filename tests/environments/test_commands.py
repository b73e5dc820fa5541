"""`modelrack env`, as a user runs it; no server is there."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

PROGRAM = [sys.executable, "-m", "modelrack.cli", "env"]


@pytest.fixture
def variables(home: Path) -> dict[str, str]:
    return {**os.environ, "MODELRACK_HOME": str(home), "MODELRACK_PLUGINS": "echo", "COLUMNS": "120"}


def run(variables: Mapping[str, str], *arguments: str, code: int = 0) -> "subprocess.CompletedProcess[str]":
    done = subprocess.run(
        [*PROGRAM, *arguments],
        env=dict(variables),
        capture_output=True,
        text=True,
        timeout=100,
        stdin=subprocess.DEVNULL,
    )
    assert done.returncode == code, f"{arguments}: {done.returncode}\n{done.stdout}\n{done.stderr}"
    assert "Traceback" not in done.stderr
    return done


def run_json(variables: Mapping[str, str], *arguments: str, code: int = 0) -> Any:
    return json.loads(run(variables, *arguments, "--json", code=code).stdout)


def test_from_making_to_removing(variables: dict[str, str], home: Path, tmp_path: Path) -> None:
    assert run(variables, "list").stdout.splitlines()[0].split()[:2] == ["Name", "Engine"]
    assert run_json(variables, "check") == []
    plan = run_json(variables, "create", "echo", "--dry-run", "--requirement", "apple<2")
    assert plan["name"] is None and plan["download_bytes"] > 0 and plan["device"] == "cpu"
    assert {"name": "apple", "version": "1.0"} in plan["packages"]
    assert "to fetch, for Python 3." in run(variables, "create", "echo", "--dry-run").stdout
    name = run(variables, "create", "echo", "-r", "apple<2").stdout.strip()
    (row,) = run_json(variables, "list")
    assert row["name"] == name and row["engine"] == "echo" and row["folder"] == str(home / "envs" / name)
    assert run_json(variables, "create", "ECHO", "-r", "apple<2", "--upgrade")["name"] == name
    assert f"made already: {name}" in run(variables, "create", "echo", "-r", "apple<2", "--dry-run").stdout
    table = run(variables, "list").stdout.splitlines()
    assert table[2].split()[:3] == [name, "echo", "cpu"]
    assert run(variables, "check").stdout.splitlines()[2].split() == [name, "whole"]
    assert run_json(variables, "check", "echo", "--full") == [{"name": name, "faults": []}]
    file = tmp_path / "echo.tar"
    exported = run_json(variables, "export", "echo", str(file))
    assert exported == {"name": name, "file": str(file), "size_bytes": file.stat().st_size}
    assert run(variables, "export", "echo", str(tmp_path / "again.tar")).stdout == ""
    assert run_json(variables, "remove", "echo") == {"name": name, "removed": True}
    assert run_json(variables, "list") == []
    assert run(variables, "import", str(tmp_path / "echo.tar")).stdout.strip() == name
    run(variables, "remove", name, "--keep-cache")
    assert list((home / "envs" / ".index").iterdir()) == []


def test_a_damaged_one_is_told(variables: dict[str, str], home: Path) -> None:
    name = run(variables, "create", "echo", "-r", "apple").stdout.strip()
    next((home / "envs" / name).glob("lib/*/site-packages/apple/data.bin")).unlink()
    done = run(variables, "check", code=1)
    assert "apple: 1 file is gone: apple/data.bin" in done.stdout and f"modelrack env remove {name}" in done.stderr
    ((found,),) = [[item["faults"] for item in run_json(variables, "check", name, code=1)]]
    assert found == ["apple: 1 file is gone: apple/data.bin"]
    (home / "envs" / name / "environment.json").unlink()
    done = run(variables, "list")
    assert name not in done.stdout and f"{name} is not complete" in done.stderr
    assert "never used" in run(variables, "check", code=1).stdout
    run(variables, "remove", name)
    assert not (home / "envs" / name).exists()


def test_several_of_one_engine_are_told_apart(variables: dict[str, str], home: Path, tmp_path: Path) -> None:
    """And one that is damaged does not keep the others from being checked."""
    names = sorted(run(variables, "create", "echo", "-r", text).stdout.strip() for text in ("apple<2", "apple>=2"))
    for arguments in (("check", "echo"), ("remove", "ECHO"), ("export", "echo", str(tmp_path / "echo.tar"))):
        done = run(variables, *arguments, code=1)
        assert f"There are several environments of engine '{arguments[1]}'" in done.stderr
        assert ", ".join(names) in done.stderr
    next((home / "envs" / names[0]).glob("lib/*/site-packages/apple-*.dist-info/METADATA")).unlink()
    found = run_json(variables, "check", code=1)
    assert found == [{"name": names[0], "faults": ["apple: its METADATA is gone"]}, {"name": names[1], "faults": []}]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("create", "nothing"), "There is no engine 'nothing'; with an environment of their own there is: echo"),
        (("create", "echo", "--device", "abacus"), "There is no kind of device 'abacus'"),
        (("create", "echo", "-r", "a >> b"), "'a >> b' is no requirement"),
        (("create", "echo", "-r", "no-such-thing"), "no-such-thing was not found"),
        (("check", "nothing"), "The environment 'nothing' does not exist; there is: none."),
        (("remove", "nothing"), "The environment 'nothing' does not exist"),
        (("export", "nothing", "x.tar"), "The environment 'nothing' does not exist"),
        (("import", "missing.tar"), "missing.tar cannot be read: No such file or directory"),
    ],
)
def test_errors_are_told_in_a_sentence(variables: dict[str, str], arguments: tuple[str, ...], message: str) -> None:
    done = run(variables, *arguments, code=1)
    assert done.stdout == "" and done.stderr.startswith("Error: ") and message in done.stderr


def test_every_command_has_help_with_examples(variables: dict[str, str]) -> None:
    for command in ((), ("list",), ("create",), ("check",), ("export",), ("import",), ("remove",)):
        text = run(variables, *command, "--help").stdout
        assert "Examples:" in text and "modelrack env" in text


def test_ctrl_c_ends_it_cleanly(variables: dict[str, str], home: Path, tmp_path: Path, wheels: Path) -> None:
    from .wheels import SLOW_BACKEND, make_sdist

    make_sdist(tmp_path / "more", "snail", SLOW_BACKEND)
    place = tmp_path / "place"
    place.mkdir()
    settings = {"PIP_FIND_LINKS": f"{wheels} {tmp_path / 'more'}", "TEST_PLACE": str(place)}
    process = subprocess.Popen(
        [*PROGRAM, "create", "echo", "-r", "snail"], env={**variables, **settings}, stderr=subprocess.PIPE, text=True
    )
    end = time.monotonic() + 60
    while not list(place.glob("started-*")):
        assert time.monotonic() < end and process.poll() is None
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130 and errors.strip() == "Aborted."
    assert {path.name for path in (home / "envs").iterdir()} == {".locks"}
