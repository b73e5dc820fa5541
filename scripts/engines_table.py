"""Write the table of docs/engines.md from what the conformance kit has recorded of each engine.

The records are plugins/*/conformance.json; the kit writes one where MODELRACK_CONFORMANCE_REPORT names the folder.
"""

import json
import re
import sys
from pathlib import Path
from typing import Any

from modelrack.hooks.loader import load_plugins
from modelrack.testing.conformance.table import problems, render

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "engines.md"
_PLACE = re.compile(r"(<!-- table of engines -->\n).*?(<!-- end of engines -->)", re.DOTALL)


def read_records() -> dict[str, Any]:
    """Return the records of all plugins of this repository, by engine."""
    records: dict[str, Any] = {}
    for path in sorted(ROOT.glob("plugins/*/conformance.json")):
        records.update(json.loads(path.read_text()))
    return records


def read_claims() -> dict[str, tuple[str, ...]]:
    """Return the features that the engines for language models claim, by engine."""
    return {name: one.features for name, one in load_plugins(None).engines.items() if "LLM" in one.model_types}


def page_with(table: str) -> str:
    """Return the page with this table in it."""
    page, count = _PLACE.subn(lambda found: f"{found[1]}\n{table}\n\n{found[2]}", PAGE.read_text())
    if count != 1:
        raise ValueError(f"{PAGE} has no place for the table")
    return page


def main() -> int:
    """Write the table, unless the records do not bear it out."""
    records = read_records()
    found = problems(records, read_claims())
    for problem in found:
        print(problem, file=sys.stderr)
    if not found:
        PAGE.write_text(page_with(render(records)))
    return bool(found)


if __name__ == "__main__":
    sys.exit(main())
