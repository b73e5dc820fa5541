"""What `make` and `.ci/run` do: heavy plugins come without their dependencies, and are tested where they have them."""

import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PROJECTS = sorted(ROOT.glob("plugins/*/pyproject.toml"))


def heavy() -> list[str]:
    """Name the plugins that say of themselves that they are heavy."""
    declared = {path.parent.name: tomllib.loads(path.read_text()).get("tool", {}) for path in PROJECTS}
    return [name for name, tools in declared.items() if tools.get("modelrack", {}).get("heavy")]


def commands(folder: Path, *goals: str) -> list[str]:
    """Return the commands that make would run for these goals in a folder where nothing has been made yet."""
    for path in [ROOT / "Makefile", ROOT / "pyproject.toml", ROOT / "constraints.txt", *PROJECTS]:
        target = folder / path.relative_to(ROOT)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, target)
    command = ["make", "--no-print-directory", "-n", f"PYTHON={sys.executable}", *goals]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout.replace("\\\n", " ").splitlines()


def test_setup_compiles_nothing(tmp_path: Path) -> None:
    """llama-cpp-python may take a quarter of an hour, which nobody should wait for to run the core's tests."""
    installs = [line for line in commands(tmp_path, "setup", "test") if " install " in line]
    assert heavy()
    for name in heavy():
        mine = [line for line in installs if f"-e ./plugins/{name}" in line]
        assert mine and all("--no-deps" in line for line in mine), (name, mine)
    light = [path.parent.name for path in PROJECTS if path.parent.name not in heavy()]
    for name in light:
        assert any(f"-e ./plugins/{name}" in line and "--no-deps" not in line for line in installs), name


def test_each_heavy_plugin_is_tested_in_an_environment_of_its_own(tmp_path: Path) -> None:
    printed = "\n".join(commands(tmp_path, "test-engines"))
    for name in heavy():
        assert f".venv-engines/{name}/bin/python -m pip" in printed
    assert f"for name in {' '.join(heavy())};" in printed
    assert "-m pytest plugins/$name/tests" in printed


def test_one_heavy_plugin_can_be_tested_alone(tmp_path: Path) -> None:
    name = heavy()[-1]
    lines = commands(tmp_path, "test-engines", f"ONLY={name}")
    assert any(f"for name in {name};" in line for line in lines)


def test_help_lists_every_goal() -> None:
    done = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, timeout=60)
    listed = [line.split()[1] for line in done.stdout.splitlines()]
    goals = {"help", "setup", "run", "test", "test-engines", "lint", "format", "bench", "docs", "clean"}
    assert set(listed) == goals


def test_what_is_made_is_cleaned_and_ignored() -> None:
    """An environment takes hundreds of megabytes, and must not be found by git."""
    makefile, ignored = (ROOT / "Makefile").read_text(), (ROOT / ".gitignore").read_text().splitlines()
    assert "rm -rf $(VENV) $(ENGINES) build" in makefile
    assert {"/.venv/", "/.venv-engines/", "/build/"} <= set(ignored)


def test_ci_runs_lint_and_both_kinds_of_tests() -> None:
    script = (ROOT / ".ci" / "run").read_text()
    assert "make lint" in script
    assert "for goal in test test-engines" in script


FIRST = "...\n=========== 1 failed, 1017 passed, 1 warning, 84 subtests passed in 126.30s (0:02:06) ===========\n"
SECOND = "30 passed, 2 skipped, 1 warning in 4.20s\n"


@pytest.mark.parametrize(
    ("log", "status", "expected"),
    [
        (FIRST + SECOND, 2, "1 failed, 1047 passed, 2 skipped, 2 warnings, 84 subtests passed in 130.50s"),
        (SECOND, 0, "30 passed, 2 skipped, 1 warning in 4.20s"),
        (
            SECOND + "make: *** [Makefile:1: test-engines] Error 1\n",
            2,
            "30 passed, 2 skipped, 1 warning, 1 error in 4.20s",
        ),
        ("E   assert '3 passed in 1.00s' in text\nno tests ran in 0.01s\n", 0, "no tests ran in 0.00s"),
    ],
    ids=["sum", "one", "a run that did not get to its end", "what only looks like it"],
)
def test_closing_lines_are_added_up(log: str, status: int, expected: str, tmp_path: Path) -> None:
    (tmp_path / "log").write_text(log)
    command = [sys.executable, str(ROOT / "scripts" / "closing_line.py"), str(tmp_path / "log"), str(status)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == f"============ {expected} ============\n"
