"""The command that lists plugins; it needs no server."""

import logging
from typing import Any

import click

from .help import EpilogCommand
from .options import CONTEXT, json_option
from .output import clean, print_json, print_table


@click.command(
    "plugins",
    cls=EpilogCommand,
    context_settings=CONTEXT,
    short_help="List the plugins, loaded or not, and what they bring.",
    epilog="""
MODELRACK_PLUGINS names those to load, separated by commas; default: all that
are installed.

Examples:
  modelrack plugins
  modelrack plugins --json
  MODELRACK_PLUGINS=demo,llm_xllamacpp modelrack plugins
""",
)
@json_option
def plugins(as_json: bool) -> None:
    """List the plugins of this environment, loaded or not, and what they bring. No server is needed."""
    from ..catalog.engines import refusal
    from ..hooks.loader import load_plugins
    from ..settings import get_settings

    # What went wrong is in the table; the loader's log would say it a second time.
    logging.getLogger("modelrack.hooks").setLevel(logging.CRITICAL)
    loaded = load_plugins(get_settings().plugins)
    refusals = {name: refusal(engine) for name, engine in loaded.engines.items()}
    missing = {name: {"reason": error.message, "remedy": error.remedy} for name, error in refusals.items() if error}
    rows = [row.to_json() for row in loaded.rows]
    for row in rows:
        row["missing"] = {name: missing[name] for name in row["engines"] if name in missing}
    if as_json:
        print_json(rows)
        return
    print_table(
        ["Name", "Version", "Distribution", "Brings", "API", "State"],
        ([row["name"], row["version"], row["distribution"], _brings(row), row["api"], row["state"]] for row in rows),
    )
    for row in rows:
        if row["failure"]:
            click.echo(f"\n{row['name']}: {clean(row['failure'])}")
            if row["remedy"]:
                click.echo(f"  {clean(row['remedy'])}")
        for lack in row["missing"].values():
            click.echo(f"\n{row['name']}: {clean(lack['reason'])}")
            if lack["remedy"]:
                click.echo(f"  {clean(lack['remedy'])}")


def _brings(row: dict[str, Any]) -> str:
    """Return what a plugin registers, in one line."""
    parts = [
        f"{label}: {', '.join(row[key])}"
        for key, label in (("engines", "engines"), ("model_types", "types"), ("hubs", "hubs"))
        if row[key]
    ]
    if row["output_formats"]:
        count = len(row["output_formats"])
        parts.append(f"{count} output format{'s' if count > 1 else ''}")
    if row["families"]:
        parts.append(f"{row['families']} model{'s' if row['families'] > 1 else ''}")
    return "; ".join(parts) or ", ".join(row["hooks"])
