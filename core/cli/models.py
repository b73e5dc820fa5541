"""Commands on running and downloaded models: list, terminate, cached."""

from typing import Any

import click

from .help import EpilogCommand
from .options import CONTEXT, connect, json_option, server_options
from .output import print_json, print_table

COLUMNS = {
    "UID": "id",
    "Type": "model_type",
    "Name": "model_name",
    "Engine": "model_engine",
    "Format": "model_format",
    "Size (in billions)": "model_size_in_billions",
    "Quantization": "quantization",
    "Replicas": "replica",
    "Status": "status",
}


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
    print_table(list(COLUMNS), ([row.get(key) for key in COLUMNS.values()] for row in rows))
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
    keys = list(dict.fromkeys(key for model in models for key in model)) or ["model_name", "model_version", "path"]
    print_table([key.replace("_", " ") for key in keys], ([model.get(key) for key in keys] for model in models))
    if not models:
        click.echo("Nothing has been downloaded yet.", err=True)
