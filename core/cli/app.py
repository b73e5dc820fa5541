"""The group of all commands, loaded one by one, and the one place where errors become messages and exit codes."""

import importlib
import io
import os
import sys
from collections.abc import Sequence
from difflib import get_close_matches
from itertools import takewhile
from typing import Any, NoReturn

import click

from .. import __version__
from ..errors import ModelrackError
from .help import EpilogCommand
from .output import clean, use_color

__all__ = ["cli", "main", "run"]

COMMANDS: dict[str, tuple[str, str]] = {
    "serve": ("serve:serve", "Start the server."),
    "launch": ("launch:launch", "Launch a model."),
    "list": ("models:list_models", "List the running models."),
    "terminate": ("models:terminate", "Terminate a model and free what it holds."),
    "chat": ("chat:chat", "Chat with a model."),
    "generate": ("generate:generate", "Complete a text with a model."),
    "registrations": ("registrations:registrations", "List the models that can be launched."),
    "register": ("registrations:register", "Register a model of your own."),
    "unregister": ("registrations:unregister", "Forget a model that was registered."),
    "engine": ("engine:engine", "Show which engines can run a model, and their options."),
    "plan": ("plan:plan", "Show what a launch would do, without doing it."),
    "cal-model-mem": ("cal_model_mem:cal_model_mem", "Calculate how much memory a model needs."),
    "cached": ("models:cached", "List the downloaded models."),
    "env": ("env:env", "Make, list and move the environments of engines."),
    "plugins": ("plugins:plugins", "List the plugins, loaded or not, and what they bring."),
}
"""Where each command is, and what it does in one line: enough for `--help` without loading any of them."""

EPILOG = """
Examples:
  modelrack serve
  modelrack launch --model-name demo-chat
  modelrack chat --model-uid demo-chat "What is the largest animal?"
  modelrack terminate --model-uid demo-chat

The server's address is --endpoint, else MODELRACK_ENDPOINT, else
http://127.0.0.1:9997.
"""


class LazyGroup(EpilogCommand, click.Group):
    """A group that loads a command's module only when that command is called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names of all commands."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Load a command."""
        if cmd_name not in COMMANDS:
            return None
        module, _, name = COMMANDS[cmd_name][0].partition(":")
        command: click.Command = getattr(importlib.import_module(f".{module}", __package__), name)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command that is meant, or say which may have been meant."""
        name = args[0]
        if name not in COMMANDS and not name.startswith("-"):
            close = get_close_matches(name, COMMANDS, n=1)
            hint = f" Did you mean '{close[0]}'?" if close else ""
            raise click.UsageError(f"There is no command '{name}'.{hint}", ctx)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the commands with their lines of help, without loading them."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in COMMANDS.items()])


@click.group(cls=LazyGroup, epilog=EPILOG, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, "-V", "--version", prog_name="modelrack", message="%(prog)s %(version)s")
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
def cli(debug: bool) -> None:
    """Serve language, embedding, rerank, image, audio and video models."""


def main() -> NoReturn:
    """Run the command line and leave the process with its exit code: 0, 1 for an error, 2 for a wrong call."""
    _open_standard_streams()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # half a character of a model must not end a command
    code = run(sys.argv[1:])
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        _silence_stdout()
    sys.exit(code)


def _open_standard_streams() -> None:
    """Put the null device where a standard stream was closed: a socket or the store would get its number else."""
    while (number := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(number, True)
    os.close(number)
    if sys.stdout is None:
        sys.stdout = open(1, "w", closefd=False)  # noqa: SIM115  # for as long as the process lives
    if sys.stderr is None:
        sys.stderr = open(2, "w", closefd=False)  # noqa: SIM115


def run(arguments: Sequence[str]) -> int:
    """Run one command and return its exit code; an error is written to stderr with its remedy, without traceback."""
    try:
        result: Any = cli.main(list(arguments), prog_name="modelrack", standalone_mode=False, color=use_color())
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        click.echo("Aborted.", err=True)
        return 130
    except BrokenPipeError:
        _silence_stdout()
        return 1
    except Exception as error:
        if "--debug" in takewhile(lambda word: word.startswith("-"), arguments):
            raise
        _show(error)
        return 1
    return result if isinstance(result, int) else 0


def _show(error: Exception) -> None:
    remedy: str | None = getattr(error, "remedy", None)
    message: str | None = getattr(error, "message", None)
    if message is None:
        message = str(error) or type(error).__name__
        if not isinstance(error, ModelrackError | RuntimeError | OSError | ValueError):
            message = f"{type(error).__name__}: {message}"
            remedy = "This should not happen. Run it again as `modelrack --debug …` to see where it comes from."
    click.echo(f"{click.style('Error:', fg='red')} {clean(message)}", err=True, color=use_color())
    if remedy:
        click.echo(clean(remedy), err=True)


def _silence_stdout() -> None:
    """Keep Python from complaining at exit that nobody reads what is left in the buffer."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
