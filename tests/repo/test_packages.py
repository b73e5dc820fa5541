"""The wheels hold what their folders hold, and names follow the one rule."""

import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
PLUGINS = sorted(path.parent for path in ROOT.glob("plugins/*/pyproject.toml"))
# Settings of tools lie beside the code and are not part of it.
NOT_SHIPPED = {"ruff.toml"}


def project(folder: Path) -> dict[str, Any]:
    """Read a project's pyproject.toml."""
    return tomllib.loads((folder / "pyproject.toml").read_text())


def build_wheel(folder: Path, parts: list[str], out: Path) -> set[str]:
    """Build the wheel from a copy (a left-over `build` folder would hide what is missing) and return its file names."""
    source = out / "source"
    source.mkdir(parents=True)
    for part in parts:
        if (folder / part).is_dir():
            shutil.copytree(
                folder / part, source / part, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info", "build")
            )
        else:
            shutil.copy(folder / part, source / part)
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(out), str(source)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stdout + done.stderr
    (wheel,) = out.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


def shipped(folder: Path, name: str) -> set[str]:
    """List the files of a package's folder as the wheel must name them."""
    hidden = re.compile(r"^(__pycache__|\..*)$")
    files = {
        path
        for path in folder.rglob("*")
        if path.is_file() and not any(map(hidden.match, path.relative_to(folder).parts))
    }
    return {f"{name}/{path.relative_to(folder).as_posix()}" for path in files if path.name not in NOT_SHIPPED}


def licensed(names: set[str]) -> bool:
    return any(re.search(r"\.dist-info/(licenses/)?LICENSE$", name) for name in names)


def test_the_core_wheel_holds_every_file_of_core(tmp_path: Path) -> None:
    """The list of packages is explicit, and a new folder is easily forgotten in it."""
    names = build_wheel(ROOT, ["pyproject.toml", "README.md", "LICENSE", "core"], tmp_path)
    assert shipped(ROOT / "core", "modelrack") - names == set()
    assert "modelrack/py.typed" in names
    assert licensed(names)
    assert {name.split("/")[0] for name in names if ".dist-info" not in name} == {"modelrack"}


@pytest.mark.parametrize("folder", PLUGINS, ids=lambda folder: folder.name)
def test_a_plugin_wheel_holds_every_file_of_its_package(folder: Path, tmp_path: Path) -> None:
    package = f"modelrack_{folder.name}"
    parts = [path.name for path in folder.iterdir() if not path.name.startswith(".") and path.name != "build"]
    names = build_wheel(folder, parts, tmp_path)
    assert shipped(folder / package, package) - names == set()
    assert {name.split("/")[0] for name in names if ".dist-info" not in name} == {package}


@pytest.mark.parametrize("folder", PLUGINS, ids=lambda folder: folder.name)
def test_a_plugin_keeps_the_rule_of_names(folder: Path) -> None:
    facts = project(folder)["project"]
    assert facts["name"] == f"modelrack-{folder.name.replace('_', '-')}"
    assert facts["license"] == "Apache-2.0"
    assert facts["requires-python"] == project(ROOT)["project"]["requires-python"]
    assert list(facts["entry-points"]["modelrack"]) == [folder.name]
    assert facts["entry-points"]["modelrack"][folder.name].startswith(f"modelrack_{folder.name}")
    assert any(re.match(r"modelrack\b(?!-)", requirement) for requirement in facts["dependencies"])


@pytest.mark.parametrize("folder", PLUGINS, ids=lambda folder: folder.name)
def test_a_plugin_has_its_pages_and_tests(folder: Path) -> None:
    for page in ("README.md", "CHANGELOG.md"):
        assert (folder / page).read_text().startswith("# "), f"{folder.name}/{page} has no title"
    assert list(folder.glob("tests/test_*.py")), f"{folder.name} has no tests"


def test_versions_go_together() -> None:
    """The core and the plugins of this repository are released as one."""
    versions = {folder.name: project(folder)["project"]["version"] for folder in [ROOT, *PLUGINS]}
    assert len(set(versions.values())) == 1, versions
