"""Commands on the environments of engines: they need no server, and work beside a running one."""

import asyncio
import sys
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from .help import EpilogCommand
from .options import CONTEXT, json_option
from .output import clean, is_terminal, print_json, print_table

if TYPE_CHECKING:
    from ..environments import Environments, Progress
    from ..hooks.types import Engine

T = TypeVar("T")


class _Group(EpilogCommand, click.Group):
    """A group whose examples keep their lines."""


@click.group(
    "env",
    cls=_Group,
    context_settings=CONTEXT,
    short_help="Make, list and move the environments of engines.",
    epilog="""
Examples:
  modelrack env create vllm
  modelrack env list
  modelrack env check
  modelrack env export vllm vllm.tar
""",
)
def env() -> None:
    """Make, list, check, move and remove the Python environments of engines.

    An engine whose packages contradict the server's runs in an environment of its own below the home folder
    (MODELRACK_HOME). A launch makes it when it is needed; these commands do so beforehand. NAME is the name of an
    environment, or the engine's if it has only one.
    """


@env.command(
    "list",
    cls=EpilogCommand,
    context_settings=CONTEXT,
    short_help="List the environments.",
    epilog="""
Examples:
  modelrack env list
  modelrack env list --json | jq -r '.[].folder'
""",
)
@json_option
def list_environments(as_json: bool) -> None:
    """List the environments. Sizes count what several of them share in each of them."""
    environments = _open()
    found, incomplete = environments.list(), environments.incomplete()
    if as_json:
        print_json([built.to_json() for built in found])
        return
    if found or not is_terminal():
        print_table(
            ["Name", "Engine", "Device", "Python", "Packages", "Size", "Made"],
            (
                [
                    built.name,
                    built.engine,
                    built.device,
                    built.python_version,
                    len(built.packages),
                    _size(built.size_bytes),
                    f"{datetime.fromtimestamp(built.created):%Y-%m-%d %H:%M}",
                ]
                for built in found
            ),
            kept=(0,),
        )
    else:
        click.echo("There is no environment. Make one with: modelrack env create ENGINE", err=True)
    for name in incomplete:
        click.echo(f"{name} is not complete and is never used; remove it with: modelrack env remove {name}", err=True)


@env.command(
    "create",
    cls=EpilogCommand,
    context_settings=CONTEXT,
    short_help="Make the environment of an engine.",
    epilog="""
One that is made already is left as it is, and needs no network.

Examples:
  modelrack env create vllm
  modelrack env create vllm --device cpu
  modelrack env create vllm --dry-run
  modelrack env create vllm --upgrade
""",
)
@click.argument("engine_name", metavar="ENGINE")
@click.option("-d", "--device", metavar="KIND", help="cpu, cuda, rocm, mps or xpu; default: what this machine has.")
@click.option(
    "-r", "--requirement", "extra", multiple=True, metavar="REQUIREMENT", help="A further package; repeatable."
)
@click.option("--upgrade", is_flag=True, help="Take the newest versions that will do; the old environment stays.")
@click.option("--dry-run", is_flag=True, help="Show what would be installed, and its size.")
@json_option
def create(
    engine_name: str, device: str | None, extra: tuple[str, ...], upgrade: bool, dry_run: bool, as_json: bool
) -> None:
    """Make the environment of an engine, and print its name."""
    from ..environments import device_kind
    from ..machine import probe

    engine = _find_engine(engine_name)
    environments = _open()
    kind = device or device_kind(probe())
    if dry_run:
        _show_plan(environments, engine, kind, extra, as_json)
        return
    with _bar() as report:
        built = _run(environments.ensure(engine, kind, extra=extra, report=report, upgrade=upgrade))
    if as_json:
        print_json(built.to_json())
    else:
        click.echo(built.name)


def _show_plan(
    environments: "Environments", engine: "Engine", device: str, extra: tuple[str, ...], as_json: bool
) -> None:
    plan = _run(environments.plan(engine, device, extra=extra))
    if as_json:
        print_json(
            {
                "engine": plan.engine,
                "device": plan.device,
                "name": plan.built and plan.built.name,
                "python_version": plan.python_version,
                "download_bytes": plan.download_bytes,
                "packages": [{"name": item.name, "version": item.version} for item in plan.packages],
            }
        )
        return
    print_table(["Package", "Version"], ([item.name, item.version] for item in plan.packages))
    if plan.built:
        click.echo(f"\nIt is made already: {plan.built.name}")
    else:
        click.echo(f"\n{_size(plan.download_bytes)} to fetch, for Python {plan.python_version} on {plan.device}.")


@env.command(
    "check",
    cls=EpilogCommand,
    context_settings=CONTEXT,
    short_help="Tell what is wrong with environments.",
    epilog="""
Examples:
  modelrack env check
  modelrack env check vllm --full
""",
)
@click.argument("given", metavar="[NAME]", required=False)
@click.option("--full", is_flag=True, help="Compare every file with its hash too; takes some seconds for a gigabyte.")
@json_option
def check(given: str | None, full: bool, as_json: bool) -> int:
    """Tell what is wrong with an environment, or with all of them; the exit code is 1 if anything is."""
    environments = _open()
    all_names = [*(built.name for built in environments.list()), *environments.incomplete()]
    names = all_names if given is None else [_pick(environments, given)]
    faults = {name: _check(environments, name, full, is_one_of_all=given is None) for name in names}
    if as_json:
        print_json([{"name": name, "faults": found} for name, found in faults.items()])
    elif names or not is_terminal():
        print_table(["Name", "State"], ([name, found or "whole"] for name, found in faults.items()), kept=(0,))
    else:
        click.echo("There is no environment.", err=True)
    damaged = [name for name, found in faults.items() if found]
    for name in damaged:
        click.echo(f"Make it anew: modelrack env remove {name}; then modelrack env create ENGINE.", err=True)
    return 1 if damaged else 0


def _check(environments: "Environments", name: str, full: bool, *, is_one_of_all: bool) -> list[str]:
    """Return the faults of an environment; of one of all, that it cannot be looked at is one: the others go on."""
    from ..errors import ModelrackError

    try:
        return list(_run(environments.check(name, full=full)))
    except (ModelrackError, OSError) as error:
        if not is_one_of_all:
            raise
        return [str(error)]


@env.command(
    "export",
    cls=EpilogCommand,
    context_settings=CONTEXT,
    short_help="Write an environment to a file.",
    epilog="""
The file is a tar archive; it is compressed if its name ends with .tar.gz or
.tgz, which takes its time.

Examples:
  modelrack env export vllm vllm.tar
  modelrack env export vllm-3f1c0a9b2d4e /media/usb/vllm.tar.gz
""",
)
@click.argument("name")
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@json_option
def export(name: str, file: Path, as_json: bool) -> None:
    """Write an environment to a file, for a machine of the same kind that has no network."""
    environments = _open()
    full_name = _pick(environments, name)
    with _bar() as report:
        _run(environments.export(full_name, file, report=report))
    if as_json:
        print_json({"name": full_name, "file": str(file.absolute()), "size_bytes": file.stat().st_size})


@env.command(
    "import",
    cls=EpilogCommand,
    context_settings=CONTEXT,
    short_help="Make an environment from a file.",
    epilog="""
Import only what you trust: an environment is code that the engine runs.

Examples:
  modelrack env import vllm.tar
""",
)
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@json_option
def import_file(file: Path, as_json: bool) -> None:
    """Make an environment from a file that `modelrack env export` has written, and print its name."""
    environments = _open()
    with _bar() as report:
        built = _run(environments.import_(file, report=report))
    if as_json:
        print_json(built.to_json())
    else:
        click.echo(built.name)


@env.command(
    "remove",
    cls=EpilogCommand,
    context_settings=CONTEXT,
    short_help="Remove an environment.",
    epilog="""
Examples:
  modelrack env remove vllm
  modelrack env remove vllm-3f1c0a9b2d4e --keep-cache
""",
)
@click.argument("name")
@click.option("--keep-cache", is_flag=True, help="Keep the packages in uv's cache: making it again is quick then.")
@json_option
def remove(name: str, keep_cache: bool, as_json: bool) -> None:
    """Remove an environment that no model runs in, with what only it has in uv's cache below the home folder."""
    environments = _open()
    full_name = _pick(environments, name)
    _run(environments.remove(full_name, keep_cache=keep_cache))
    if as_json:
        print_json({"name": full_name, "removed": True})


def _open() -> "Environments":
    from ..environments import Environments
    from ..settings import get_settings

    return Environments(get_settings().home)


def _find_engine(name: str) -> "Engine":
    """Return an engine by name or alias.

    Raises: click.ClickException: no plugin brings it.
    """
    import logging

    from ..hooks.loader import load_plugins
    from ..settings import get_settings

    logging.getLogger("modelrack.hooks").setLevel(logging.CRITICAL)  # `modelrack plugins` tells what is wrong with one
    plugins = load_plugins(get_settings().plugins)
    engine = plugins.find_engine(name)
    if engine is None:
        known = [engine.name for engine in plugins.engines.values() if engine.environment is not None]
        raise click.ClickException(
            f"There is no engine '{clean(name)}'; with an environment of their own there is: "
            f"{', '.join(known) or 'none'}."
        )
    return engine


def _pick(environments: "Environments", name: str) -> str:
    """Return the name of an environment that is named in full, or by its engine if that has only one.

    Raises: click.ClickException: the engine has several.
    """
    there = environments.list()
    names = [built.name for built in there if built.engine.lower() == name.lower()]
    if len(names) > 1 and name not in [built.name for built in there]:
        raise click.ClickException(
            f"There are several environments of engine '{clean(name)}'; name one of them: {', '.join(names)}."
        )
    return names[0] if len(names) == 1 else name


def _size(size_bytes: int) -> str:
    return f"{size_bytes / 1e9:.1f} GB" if size_bytes >= 1e9 else f"{size_bytes / 1e6:.0f} MB"


def _run(work: Coroutine[Any, Any, T]) -> T:
    """Run it to its end; Ctrl-C cancels it, and waits until nothing of it is left."""
    return asyncio.run(work)


@contextmanager
def _bar() -> "Iterator[Callable[[Progress], None] | None]":
    """Show how far it is, on a terminal."""
    if not (sys.stdout.isatty() and sys.stderr.isatty()):
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, TaskProgressColumn, TextColumn, TimeElapsedColumn
    from rich.progress import Progress as Bar

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TaskProgressColumn(),
        TextColumn("{task.fields[detail]}", style="dim", markup=False),
        TimeElapsedColumn(),
    )
    with Bar(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("environment", total=1.0, detail="")

        def show(state: "Progress") -> None:
            size = f"{state.done_bytes / 1e6:,.0f} of {state.total_bytes / 1e6:,.0f} MB" if state.total_bytes else ""
            bar.update(task, completed=state.fraction, description=clean(state.detail), detail=size)

        yield show
