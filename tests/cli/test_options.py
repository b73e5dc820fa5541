"""The parts of the command line that need no server."""

import io
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import click
import pytest

from modelrack.cli import launch, output, progress
from modelrack.cli.app import COMMANDS, cli
from modelrack.cli.engine import _matches
from modelrack.cli.talk import Answer, show_stream


@pytest.mark.parametrize(
    ("words", "rewritten"),
    [
        ("-n m --env isolated --env A B", "-n m --environment isolated --env A B"),
        ("-n m -ev server -ev A B", "-n m --environment server -ev A B"),
        ("--env=./venv --env=A B", "--environment=./venv --env=A B"),
        ("--env ~ --env", "--environment ~ --env"),
        ("--env A /b", "--env A /b"),
    ],
)
def test_an_environment_is_told_from_a_variable(words: str, rewritten: str) -> None:
    assert launch.split_env(words.split()) == rewritten.split()


@pytest.mark.parametrize(
    ("words", "options"),
    [
        ("--n-ctx 512 --flash-attn", {"n_ctx": "512", "flash_attn": True}),
        ("--n_ctx=512 --name=a=b", {"n_ctx": "512", "name": "a=b"}),
        ("--offset -1 --scale -0.5", {"offset": "-1", "scale": "-0.5"}),
        ("--empty=", {"empty": ""}),
        ('--map {"a":1} --list [1,2] --text {oops', {"map": {"a": 1}, "list": [1, 2], "text": "{oops"}),
    ],
)
def test_engine_options(words: str, options: dict[str, Any]) -> None:
    assert launch.parse_extra(words.split()) == options


@pytest.mark.parametrize("words", ["stray", "--a 1 2", "--a 1 --a 2", "--n-ctx 1 --n_ctx 2", "-x 1", "--"])
def test_engine_options_that_are_none(words: str) -> None:
    with pytest.raises(click.UsageError):
        launch.parse_extra(words.split())


def test_paths_become_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "m.gguf").touch()
    (tmp_path / "echo").mkdir()

    def settle(name: str, path: str | None = None) -> tuple[str, str | None]:
        arguments = {"model_name": name, "model_path": path, "peft_model_config": None}
        launch._make_paths_absolute(arguments)
        return arguments["model_name"] or "", arguments["model_path"]

    assert settle("m.gguf")[0] == str(tmp_path / "m.gguf")
    assert settle("./echo")[0] == str(tmp_path / "echo")
    assert settle("echo")[0] == "echo", "a folder that happens to be called like a model"
    assert settle("org/name")[0] == "org/name"
    assert settle("echo", "sub/file") == ("echo", str(tmp_path / "sub/file"))


def test_n_gpu_and_gpu_idx() -> None:
    assert [launch._parse_n_gpu(value) for value in ("auto", "none", "2")] == ["auto", None, 2]
    assert launch._parse_gpu_idx("0,3") == [0, 3]
    with pytest.raises(click.BadParameter):
        launch._parse_n_gpu("many")
    with pytest.raises(click.BadParameter):
        launch._parse_gpu_idx("a")


@pytest.mark.parametrize("size", ["1_8", "1.8", "1.8B"])
def test_engine_filters(size: str) -> None:
    form = {"model_format": "gguf", "model_size_in_billions": 1.8, "quantizations": ["Q4_K_M"]}
    assert _matches(form, {"model_size_in_billions": size, "quantization": "q4_k_m", "model_format": None})
    assert not _matches(form, {"model_size_in_billions": "7"})


def test_help_of_the_group_says_what_each_command_says() -> None:
    """The group's help does not load the commands, so its lines are written twice."""
    with click.Context(cli) as context:
        for name, (_, text) in COMMANDS.items():
            command = cli.get_command(context, name)
            assert command is not None
            assert command.short_help == text
            assert command.name == name
            assert "Examples:" in (command.epilog or "")


def test_plain_table_cuts_nothing_off(capsys: pytest.CaptureFixture[str]) -> None:
    output.print_table(["Name", "Ability"], [["x" * 300, ["a", "b"]], ["y\x1b[31m\nz", None]])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["Name", "Ability"]
    assert lines[2] == "x" * 300 + "  a, b"
    assert lines[3].split() == ["y[31m", "z", "-"]


@pytest.mark.parametrize("value", [None, [], ""])
def test_empty_cells(value: Any) -> None:
    assert output.cell(value) == "-"


def test_stream_leaves_reasoning_out_of_a_pipe(capsys: pytest.CaptureFixture[str]) -> None:
    chunks: list[dict[str, Any]] = [
        {"choices": [{"delta": {"reasoning_content": "hm"}}]},
        {"choices": [{"delta": {"content": "yes"}, "finish_reason": "stop"}]},
        {"choices": [], "usage": {"completion_tokens": 2, "prompt_tokens": 1}},
    ]
    answer = show_stream(chunks, Answer())
    assert capsys.readouterr().out == "yes"
    assert (answer.text, answer.reasoning, answer.finish_reason, answer.is_complete) == ("yes", "hm", "stop", True)
    assert "2 tokens" in answer.figures()


PROBE = """
import json, sys
from modelrack.cli.app import run
code = run({arguments})
sys.stdout.flush()
result = {{"code": code, "modules": sorted(sys.modules)}}
print(json.dumps(result), file=sys.stderr)
"""


def probe(*arguments: str) -> dict[str, Any]:
    program = PROBE.format(arguments=list(arguments))
    done = subprocess.run([sys.executable, "-P", "-c", program], capture_output=True, text=True, check=True)
    result: dict[str, Any] = json.loads(done.stderr.splitlines()[-1])
    return result


@pytest.mark.parametrize(
    ("arguments", "unwanted"),
    [
        (["--help"], {"fastapi", "httpx", "pydantic", "rich", "asyncio"}),
        (["launch", "--help"], {"fastapi", "httpx", "pydantic", "rich", "asyncio"}),
        (["list", "--endpoint", "http://127.0.0.1:1"], {"fastapi", "pydantic"}),
        (["plugins"], {"fastapi", "httpx", "uvicorn"}),
    ],
)
def test_commands_load_only_what_they_need(arguments: list[str], unwanted: set[str]) -> None:
    result = probe(*arguments)
    assert not unwanted & set(result["modules"])


def test_download_shows_bytes() -> None:
    assert progress._detail({"done_bytes": 12_000_000, "total_bytes": 1_500_000_000}) == "12 of 1,500 MB"
    assert progress._detail({"done_bytes": None, "total_bytes": None}) == ""


def test_reasoning_is_dim_and_control_characters_are_harmless_on_a_terminal() -> None:
    class Screen(io.StringIO):
        def isatty(self) -> bool:
            return True

    chunks: list[dict[str, Any]] = [
        {"choices": [{"delta": {"reasoning_content": "hm\x1b]0;title\x07"}}]},
        {"choices": [{"delta": {"content": "y\x1b[2Jes\n"}}]},
    ]
    screen = Screen()
    show_stream(chunks, Answer(), screen)
    assert screen.getvalue() == "\x1b[2mhm]0;title\x1b[0m\n\ny[2Jes\n"
