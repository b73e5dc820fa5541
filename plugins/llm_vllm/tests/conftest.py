"""The environment that the real tests run vLLM in; where there is none, they are skipped with the reason."""

import asyncio
import os
import sys
from pathlib import Path

import pytest

from modelrack.environments import EnvironmentFailed, Environments
from modelrack_llm_vllm.plugin import register_engines

sys.path.insert(0, str(Path(__file__).parent))

VARIABLE = "MODELRACK_TEST_VLLM"
"""Names an environment that has been made already."""


def _engines_folder() -> Path | None:
    """Return the folder of the environments of `make test-engines` if this is one of them."""
    folder = Path(sys.prefix).parent
    return folder if folder.name == ".venv-engines" else None


@pytest.fixture(scope="session")
def vllm_environment() -> str:
    """Return the path of vLLM's environment, made as the server makes it, and kept for the next run."""
    given = os.environ.get(VARIABLE)
    if given:
        return given
    folder = _engines_folder()
    if folder is None:
        pytest.skip("vLLM's own environment is made in `make test-engines`")
    (engine,) = register_engines()
    try:
        built = asyncio.run(Environments(folder / "home").ensure(engine, "cpu"))
    except EnvironmentFailed as error:
        pytest.skip(f"vLLM's environment cannot be made here: {error.message}")
    return str(built.folder)
