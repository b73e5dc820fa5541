"""From the kit's records to a table of features by engine, in Markdown."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from ...llm.features import FEATURES

__all__ = ["problems", "render"]

_REASON = re.compile(r"cannot be (?:honoured|had|used): (.*)", re.DOTALL)


def render(records: Mapping[str, Any]) -> str:
    """Return the table: a row for each feature, a column for each engine; `yes`, or why not.

    Args:
        records: what the kit has written, by engine.
    """
    engines = sorted(records)
    rows = [["feature", *(f"`{engine}`" for engine in engines)], ["---"] * (len(engines) + 1)]
    for feature in FEATURES:
        fields = ", ".join(f"`{field}`" for field in feature.fields)
        label = f"**{feature.name}**: {feature.summary}" + (f" ({fields})" if fields else "")
        rows.append([label, *(_cell(records[engine]["features"].get(feature.name, {})) for engine in engines)])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _cell(found: Mapping[str, Any]) -> str:
    if found.get("claimed"):
        return "yes"
    reason = str(found.get("reason", ""))
    match = _REASON.search(reason)
    text = " ".join((match[1] if match else reason).split()).rstrip(".").replace("|", "\\|")
    return f"no: {text}" if text else "no"


def problems(records: Mapping[str, Any], claims: Mapping[str, Sequence[str]]) -> list[str]:
    """Return what the records do not bear out.

    Args:
        claims: the features that engines claim, by engine.
    """
    found = []
    for engine, features in claims.items():
        record = records.get(engine)
        if record is None:
            if features:
                found.append(f"'{engine}' claims features, but there is no record of the kit")
            continue
        recorded = {name for name, row in record["features"].items() if row["claimed"]}
        if recorded != set(features):
            found.append(f"'{engine}' claims other features than its record: {sorted(recorded ^ set(features))}")
        tested = {"the base": record["base"], **{name: record["features"].get(name) or {} for name in features}}
        for name, row in tested.items():
            if row.get("failed", 0) or not row.get("passed", 0):
                found.append(f"'{engine}' did not pass the tests of {name}: {row}")
    return found
