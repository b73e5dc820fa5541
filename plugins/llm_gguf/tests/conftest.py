"""One skip for all tests that need the engine: it is compiled, so it is not in every environment."""

from importlib.util import find_spec
from pathlib import Path

import pytest

from modelrack.testing.skipping import skipped_module

PURE = {"test_cache.py", "test_description.py", "test_pace.py", "test_sizes.py"}
REASON = "llama-cpp-python is not installed here; `make test-engines` runs these in an environment that has it"


def pytest_pycollect_makemodule(module_path: Path, parent: pytest.Collector) -> pytest.Module | None:
    if find_spec("llama_cpp") is None and module_path.name not in PURE:
        return skipped_module(module_path, parent, REASON)
    return None
