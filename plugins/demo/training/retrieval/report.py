"""Print shares of right answers, and choose the held-out texts that are kept beside the models."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any


def shares(title: str, kinds: Sequence[str], right: Sequence[bool]) -> None:
    """Print the share of right answers for each kind and for all."""
    good, total = Counter(), Counter()
    for kind, is_right in zip(kinds, right, strict=True):
        for key in (kind, "all"):
            total[key] += 1
            good[key] += bool(is_right)
    parts = [f"{key} {good[key]}/{total[key]} = {100 * good[key] / total[key]:.1f} %" for key in sorted(total)]
    print(f"{title}: {', '.join(parts)}", flush=True)


def selection(kinds: Sequence[str], wanted: Mapping[str, int]) -> list[int]:
    """Return the places of an even selection of each kind, at most as many as are wanted."""
    by_kind: dict[str, list[int]] = defaultdict(list)
    for number, kind in enumerate(kinds):
        by_kind[kind].append(number)
    chosen = []
    for kind, count in wanted.items():
        numbers = by_kind[kind]
        steps = min(count, len(numbers))
        chosen += [numbers[place * len(numbers) // steps] for place in range(steps)]
    return chosen


def write_rows(path: Path, content: dict[str, Sequence[Any]]) -> None:
    """Write lists as JSON with one line for each row."""
    parts = []
    for name, rows in content.items():
        lines = ",\n".join("  " + json.dumps(row, ensure_ascii=False) for row in rows)
        parts.append(f" {json.dumps(name)}: [\n{lines}\n ]")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("{\n" + ",\n".join(parts) + "\n}\n", encoding="utf-8")
    print(f"{path.name}: {path.stat().st_size} bytes")
