"""What commands print: tables, JSON and text that came from elsewhere."""

import json
import re
import sys
from collections.abc import Iterable, Sequence
from typing import Any

__all__ = ["cell", "clean", "is_terminal", "print_json", "print_table"]

_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def is_terminal() -> bool:
    """Return whether a person reads what is printed."""
    return sys.stdout.isatty()


def clean(text: str) -> str:
    """Take control characters out of a text that a terminal would obey; line ends and tabs stay."""
    return _CONTROL.sub("", text)


def cell(value: Any) -> str:
    """Return a value as one line of a table."""
    if value is None or value == "" or value == []:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, list | tuple):
        return ", ".join(cell(item) for item in value)
    return clean(str(value)).replace("\n", " ").replace("\t", " ")


def print_json(value: Any) -> None:
    """Print a value as JSON."""
    print(json.dumps(value, indent=2, ensure_ascii=False))


def print_table(headers: Sequence[str], rows: Iterable[Sequence[Any]], *, title: str | None = None) -> None:
    """Print a table: fitted to a terminal, else in plain columns of which nothing is cut off."""
    texts = [[cell(value) for value in row] for row in rows]
    if is_terminal():
        _print_rich(headers, texts, title)
    else:
        _print_plain(headers, texts, title)


def _print_plain(headers: Sequence[str], rows: list[list[str]], title: str | None) -> None:
    if title:
        print(title)
    lines = [list(headers), *rows]
    widths = [max(len(line[i]) for line in lines) for i in range(len(headers))]
    for line in [lines[0], ["-" * width for width in widths], *lines[1:]]:
        print("  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip())


def _print_rich(headers: Sequence[str], rows: list[list[str]], title: str | None) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(title=Text(title) if title else None, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    for header in headers:
        table.add_column(Text(header), overflow="fold")
    for row in rows:
        table.add_row(*(Text(text) for text in row))
    Console().print(table)
