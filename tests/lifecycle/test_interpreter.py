"""What another environment's Python is given, and what it is not."""

import sys
from pathlib import Path

import pytest

from modelrack.hooks import CommandWorker, Family, LoadPlan, ModelFiles, OutputFormat, PythonWorker, Route, Variant
from modelrack.lifecycle.interpreter import SERVER, Interpreter, needed_modules

ENV = {"PATH": "/bin", "PYTHONPATH": "/ours", "PYTHONHOME": "/ours", "VIRTUAL_ENV": "/ours", "HOME": "/home/me"}


def test_the_servers_own_python_sees_what_the_server_sees(tmp_path: Path) -> None:
    assert SERVER.is_server and SERVER.python == sys.executable
    assert SERVER.variables(ENV, tmp_path) == ENV


@pytest.mark.parametrize("is_venv", [True, False])
def test_another_python_sees_its_own_packages_and_the_library(tmp_path: Path, is_venv: bool) -> None:
    (tmp_path / "bin").mkdir()
    if is_venv:
        (tmp_path / "pyvenv.cfg").touch()
    python = Interpreter("e-1", str(tmp_path / "bin" / "python"))
    wanted = {"PATH": f"{tmp_path}/bin:/bin", "PYTHONPATH": f"{tmp_path}/lib", "HOME": "/home/me"}
    if is_venv:
        wanted["VIRTUAL_ENV"] = str(tmp_path)
    assert python.variables(ENV, tmp_path / "lib") == wanted
    assert not python.is_server


def test_a_worker_needs_its_plugin_and_what_its_plan_names() -> None:
    plan = LoadPlan(
        model_uid="m",
        family=Family(name="f", model_type="LLM"),
        variant=Variant(format="x"),
        quantization="none",
        files=ModelFiles(path="", format="x"),
        output_formats=(OutputFormat(name="o", kind="tools", parser="formats.o:O"),),
    )
    routes = (Route(path="/v1/x", ability="x", request="types.api:Ask", response="types.api:Answer"),)
    worker = PythonWorker(loader="own.worker:Loader")
    assert list(needed_modules(worker, "own.plugin", plan, routes)) == [
        *("own.plugin", "own.worker:Loader", "formats.o:O", "types.api:Ask", "types.api:Answer")
    ]
    command = CommandWorker(build=lambda plan, socket: None, routes=())  # type: ignore[arg-type, return-value]  # never called
    assert list(needed_modules(command, "own.plugin", plan, routes)) == ["own.plugin"]
