"""A conversation on a terminal."""

import json
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import click

from ..client import ClientError
from ..client.handles import ChatHandle
from .output import use_color
from .talk import Answer, parse_number, show_stream

__all__ = ["Session"]

FENCE = '"""'
HISTORY_LINES = 1000


class Session:
    """A conversation: its messages, its settings and its commands.

    Args:
        model: whom to ask.
        config: fields of each request (`temperature`, `max_tokens`, …).
    """

    def __init__(
        self,
        model: ChatHandle,
        config: dict[str, Any],
        *,
        system: str | None = None,
        enable_thinking: bool | None = None,
        verbose: bool = False,
    ) -> None:
        self.model = model
        self.config = config
        self.system = system
        self.messages: list[dict[str, Any]] = []
        self._thinking = enable_thinking
        self._verbose = verbose
        self._running = True

    def run(self) -> None:
        """Read and answer until Ctrl-D or /exit."""
        history = _load_history()
        click.secho(f"{self.model.model_uid}: /help lists the commands, Ctrl-D leaves.", dim=True)
        try:
            while self._running:
                try:
                    text = self._read().strip()
                except KeyboardInterrupt:
                    click.echo()
                    continue
                except EOFError:
                    click.echo()
                    break
                if text.startswith("/"):
                    self._command(text)
                elif text:
                    self._answer(text)
        finally:
            _save_history(history)

    def _read(self) -> str:
        """Read one message, which may be of several lines."""
        line = input(_prompt(">>> "))
        if line.strip().startswith(FENCE):
            return self._read_fenced(line.strip()[len(FENCE) :])
        lines = [line]
        while lines[-1].endswith("\\"):
            lines[-1] = lines[-1][:-1]
            lines.append(input(_prompt("... ")))
        return "\n".join(lines)

    def _read_fenced(self, first: str) -> str:
        lines = [first]
        while not lines[-1].rstrip().endswith(FENCE):
            lines.append(input(_prompt("... ")))
        lines[-1] = lines[-1].rstrip().removesuffix(FENCE)
        return "\n".join(lines).strip("\n")

    def _answer(self, text: str) -> None:
        asked = [*self.messages, {"role": "user", "content": text}]
        sent = [{"role": "system", "content": self.system}, *asked] if self.system else asked
        config = {**self.config, "stream": True, "stream_options": {"include_usage": True}}
        answer = Answer()
        try:
            with self.model.chat(sent, enable_thinking=self._thinking, generate_config=config) as chunks:
                show_stream(chunks, answer)
            click.echo()
        except KeyboardInterrupt:
            click.secho(" (stopped)", dim=True)
        except ClientError as error:
            click.echo()
            click.echo(f"{click.style('Error:', fg='red')} {error}", err=True)
            if error.param in self.config:
                click.echo(f"Take it away with: /set {error.param}", err=True)
        if self._verbose:
            click.secho(answer.figures(), dim=True)
        if answer.text or answer.is_complete:
            self.messages = [*asked, {"role": "assistant", "content": answer.text}]

    def _command(self, text: str) -> None:
        name, _, rest = text[1:].partition(" ")
        action = getattr(self, f"do_{name}", None) if name.isidentifier() else None
        if action is None:
            click.echo(f"There is no command /{name}; /help lists them.")
        else:
            action(rest.strip())

    def do_help(self, _: str) -> None:
        """List the commands."""
        for command in ("help", "clear", "system TEXT", "set [NAME [VALUE]]", "save [FILE]", "exit"):
            text = (getattr(self, f"do_{command.split()[0]}").__doc__ or "").splitlines()[0]
            click.echo(f"  /{command:<20} {text}")
        click.echo('  A line that ends with \\ goes on in the next; so does all from """ to """.')
        click.echo("  Ctrl-C stops an answer, Ctrl-D leaves.")

    def do_clear(self, _: str) -> None:
        """Forget the conversation so far."""
        self.messages = []
        click.secho("Forgotten.", dim=True)

    def do_system(self, text: str) -> None:
        """Set the system message, or take it away."""
        self.system = text or None
        click.secho("System message set." if text else "No system message.", dim=True)

    def do_set(self, text: str) -> None:
        """Set a field of the requests, take it away, or list all."""
        name, _, value = text.partition(" ")
        if not name:
            for key, known in self.config.items():
                click.echo(f"  {key} {json.dumps(known)}")
        elif value:
            self.config[name] = parse_number(value.strip())
        else:
            self.config.pop(name, None)

    def do_save(self, text: str) -> None:
        """Write the conversation to a file as JSON."""
        path = Path(text or "conversation.json").expanduser()
        messages = [{"role": "system", "content": self.system}, *self.messages] if self.system else self.messages
        content = {"model": self.model.model_uid, "messages": messages, **self.config}
        try:
            path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        except OSError as error:
            click.echo(f"Cannot write {path}: {error.strerror}", err=True)
            return
        click.secho(f"Saved to {path.absolute()}.", dim=True)

    def do_exit(self, _: str) -> None:
        """Leave."""
        self._running = False


def _prompt(text: str) -> str:
    """Return a coloured prompt; the marks keep readline from counting the colour as width."""
    is_plain = not sys.stdout.isatty() or "readline" not in sys.modules or use_color() is False
    return text if is_plain else f"\x01\x1b[36m\x02{text}\x01\x1b[0m\x02"


def _load_history() -> Path | None:
    """Load what was typed before; return where to save it, or None where there is no readline."""
    try:
        import readline
    except ImportError:
        return None
    from ..settings import get_settings

    path = get_settings().home / "chat_history"
    readline.set_history_length(HISTORY_LINES)
    with suppress(OSError):  # the first time there is none
        readline.read_history_file(path)
    return path


def _save_history(path: Path | None) -> None:
    if path is None:
        return
    import readline

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch(mode=0o600)
        readline.write_history_file(path)
    except OSError as error:
        click.echo(f"Cannot write {path}: {error.strerror}", err=True)
