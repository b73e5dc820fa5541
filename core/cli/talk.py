"""What chat and generate share: choosing the model, showing a stream, and the figures behind it."""

import sys
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, TextIO

import click

from ..client import Client
from .output import clean, use_color
from .progress import wait_with_progress

__all__ = ["Answer", "choose_model", "launch_if_needed", "parse_number", "read_text", "show_stream"]


@dataclass(slots=True)
class Answer:
    """An answer that is being shown; make it before the request is sent, since its clock then starts.

    Args:
        is_complete: False if it was stopped half-way.
    """

    text: str = ""
    reasoning: str = ""
    usage: dict[str, Any] = field(default_factory=dict)
    finish_reason: str | None = None
    started: float = field(default_factory=time.perf_counter)
    first_s: float = 0.0
    seconds: float = 0.0
    is_complete: bool = False

    def figures(self) -> str:
        """Return speed and size in one line."""
        tokens = self.usage.get("completion_tokens")
        if not tokens:
            return f"{self.seconds:.2f} s"
        rate = tokens / self.seconds if self.seconds > 0 else 0.0
        return (
            f"{tokens} tokens in {self.seconds:.2f} s ({rate:.1f} tokens/s), first after {self.first_s * 1000:.0f} ms, "
            f"prompt {self.usage.get('prompt_tokens')} tokens, {self.finish_reason}"
        )


def choose_model(client: Client, uid: str | None, name: str | None, ability: str, command: str) -> str:
    """Return the uid of the model to talk to: the one given, the one of this name (launched if it is not running), or
    the only one that can.

    Raises: click.UsageError: several can. click.ClickException: none can.
    """  # noqa: D205
    if uid is not None:
        return uid
    if name is not None:
        return launch_if_needed(client, name)
    able = [key for key, model in client.list_models().items() if ability in (model.get("model_ability") or ())]
    if len(able) == 1:
        return able[0]
    if able:
        raise click.UsageError(f"Several models can {ability}: {', '.join(able)}. Name one: modelrack {command} -u UID")
    raise click.ClickException(f"No running model can {ability}.\nLaunch one: modelrack {command} --model-name NAME")


def launch_if_needed(client: Client, name: str) -> str:
    """Return the uid of a running model of this name; launch it if there is none."""
    for uid, model in client.list_models().items():
        if name in (uid, model.get("model_name")):
            return uid
    uid = client.launch_model(name, wait_ready=False)
    wait_with_progress(client, uid)
    return uid


def read_text(words: tuple[str, ...]) -> str | None:
    """Return the text of the command line, or of stdin if it is no terminal or `-` is given; None to ask a person.

    Raises: click.UsageError: stdin is empty.
    """
    if words and words != ("-",):
        return " ".join(words)
    if words == ("-",) or not sys.stdin.isatty():
        text = sys.stdin.read().rstrip("\n")
        if not text:
            raise click.UsageError("Nothing came on stdin; give the text as an argument, or pipe it in.")
        return text
    return None


def parse_number(value: str) -> Any:
    """Read a value that a person typed: JSON if it is, else the text."""
    import json

    try:
        return json.loads(value)
    except ValueError:
        return value


def show_stream(stream: Iterable[dict[str, Any]], answer: Answer, out: TextIO | None = None) -> Answer:
    """Write a stream's text as it comes.

    Reasoning is shown dimly on a terminal, and left out elsewhere. `answer` is filled on the way, so that it holds what
    came when this is interrupted.
    """
    out = out or sys.stdout
    is_tty = out.isatty()
    dim_on, dim_off = ("", "") if use_color() is False else ("\x1b[2m", "\x1b[0m")
    dim = False
    try:
        for kind, text in _pieces(stream, answer):
            if not answer.text and not answer.reasoning:
                answer.first_s = time.perf_counter() - answer.started
            if kind == "reasoning":
                answer.reasoning += text
                if not is_tty:
                    continue
            else:
                answer.text += text
            if is_tty:
                text = clean(text)
                if (kind == "reasoning") is not dim:
                    dim = not dim
                    out.write(dim_on if dim else f"{dim_off}\n\n")
            out.write(text)
            out.flush()
        answer.is_complete = True
    finally:
        answer.seconds = time.perf_counter() - answer.started
        if dim:
            out.write(dim_off)
        out.flush()
    return answer


def _pieces(stream: Iterable[dict[str, Any]], answer: Answer) -> Iterator[tuple[str, str]]:
    """Yield (kind, text) of each chunk of a chat or a completion."""
    for chunk in stream:
        if chunk.get("usage"):
            answer.usage = chunk["usage"]
        for choice in chunk.get("choices") or ():
            answer.finish_reason = choice.get("finish_reason") or answer.finish_reason
            delta = choice.get("delta") or {}
            if delta.get("reasoning_content"):
                yield "reasoning", delta["reasoning_content"]
            text = delta.get("content") or choice.get("text")
            if text:
                yield "text", text
