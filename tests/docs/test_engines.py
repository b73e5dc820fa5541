"""The table of docs/engines.md is what the kit has recorded, and the records are of what the engines claim now."""

import runpy
from pathlib import Path
from typing import Any

from modelrack.testing.conformance.table import problems, render

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = runpy.run_path(str(ROOT / "scripts" / "engines_table.py"), run_name="engines_table")


def test_the_records_bear_out_what_engines_claim() -> None:
    records, claims = SCRIPT["read_records"](), SCRIPT["read_claims"]()
    assert len(records) >= 3 and set(records) <= set(claims)
    assert problems(records, claims) == []


def test_the_page_has_the_table_of_the_records() -> None:
    page: Path = SCRIPT["PAGE"]
    assert page.read_text() == SCRIPT["page_with"](render(SCRIPT["read_records"]())), "run scripts/engines_table.py"


def test_a_record_that_does_not_fit_is_told() -> None:
    features: dict[str, Any] = {
        "seed": {"claimed": True, "passed": 2, "failed": 0},
        "n": {"claimed": True, "passed": 1, "failed": 1},
        "echo": {"claimed": False, "reason": "'echo' cannot be honoured: it | has none."},
    }
    records = {"one": {"base": {"passed": 9, "failed": 0}, "features": features}}
    assert "| yes |" in render(records) and "no: it \\| has none |" in render(records)
    (found,) = problems(records, {"one": ("seed", "n"), "other": ()})
    assert "tests of n" in found
    assert len(problems(records, {"one": ("seed", "dry"), "other": ("seed",)})) == 3
