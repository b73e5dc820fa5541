"""What the commands on environments print and understand; nothing is made for it."""

import click
import pytest
from rich.cells import cell_len

from modelrack.cli.launch import launch
from modelrack.cli.output import fit_widths, print_table


def test_names_stay_in_one_line(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("modelrack.cli.output.is_terminal", lambda: True)
    monkeypatch.setenv("COLUMNS", "80")
    name = "transformers-3f1c0a9b2d4e"
    headers = ["Name", "Engine", "Device", "Python", "Packages", "Size", "Made"]
    row = [name, "Transformers", "cpu", "3.11.7", 57, "1.1 GB", "2026-11-22 21:00"]
    print_table(headers, [row], kept=(0,))
    lines = capsys.readouterr().out.splitlines()
    assert any(line.startswith(f"{name} ") for line in lines) and max(map(cell_len, lines)) <= 80


def test_a_kept_column_gives_way_last() -> None:
    assert fit_widths([25, 30, 5], [25, 8, 5], 31, kept=(0,)) == [25, 3, 3]
    assert fit_widths([25, 30], [25, 8], 20, kept=(0,)) == [19, 1]


def parse(*words: str) -> object:
    context = launch.make_context("launch", ["-n", "m", *words])
    return context.params["environment"]


@pytest.mark.parametrize(
    "words", [["--env", "venv"], ["-ev", "venv"], ["--env=venv"], ["--env", "venv", "--n-gpu", "1"]]
)
def test_a_word_that_is_no_environment(words: list[str]) -> None:
    with pytest.raises(click.UsageError, match=r"isolated, server or \./PATH"):
        parse(*words)


@pytest.mark.parametrize(
    "words", [["--env", "isolated", "--env", "server"], ["--environment", "isolated", "--env=server"]]
)
def test_two_environments(words: list[str]) -> None:
    with pytest.raises(click.UsageError, match=r"'--environment'.* is given as isolated and as server"):
        parse(*words)


def test_one_environment() -> None:
    assert parse("--env", "isolated", "--environment", "isolated") == "isolated"
    assert parse("--env", "A", "--flag", "--env", "./venv") == "./venv"
    assert parse("--env", "A", "B") is None
