"""One skip for all tests of constraints where the package is not installed that they are made with."""

from importlib.util import find_spec
from pathlib import Path

import pytest

from modelrack.testing.skipping import skipped_module

REASON = 'llguidance is not installed here (pip install "modelrack[guided]")'


def pytest_pycollect_makemodule(module_path: Path, parent: pytest.Collector) -> pytest.Module | None:
    if find_spec("llguidance") is None:
        return skipped_module(module_path, parent, REASON)
    return None
