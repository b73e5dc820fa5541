"""Write down what the kit found: for each engine, which features it was seen to have, and why it lacks the others."""

import json
import os
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from ...llm.features import FEATURES

__all__ = ["FILE", "VARIABLE", "Note", "Recorder", "recorder_of"]

VARIABLE = "MODELRACK_CONFORMANCE_REPORT"
"""The variable that names the folder to write the record to."""
FILE = "conformance.json"

_NAME = "modelrack-conformance"


@dataclass(slots=True)
class Note:
    """What is noted of one engine.

    Args:
        results: outcomes of the tests by feature; those of the base are under the empty name.
        reasons: why features are not claimed.
    """

    claims: tuple[str, ...]
    results: dict[str, Counter[str]] = field(default_factory=dict)
    reasons: dict[str, str] = field(default_factory=dict)

    def rows(self) -> dict[str, Any]:
        """Return the record as it is written."""
        features: dict[str, Any] = {}
        for one in FEATURES:
            counts = self.results.get(one.name, Counter())
            if one.name in self.claims:
                features[one.name] = {"claimed": True, **_counts(counts)}
            else:
                features[one.name] = {"claimed": False, "reason": self.reasons.get(one.name, "")}
        return {"base": _counts(self.results.get("", Counter())), "features": features}


def _counts(counts: Counter[str]) -> dict[str, int]:
    return {"passed": counts["passed"], "failed": counts["failed"]}


class Recorder:
    """A plugin of pytest that hears of each test of the kit, and writes the record at the end."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.notes: dict[str, Note] = {}
        self._tests: dict[str, tuple[str, str]] = {}

    def begin(self, test: str, engine: str, claims: tuple[str, ...], feature: str) -> None:
        """Hear which engine and feature a test is of."""
        self.notes.setdefault(engine, Note(claims))
        self._tests[test] = engine, feature

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Count a test's outcome: what failed in any phase has failed."""
        known = self._tests.get(report.nodeid)
        if known is None or (report.passed and report.when != "call"):
            return
        engine, feature = known
        self.notes[engine].results.setdefault(feature, Counter())[report.outcome] += 1

    def pytest_sessionfinish(self) -> None:
        """Write the record; engines in the file that were not tested now stay in it."""
        path = self.folder / FILE
        known: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
        known |= {engine: note.rows() for engine, note in self.notes.items()}
        self.folder.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(known, indent=2, sort_keys=True, ensure_ascii=False) + "\n")


def recorder_of(config: pytest.Config) -> Recorder | None:
    """Return the session's recorder, if a record is wanted."""
    folder = os.environ.get(VARIABLE)
    if not folder:
        return None
    found = config.pluginmanager.get_plugin(_NAME)
    if found is None:
        found = Recorder(Path(folder).resolve())
        config.pluginmanager.register(found, _NAME)
    assert isinstance(found, Recorder)
    return found
