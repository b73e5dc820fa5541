"""One skip for all tests that need the engine: PyTorch is large, so it is not in every environment."""

import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from modelrack.testing.skipping import skipped_module

sys.path.insert(0, str(Path(__file__).parent))

PURE = {"test_description.py", "test_prompts.py"}
REASON = "torch and sentence-transformers are not installed here; `make test-engines` runs these where they are"


def pytest_pycollect_makemodule(module_path: Path, parent: pytest.Collector) -> pytest.Module | None:
    is_here = find_spec("torch") is not None and find_spec("sentence_transformers") is not None
    if not is_here and module_path.name not in PURE:
        return skipped_module(module_path, parent, REASON)
    return None
