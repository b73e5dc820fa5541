"""A folder of wheels instead of an index, and a home folder for each test."""

import os
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from modelrack.environments import WORKER_REQUIREMENTS, Environments

from .wheels import make_wheel, repack


@pytest.fixture(scope="session")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with what workers need, as it is installed here, and some small packages."""
    folder = tmp_path_factory.mktemp("wheels")
    repack(folder, *(Requirement(text).name for text in WORKER_REQUIREMENTS))
    make_wheel(folder, "apple", "1.0", requires=("core-of-apple",), size=20000)
    make_wheel(folder, "apple", "2.0", requires=("core-of-apple",), size=20000)
    make_wheel(folder, "core-of-apple", "1.5")
    make_wheel(folder, "pear", "1.0", requires=("core-of-apple>=1", "apple"))
    make_wheel(folder, "proud-pear", "1.0", requires=("core-of-apple>=3",))
    return folder


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a cache for uv that gets warm; a test that looks into a home's own unsets UV_CACHE_DIR."""
    return tmp_path_factory.mktemp("cache")


def settings(wheels: Path, cache: Path) -> dict[str, str]:
    """Return the variables with which uv sees these wheels only."""
    return {"PIP_FIND_LINKS": str(wheels), "PIP_NO_INDEX": "1", "UV_CACHE_DIR": str(cache)}


@pytest.fixture(autouse=True)
def offline(wheels: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let uv see these wheels only."""
    for name in [name for name in os.environ if name.startswith(("UV_", "PIP_", "MODELRACK_"))]:
        monkeypatch.delenv(name)
    for name, value in settings(wheels, cache).items():
        monkeypatch.setenv(name, value)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "home"


@pytest.fixture
def environments(home: Path) -> Environments:
    return Environments(home)
