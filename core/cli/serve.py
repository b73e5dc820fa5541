"""The command that starts the server."""

from pathlib import Path
from typing import Any

import click

from .help import EpilogCommand
from .options import CONTEXT


@click.command(
    "serve",
    cls=EpilogCommand,
    context_settings=CONTEXT,
    short_help="Start the server.",
    epilog="""
Ctrl-C stops it once running answers are complete, within seconds; a second
Ctrl-C stops it at once. Models that were running come back with the next start.
Every option, and more settings, can be given as MODELRACK_* variables.

Examples:
  modelrack serve
  modelrack serve --host 0.0.0.0 --port 9997
  MODELRACK_API_KEYS=secret modelrack serve --home /srv/modelrack
""",
)
@click.option("-H", "--host", metavar="ADDRESS", help="Address to listen on.  [default: 127.0.0.1]")
@click.option("-p", "--port", type=click.IntRange(0, 65535), metavar="PORT", help="Port; 0: any free.  [default: 9997]")
@click.option(
    "--home",
    type=click.Path(file_okay=False, path_type=Path),
    metavar="FOLDER",
    help="Folder of the store, logs and models.",
)
@click.option("--log-level", type=click.Choice(["debug", "info", "warning", "error"]), help="Least level to log.")
@click.option("--log-format", type=click.Choice(["text", "json"]), help="Form of the log lines.")
@click.option("--no-restore", is_flag=True, help="Do not bring back the models that were running.")
def serve(no_restore: bool, **given: Any) -> None:
    """Start the server; it runs until it is stopped."""
    from pydantic import ValidationError

    from ..settings import Settings

    overrides = {key: value for key, value in given.items() if value is not None}
    if "home" in overrides:
        overrides["home"] = overrides["home"].expanduser().absolute()
    try:
        settings = Settings(**overrides)
    except ValidationError as error:
        first = error.errors()[0]
        name = "_".join(str(part) for part in first["loc"])
        raise click.UsageError(f"MODELRACK_{name.upper()}: {first['msg']}") from error

    from ..server.app import serve as run_server

    run_server(settings, restore=not no_restore)
