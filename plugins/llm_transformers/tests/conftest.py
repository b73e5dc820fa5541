"""One skip for all tests that need the engine: PyTorch is large, so it is not in every environment."""

from importlib.util import find_spec
from pathlib import Path

import pytest

from modelrack.testing.skipping import skipped_module

PURE = {"test_description.py"}
REASON = "torch and transformers are not installed here; `make test-engines` runs these in an environment that has them"


def pytest_pycollect_makemodule(module_path: Path, parent: pytest.Collector) -> pytest.Module | None:
    is_here = find_spec("torch") is not None and find_spec("transformers") is not None
    if not is_here and module_path.name not in PURE:
        return skipped_module(module_path, parent, REASON)
    return None
