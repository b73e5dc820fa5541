"""What commands print: tables, JSON and text that came from elsewhere."""

import json
import os
import re
import sys
from collections.abc import Collection, Iterable, Sequence
from typing import Any

__all__ = ["cell", "clean", "fit_widths", "is_terminal", "print_json", "print_table", "use_color"]

GAP = 2
"""Columns of a terminal between two columns of a table."""

_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def is_terminal() -> bool:
    """Return whether a person reads what is printed."""
    return sys.stdout.isatty()


def use_color() -> bool | None:
    """Return False if the user wants none (NO_COLOR, https://no-color.org); None: the terminal decides."""
    return False if os.environ.get("NO_COLOR") else None


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


def print_table(
    headers: Sequence[str], rows: Iterable[Sequence[Any]], *, title: str | None = None, kept: Collection[int] = ()
) -> None:
    """Print a table: fitted to a terminal, else in plain columns of which nothing is cut off.

    Args:
        kept: columns, by index, whose texts stay in one line as long as the others can give way.
    """
    texts = [[cell(value) for value in row] for row in rows]
    if is_terminal():
        _print_fitted(headers, texts, title, kept)
    else:
        _print_plain(headers, texts, title)


def _print_plain(headers: Sequence[str], rows: list[list[str]], title: str | None) -> None:
    if title:
        print(title)
    lines = [list(headers), *rows]
    widths = [max(len(line[i]) for line in lines) for i in range(len(headers))]
    for line in [lines[0], ["-" * width for width in widths], *lines[1:]]:
        print("  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip())


def _print_fitted(headers: Sequence[str], rows: list[list[str]], title: str | None, kept: Collection[int]) -> None:
    from rich import box
    from rich.cells import cell_len
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console()
    columns = [[header, *(row[i] for row in rows)] for i, header in enumerate(headers)]
    whole = [max(cell_len(text) for text in column) for column in columns]
    words = [max(cell_len(word) for text in column for word in text.split()) for column in columns]
    widths = fit_widths(whole, words, console.width - GAP * (len(columns) - 1), kept)
    table = Table(
        title=Text(title) if title else None,
        title_justify="left",
        box=box.SIMPLE_HEAD,
        show_edge=False,
        pad_edge=False,
        collapse_padding=True,
    )
    for header, width in zip(headers, widths, strict=True):
        table.add_column(Text(header), width=width, overflow="fold")
    for row in rows:
        table.add_row(*(Text(text) for text in row))
    console.print(table)


def fit_widths(whole: Sequence[int], words: Sequence[int], room: int, kept: Collection[int] = ()) -> list[int]:
    """Return the widths of columns that have `room` together: texts in one line, else broken between words, and words
    themselves (names, which somebody may want to copy) only where even the longest words do not fit side by side.

    Args:
        whole: the longest text of each column.
        words: the longest word of each.
        kept: columns, by index, that give way only where all others have one character left.
    """  # noqa: D205
    widths = list(whole)
    while sum(widths) > room:
        free = [0 if i in kept else width for i, width in enumerate(widths)]
        if max(free) <= 1:
            free = list(widths)
        spare = [width - word for width, word in zip(free, words, strict=True)]
        widest = spare.index(max(spare)) if max(spare) > 0 else free.index(max(free))
        if widths[widest] <= 1:
            break
        widths[widest] -= 1
    return widths
