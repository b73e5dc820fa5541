"""Skip whole test modules where what they need is not installed, with one reason, before they import it."""

from pathlib import Path

import pytest

__all__ = ["skipped_module"]


class _SkippedModule(pytest.Module):
    reason = ""

    def collect(self) -> list[pytest.Item | pytest.Collector]:
        pytest.skip(self.reason, allow_module_level=True)


def skipped_module(module_path: Path, parent: pytest.Collector, reason: str) -> pytest.Module:
    """Return a test module that is collected as one skip, for `pytest_pycollect_makemodule` of a conftest."""
    module: _SkippedModule = _SkippedModule.from_parent(parent, path=module_path)
    module.reason = reason
    return module
