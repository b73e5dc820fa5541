"""Releases of xinference-client beside the installed one, which langchain-xinference holds below 2."""

import importlib
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

__all__ = ["import_client", "install_client"]


def install_client(folder: Path, version: str) -> Path:
    """Put a release into a folder, and return the folder; the test is skipped where no package index offers it."""
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--disable-pip-version-check"]
    done = subprocess.run(
        [*command, "--target", str(folder), f"xinference-client=={version}"],
        capture_output=True,
        text=True,
        timeout=100,
    )
    if done.returncode and "No matching distribution" in done.stderr:
        pytest.skip(f"no package index offers xinference-client {version}")
    assert done.returncode == 0, done.stderr
    return folder


def import_client(folder: Path, module: str) -> ModuleType:
    """Import a module of the release in a folder, and leave the installed one to everybody else."""
    installed = _forget()
    sys.path.insert(0, str(folder))
    try:
        return importlib.import_module(module)
    finally:
        sys.path.remove(str(folder))
        _forget()
        sys.modules.update(installed)


def _forget() -> dict[str, ModuleType]:
    names = [name for name in sys.modules if name.split(".")[0] == "xinference_client"]
    return {name: sys.modules.pop(name) for name in names}
