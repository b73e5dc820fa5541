"""Add up the closing lines of several runs of pytest in a log, and print the sum as pytest would.

.venv/bin/python scripts/closing_line.py LOG [EXIT_STATUS]
"""

import re
import sys
from collections import Counter
from pathlib import Path

# Last of all pytest's words, in its own order.
WORDS = [
    *("failed", "passed", "skipped", "deselected", "xfailed", "xpassed", "warnings", "errors"),
    *("subtests passed", "subtests failed", "subtests skipped"),
]
PLURALS = {"error": "errors", "warning": "warnings"}
SINGULARS = {plural: singular for singular, plural in PLURALS.items()}
COUNT = r"\d+ [a-z]+(?: [a-z]+)?"
CLOSING = re.compile(rf"^(?:=+ )?({COUNT}(?:, {COUNT})*) in ([\d.]+)s\b", re.MULTILINE)


def add_up(log: str, status: int = 0) -> str:
    """Return one closing line for all in the log; a bad exit status that no count tells of is an error more."""
    counts: Counter[str] = Counter()
    seconds = 0.0
    for found in CLOSING.finditer(log):
        seconds += float(found[2])
        for part in found[1].split(", "):
            number, _, word = part.partition(" ")
            counts[PLURALS.get(word, word)] += int(number)
    if status and not (counts["failed"] or counts["errors"] or counts["subtests failed"]):
        counts["errors"] += 1
    parts = [
        f"{counts[word]} {SINGULARS.get(word, word) if counts[word] == 1 else word}" for word in WORDS if counts[word]
    ]
    return f"============ {', '.join(parts) or 'no tests ran'} in {seconds:.2f}s ============"


if __name__ == "__main__":
    print(add_up(Path(sys.argv[1]).read_text(errors="replace"), int(sys.argv[2]) if len(sys.argv) > 2 else 0))
