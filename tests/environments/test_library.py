"""A worker in another environment sees modelrack and its plugin, and has all that they import."""

import json
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement

import modelrack
from modelrack.environments import WORKER_REQUIREMENTS, EnvironmentFailed, Environments, check_interpreter, link_library
from modelrack.errors import BadRequest

from .engines import make_engine

ROOT = Path(__file__).resolve().parents[2]
IMPORT_ALL = """
import importlib, json, pkgutil, sys
import modelrack.worker, modelrack.llm, modelrack.hooks, modelrack_echo.worker, single
failed = {}
for package in (modelrack.worker, modelrack.llm, modelrack.hooks):
    for found in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
        if found.name in ("modelrack.hooks.loader",) or found.name.endswith("__main__"):
            continue
        try:
            importlib.import_module(found.name)
        except ImportError as error:
            failed[found.name] = str(error)
print(json.dumps([failed, modelrack.__file__, single.VALUE, sys.path[0]]))
"""


async def test_what_the_worker_half_imports_is_in_every_environment(
    environments: Environments, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "single.py").write_text("VALUE = 7\n")
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    folder = link_library(tmp_path / "run" / "lib", ["modelrack_echo.plugin", "single", "modelrack.llm:Thing"])
    assert sorted(path.name for path in folder.iterdir()) == ["modelrack", "modelrack_echo", "single.py"]
    assert link_library(folder, ["modelrack_echo.worker:EchoLoader"]) == folder, "links are replaced"
    built = await environments.ensure(make_engine())
    done = subprocess.run(
        [built.python, "-P", "-c", IMPORT_ALL],
        env={"PYTHONPATH": str(folder)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    failed, file, value, first = json.loads(done.stdout)
    assert failed == {} and value == 7 and first == str(folder)
    assert Path(file).resolve() == Path(str(modelrack.__file__)).resolve()


def test_the_versions_are_those_that_the_core_asks_for() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = {Requirement(text).name: text for text in project["dependencies"]}
    assert [wanted[Requirement(text).name] for text in WORKER_REQUIREMENTS] == list(WORKER_REQUIREMENTS)


def test_packages_that_cannot_be_linked_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with zipfile.ZipFile(tmp_path / "zipped.zip", "w") as archive:
        archive.writestr("zipped.py", "")
    monkeypatch.syspath_prepend(str(tmp_path / "zipped.zip"))
    for module in ("zipped", "nowhere.plugin", "sys"):
        with pytest.raises(EnvironmentFailed, match=f"The package '{module.partition('.')[0]}' of a plugin"):
            link_library(tmp_path / "lib", [module])


PROGRAMS = (
    ("python3.10", """echo '["3.10.1", [], {}]'"""),
    ("python3.12", "echo 12"),
    ("python3.13", """echo '["x", [], {}]'"""),
    ("python3.99", "sleep 60; true"),
    ("program", "true"),
)


async def test_environments_of_others_are_looked_at(
    environments: Environments, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    built = await environments.ensure(make_engine("apple"))
    assert await check_interpreter(built.folder, ("apple", "json")) == built.python
    assert await check_interpreter(Path(built.python), ("core_of_apple",)) == built.python
    with pytest.raises(BadRequest, match="lacks pear, no_such_thing") as caught:
        await check_interpreter(built.folder, ("apple", "pear", "no_such_thing", "no.dots"))
    assert caught.value.param == "environment"
    bare = tmp_path / "bare"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(bare)], check=True)
    with pytest.raises(BadRequest, match="lacks httptools, jinja2, orjson") as caught:
        await check_interpreter(bare, ())
    assert '"pydantic>=2.10"' in str(caught.value.remedy)
    (tmp_path / "python3").write_text("")
    (tmp_path / "python3.0").symlink_to("/bin/true")
    for name, text in PROGRAMS:
        (tmp_path / name).write_text(f"#!/bin/sh\n{text}\n")
        (tmp_path / name).chmod(0o755)
    with pytest.raises(BadRequest, match=r"is Python 3\.10; workers need 3\.11"):
        await check_interpreter(tmp_path / "python3.10", ())
    for path, message in (
        (tmp_path, "There is no interpreter at"),
        (tmp_path / "nothing", "There is no interpreter at"),
        (tmp_path / ("x" * 5000), "There is no interpreter at"),
        (tmp_path / "program", "There is no interpreter at"),
        (tmp_path / "python3", "cannot be used: it cannot be started: Permission denied"),
        (tmp_path / "python3.0", "cannot be used: it does not run: exit code 0"),
        (tmp_path / "python3.12", "cannot be used: it does not say what it is"),
        (tmp_path / "python3.13", "cannot be used: it does not say what it is"),
    ):
        with pytest.raises(BadRequest, match=message):
            await check_interpreter(path, ())
    monkeypatch.setattr("modelrack.environments.interpreter._RUN_S", 0.2)
    with pytest.raises(BadRequest, match=r"did not answer within 0\.2 s"):
        await check_interpreter(tmp_path / "python3.99", ())


async def test_versions_in_environments_of_others_are_compared(environments: Environments) -> None:
    """Only whether modules are there was looked at: a wrong version was found out when the worker had started."""
    built = await environments.ensure(make_engine("apple<2"))
    fine = ("apple>=1", "core-of-apple==1.5", "apple>=3; python_version < '3'", "pear>=9", "Apple[more]!=2")
    assert await check_interpreter(built.folder, ("apple",), fine) == built.python
    with pytest.raises(
        BadRequest, match=r"has apple 1\.0, and apple>=2 is required, core_of.apple 1\.5, and"
    ) as caught:
        await check_interpreter(built.folder, ("apple",), ("apple>=2", "core_of.apple<1,>0.5", "pear>=9"))
    assert caught.value.param == "environment"
    assert caught.value.remedy == 'Install what will do into it: "apple>=2" "core_of.apple<1,>0.5"'
