"""Commands on running and downloaded models: list, terminate, cached."""

from typing import Any

import click

from .help import EpilogCommand
from .options import CONTEXT, connect, json_option, server_options
from .output import cell, clean, is_terminal, print_json, print_table

COLUMNS = {
    "UID": "id",
    "Type": "model_type",
    "Name": "model_name",
    "Engine": "model_engine",
    "Form": "form",
    "Replicas": "replica",
    "Status": "status",
}


def describe_form(model: dict[str, Any]) -> str:
    """Return format, size in billions of parameters and quantization in one text: `gguf 7B Q4_K_M`."""
    size = model.get("model_size_in_billions")
    quantization = model.get("quantization")
    parts = (model.get("model_format"), f"{cell(size)}B" if size else None, quantization)
    return " ".join(part for part in parts if part and part != "none")


@click.command(
    "list",
    cls=EpilogCommand,
    context_settings=CONTEXT,
    short_help="List the running models.",
    epilog="""
Examples:
  modelrack list
  modelrack list --all
  modelrack list --json | jq -r '.[].id'
  modelrack list --endpoint http://192.168.1.7:9997
""",
)
@click.option("-a", "--all", "show_all", is_flag=True, help="Also those that are launching or have failed.")
@json_option
@server_options
def list_models(show_all: bool, as_json: bool, endpoint: str | None, api_key: str | None) -> None:
    """List the running models."""
    with connect(endpoint, api_key) as client:
        models = client.list_models()
        instances = client.get_instance_info() if show_all or not as_json else []
    status = {item["model_uid"]: item.get("status") for item in instances}
    rows: list[dict[str, Any]] = [
        {**model, "status": status.get(uid) or model.get("status") or "READY"} for uid, model in models.items()
    ]
    if show_all:
        rows += [{"id": item["model_uid"], **item} for item in instances if item["model_uid"] not in models]
    if as_json:
        print_json(rows if show_all else list(models.values()))
        return
    if rows or not is_terminal():
        print_table(
            list(COLUMNS),
            ([{**row, "form": describe_form(row)}.get(key) for key in COLUMNS.values()] for row in rows),
        )
    for row in rows:
        if row.get("error_message"):
            click.echo(f"\n{row['id']}: {clean(row['error_message'])}")
    if not rows:
        click.echo("No model is running. Launch one with: modelrack launch --model-name NAME", err=True)
    waiting = sum(uid not in models for uid in status)
    if waiting and not show_all:
        click.echo(f"{waiting} more not running; see them with: modelrack list --all", err=True)


@click.command(
    "terminate",
    cls=EpilogCommand,
    context_settings=CONTEXT,
    short_help="Terminate a model and free what it holds.",
    epilog="""
Examples:
  modelrack terminate --model-uid demo-chat
  modelrack terminate demo-chat
""",
)
@click.argument("uids", nargs=-1, metavar="[UID]...")
@click.option("-u", "--model-uid", multiple=True, metavar="UID", help="The model's uid; may be given several times.")
@json_option
@server_options
def terminate(
    uids: tuple[str, ...], model_uid: tuple[str, ...], as_json: bool, endpoint: str | None, api_key: str | None
) -> None:
    """Terminate a model and free what it holds; one that is launching is cancelled."""
    names = list(dict.fromkeys([*model_uid, *uids]))
    if not names:
        raise click.UsageError("Missing option '--model-uid'; `modelrack list` shows the uids.")
    with connect(endpoint, api_key) as client:
        for name in names:
            client.terminate_model(name)
            if not as_json:
                click.echo(f"Terminated: {name}")
    if as_json:
        print_json({"terminated": names})


@click.command(
    "cached",
    cls=EpilogCommand,
    context_settings=CONTEXT,
    short_help="List the downloaded models.",
    epilog="""
Examples:
  modelrack cached
  modelrack cached --model-name qwen3 --json
""",
)
@click.option("-n", "--model-name", metavar="NAME", help="Only this model.")
@json_option
@server_options
def cached(model_name: str | None, as_json: bool, endpoint: str | None, api_key: str | None) -> None:
    """List the downloaded models."""
    with connect(endpoint, api_key) as client:
        models = client.list_cached_models(model_name)
    if as_json:
        print_json(models)
        return
    if models or not is_terminal():
        print_table(
            ["Name", "Type", "Form", "Size", "Hub", "Path"],
            (
                [
                    model["model_name"],
                    model.get("model_type"),
                    describe_form(model),
                    f"{model.get('size_bytes', 0) / 1e6:,.0f} MB",
                    model.get("hub"),
                    model.get("path"),
                ]
                for model in models
            ),
        )
    if not models:
        click.echo("Nothing has been downloaded yet.", err=True)
