"""Commands on the models that can be launched: registrations, register, unregister."""

import json
import sys
from pathlib import Path
from typing import Any

import click

from .help import EpilogCommand
from .options import CONTEXT, connect, json_option, server_options
from .output import print_json, print_table

COLUMNS = {
    "Language": ("model_lang", "language"),
    "Ability": ("model_ability",),
    "Family": ("model_family",),
    "Kind": ("type",),
    "Dimensions": ("dimensions",),
    "Max tokens": ("max_tokens",),
    "Multilingual": ("multilingual",),
}
"""Columns that only some types have, with the keys that each type uses; one without any value is left out."""


@click.command(
    "registrations",
    cls=EpilogCommand,
    context_settings=CONTEXT,
    short_help="List the models that can be launched.",
    epilog="""
Examples:
  modelrack registrations
  modelrack registrations --model-type embedding
  modelrack registrations --json | jq -r '.[].model_name'
""",
)
@click.option("-t", "--model-type", default="LLM", show_default=True, metavar="TYPE", help="LLM, embedding, rerank, …")
@json_option
@server_options
def registrations(model_type: str, as_json: bool, endpoint: str | None, api_key: str | None) -> None:
    """List the models that can be launched by name."""
    with connect(endpoint, api_key) as client:
        families = client.list_model_registrations(model_type, detailed=True)
    if as_json:
        print_json(families)
        return
    if not families:
        click.echo(f"No {model_type} model can be launched by name.", err=True)
        click.echo("Install a plugin that brings some, or register a model of your own.", err=True)
        return
    columns = {name: keys for name, keys in COLUMNS.items() if any(_pick(family, keys) for family in families)}
    print_table(
        ["Type", "Name", *columns, "Built-in"],
        (
            [
                model_type,
                family["model_name"],
                *(_pick(family, keys) for keys in columns.values()),
                family.get("is_builtin"),
            ]
            for family in families
        ),
    )


def _pick(family: dict[str, Any], keys: tuple[str, ...]) -> Any:
    return next((family[key] for key in keys if family.get(key) not in (None, "", [])), None)


@click.command(
    "register",
    cls=EpilogCommand,
    context_settings=CONTEXT,
    short_help="Register a model of your own.",
    epilog="""
Examples:
  modelrack register --model-type LLM --file my-model.json --persist
  modelrack register --model-type embedding --file my-embedding.json
  modelrack register --file -  < my-model.json
""",
)
@click.option("-t", "--model-type", default="LLM", show_default=True, metavar="TYPE", help="The model's type.")
@click.option("-f", "--file", "path", required=True, metavar="FILE", help="The model as JSON; - is stdin.")
@click.option("-p", "--persist", is_flag=True, help="Keep it over a restart of the server.")
@json_option
@server_options
def register(
    model_type: str, path: str, persist: bool, as_json: bool, endpoint: str | None, api_key: str | None
) -> None:
    """Register a model of your own, so that it can be launched by its name."""
    text = sys.stdin.read() if path == "-" else _read(Path(path))
    try:
        name = json.loads(text)["model_name" if "model_name" in json.loads(text) else "name"]
    except ValueError as error:
        raise click.BadParameter(
            f"{'stdin' if path == '-' else path} is no JSON: {error}", param_hint="'--file'"
        ) from error
    except (TypeError, KeyError):
        name = None  # the server says what is missing
    with connect(endpoint, api_key) as client:
        client.register_model(model_type, text, persist)
    if as_json:
        print_json({"model_type": model_type, "model_name": name, "persist": persist})
    else:
        click.echo(f"Registered: {name}")


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise click.BadParameter(f"cannot read {path}: {reason}", param_hint="'--file'") from error


@click.command(
    "unregister",
    cls=EpilogCommand,
    context_settings=CONTEXT,
    short_help="Forget a model that was registered.",
    epilog="""
Examples:
  modelrack unregister --model-type LLM --model-name my-model
""",
)
@click.option("-t", "--model-type", default="LLM", show_default=True, metavar="TYPE", help="The model's type.")
@click.option("-n", "--model-name", required=True, metavar="NAME", help="The model's name.")
@json_option
@server_options
def unregister(model_type: str, model_name: str, as_json: bool, endpoint: str | None, api_key: str | None) -> None:
    """Forget a model that was registered; models that plugins bring stay."""
    with connect(endpoint, api_key) as client:
        client.unregister_model(model_type, model_name)
    if as_json:
        print_json({"model_type": model_type, "model_name": model_name})
    else:
        click.echo(f"Unregistered: {model_name}")
