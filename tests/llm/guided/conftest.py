"""One skip for all tests of constraints where the package is not installed that they are made with."""

from importlib.util import find_spec
from pathlib import Path

import pytest

REASON = 'llguidance is not installed here (pip install "modelrack[guided]")'


class SkippedModule(pytest.Module):
    def collect(self) -> list[pytest.Item | pytest.Collector]:
        pytest.skip(REASON, allow_module_level=True)


def pytest_pycollect_makemodule(module_path: Path, parent: pytest.Collector) -> pytest.Module | None:
    if find_spec("llguidance") is None:
        return SkippedModule.from_parent(parent, path=module_path)
    return None
