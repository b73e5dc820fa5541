"""Wait for a launch: a bar on a terminal, and Ctrl-C asks whether to cancel."""

import sys
from collections.abc import Callable
from typing import Any

import click

from ..client import Client

__all__ = ["wait_with_progress"]


def wait_with_progress(client: Client, uid: str, *, quiet: bool = False) -> None:
    """Wait until the model can answer.

    Ctrl-C asks whether to cancel the launch; a second Ctrl-C leaves it running. Where nobody can be asked, the first
    one cancels.

    Args:
        quiet: show no bar.

    Raises: ClientError: the launch failed. click.exceptions.Exit: it was interrupted.
    """
    while True:
        try:
            if quiet or not (sys.stdout.isatty() and sys.stderr.isatty()):
                client.wait_until_ready(uid)
            else:
                _wait_with_bar(client, uid)
            return
        except KeyboardInterrupt:
            _ask(client, uid)


def _ask(client: Client, uid: str) -> None:
    """Cancel the launch, leave it running, or return to wait on."""
    try:
        click.echo(err=True)
        if not sys.stdin.isatty() or click.confirm(f"Cancel the launch of '{uid}'?", default=True, err=True):
            client.cancel_launch_model(uid)
            click.echo(f"The launch of '{uid}' was cancelled.", err=True)
            raise click.exceptions.Exit(130)
    except (KeyboardInterrupt, click.Abort):
        click.echo(
            f"\nLeft running in the server; see it with: modelrack list --all. Stop it: modelrack terminate {uid}",
            err=True,
        )
        raise click.exceptions.Exit(130) from None


def _wait_with_bar(client: Client, uid: str) -> None:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TaskProgressColumn(),
        TextColumn("{task.fields[detail]}", style="dim", markup=False),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("pending", total=1.0, detail="")

        def show(state: dict[str, Any]) -> None:
            done = max(float(state.get("progress") or 0.0), bar.tasks[0].completed)
            bar.update(task, completed=done, description=str(state.get("stage") or "launching"), detail=_detail(state))

        watch: Callable[[dict[str, Any]], object] = show
        client.wait_until_ready(uid, on_progress=watch)


def _detail(state: dict[str, Any]) -> str:
    """Return what is being done, and how much of a download is, where the server says so."""
    done, total = state.get("done_bytes"), state.get("total_bytes")
    amount = f"{done / 1e6:,.0f} of {total / 1e6:,.0f} MB" if isinstance(done, int) and total else ""
    return ", ".join(part for part in (str(state.get("detail") or ""), amount) if part)
