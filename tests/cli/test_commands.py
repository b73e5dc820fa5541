"""The commands against a real server with the echo model."""

import json
import os
import re
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from modelrack.cli.app import COMMANDS
from modelrack.client import Client
from modelrack.testing.serving import Server, clean_environment, start_server, wait_until

from .commands import PROGRAM, Terminal, run, run_json

OWN = {
    "version": 1,
    "model_name": "cli-own",
    "model_lang": ["en"],
    "model_ability": ["chat"],
    "context_length": 2048,
    "model_family": "other",
    "model_specs": [
        {
            "model_format": "gguf",
            "model_size_in_billions": 7,
            "quantizations": ["Q4_K_M"],
            "model_id": "somebody/own",
            "model_file_name_template": "own-{quantization}.gguf",
        }
    ],
}
NOWHERE = "http://127.0.0.1:1"


@pytest.fixture(scope="module")
def client(server: Server) -> Iterator[Client]:
    with Client(server.url) as client:
        yield client


@pytest.fixture(scope="module")
def uid(client: Client) -> Iterator[str]:
    """Launch the echo model."""
    uid = client.launch_model("echo", model_uid="cli-echo")
    yield uid
    client.terminate_model(uid)


def test_help_and_version() -> None:
    environment = clean_environment()
    text = run(environment, "--help").stdout
    for name in COMMANDS:
        assert f"  {name} " in text
        assert "Examples:" in run(environment, name, "--help").stdout
    assert re.fullmatch(r"modelrack \d+\.\d+\.\d+\n", run(environment, "--version").stdout)


def test_wrong_calls_end_with_2() -> None:
    environment = clean_environment()
    assert "Did you mean 'launch'" in run(environment, "lanch", code=2).stderr
    assert "--model-name" in run(environment, "launch", code=2).stderr
    assert "--model-uid" in run(environment, "terminate", code=2).stderr
    assert "no option before it" in run(environment, "launch", "-n", "echo", "stray", code=2).stderr
    assert "is no address" in run(environment, "list", "-e", "ftp://x", code=2).stderr


def test_no_server_is_said_with_the_remedy() -> None:
    environment = clean_environment()
    for arguments in (["list"], ["launch", "-n", "echo"], ["chat", "-u", "x", "hi"], ["engine", "-n", "echo"]):
        done = run(environment, *arguments, "--endpoint", NOWHERE, code=1)
        assert f"Error: No server answers at {NOWHERE}." in done.stderr
        assert "modelrack serve" in done.stderr
        assert done.stdout == ""


def test_launch_list_terminate(server: Server) -> None:
    environment = server.environment
    done = run(environment, "launch", "--model-name", "echo", "--model-uid", "cli-one", "--token-delay-s", "0.001")
    assert done.stdout == "Model uid: cli-one\n"
    header, _, *rows = run(environment, "list").stdout.splitlines()
    assert re.split(r"\s\s+", header) == ["UID", "Type", "Name", "Engine", "Form", "Replicas", "Status"]
    row = next(row for row in rows if row.startswith("cli-one "))
    assert row.split() == ["cli-one", "LLM", "echo", "echo", "echo", "1", "READY"]
    models = run_json({**clean_environment()}, "list", "--endpoint", server.url)
    assert "cli-one" in [model["id"] for model in models]
    assert run(environment, "terminate", "--model-uid", "cli-one").stdout == "Terminated: cli-one\n"
    assert "cli-one" not in run(environment, "list").stdout
    done = run(environment, "terminate", "--model-uid", "cli-one", code=1)
    assert "cli-one" in done.stderr


def test_nothing_on_stdin_is_said(server: Server) -> None:
    for name in ("chat", "generate"):
        assert "Nothing came on stdin" in run(server.environment, name, stdin="", code=2).stderr


def test_an_unknown_engine_is_said(server: Server) -> None:
    done = run(server.environment, "engine", "-n", "echo", "-en", "ecko", code=1)
    assert "There is no engine 'ecko' for LLM models; there is: " in done.stderr
    assert done.stdout == ""


def test_list_all_gives_the_reason_of_a_failure(server: Server) -> None:
    environment = server.environment
    run(environment, "launch", "-n", "echo", "-u", "cli-broken", "--load-failure", "no luck today", code=1)
    lines = run(environment, "list", "--all").stdout.splitlines()
    assert any(line.startswith("cli-broken ") and line.endswith("ERROR") for line in lines)
    assert any(line.startswith("cli-broken: ") and "no luck today" in line for line in lines)
    run(environment, "terminate", "cli-broken")


def test_launch_as_json_with_both_spellings(server: Server) -> None:
    arguments = ["launch", "-n", "echo", "--model_uid", "cli-json", "--repeat", "--env", "COLOUR", "red"]
    answer = run_json(server.environment, *arguments)
    assert answer["model_uid"] == "cli-json"
    assert answer["model_engine"] == "echo"
    assert run_json(server.environment, "terminate", "cli-json") == {"terminated": ["cli-json"]}


def test_launch_without_waiting(server: Server, client: Client) -> None:
    started = time.monotonic()
    run(server.environment, "launch", "-n", "echo", "-u", "cli-later", "--load-delay-s", "30", "--no-wait")
    assert time.monotonic() - started < 15
    assert "cli-later" not in run(server.environment, "list").stdout
    assert "--all" in run(server.environment, "list").stderr
    assert "cli-later" in run(server.environment, "list", "--all").stdout
    client.terminate_model("cli-later")


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["-n", "ecko"], "echo"),
        (["-n", "echo", "--no-such-option", "1"], "no_such_option"),
        (["-n", "echo", "--token-delay-s", "soon"], "token_delay_s"),
        (["-n", "echo", "--load-failure", "the disk is on fire", "-u", "cli-fire"], "the disk is on fire"),
        (["-n", "echo", "-en", "no-such-engine"], "no-such-engine"),
        (["-n", "echo", "--model-path", "missing.gguf"], "missing.gguf"),
        (["-n", "missing.gguf"], "missing.gguf"),
    ],
)
def test_failed_launch_ends_with_1_and_the_reason(server: Server, arguments: list[str], reason: str) -> None:
    done = run(server.environment, "launch", *arguments, code=1)
    assert reason in done.stderr
    assert done.stdout == ""


def test_interrupted_launch_is_cancelled(server: Server, client: Client) -> None:
    """Without a terminal there is nobody to ask."""
    command = [*PROGRAM, "launch", "-n", "echo", "-u", "cli-int", "--hang-on-load"]
    process = subprocess.Popen(
        command,
        env=server.environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    wait_until(lambda: "/v1/models/cli-int/progress" in server.output)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=20)
    assert process.returncode == 130
    assert "was cancelled" in errors
    wait_until(lambda: not client.get_instance_info(model_uid="cli-int"))


def test_interrupted_launch_on_a_terminal_asks(server: Server, client: Client) -> None:
    arguments = ["launch", "-n", "echo", "-u", "cli-ask", "--hang-on-load"]
    with Terminal(server.environment, *arguments) as terminal:
        terminal.expect("%")
        terminal.press("\x03", "Cancel the launch of 'cli-ask'? [Y/n]")
        terminal.enter("n\n")
        terminal.expect("%")
        terminal.enter("\x03")
        terminal.expect("[Y/n]")
        terminal.press("\x03", "Left running")
        assert terminal.end() == 130
    assert client.get_instance_info(model_uid="cli-ask")
    client.terminate_model("cli-ask")
    with Terminal(server.environment, *arguments) as terminal:
        terminal.expect("%")
        terminal.enter("\x03")
        terminal.expect("[Y/n]")
        terminal.enter("\n")
        terminal.expect("was cancelled")
        assert terminal.end() == 130
    assert not client.get_instance_info(model_uid="cli-ask")


def test_tables_on_a_terminal(server: Server, uid: str) -> None:
    with Terminal(server.environment, "list") as terminal:
        terminal.expect(uid)
        assert terminal.end() == 0


def test_registrations(server: Server, tmp_path: Path) -> None:
    environment = server.environment
    rows = run(environment, "registrations").stdout.splitlines()
    assert any(re.match(r"LLM +echo .*chat.* yes$", row) for row in rows)
    assert any(family["model_name"] == "echo" for family in run_json(environment, "registrations"))
    path = tmp_path / "own.json"
    path.write_text(json.dumps(OWN))
    assert run(environment, "register", "-t", "LLM", "-f", str(path)).stdout == "Registered: cli-own\n"
    assert any(re.match(r"LLM +cli-own .* no$", row) for row in run(environment, "registrations").stdout.splitlines())
    assert "cli-own" in run(environment, "register", "-f", "-", stdin=path.read_text(), code=1).stderr
    assert run(environment, "unregister", "-t", "LLM", "-n", "cli-own").stdout == "Unregistered: cli-own\n"
    run(environment, "unregister", "-n", "cli-own", code=1)
    run(environment, "unregister", "-n", "echo", code=1)
    run(environment, "registrations", "--model-type", "no-such-type", code=1)
    path.write_text("{")
    run(environment, "register", "-f", str(path), code=2)
    run(environment, "register", "-f", str(tmp_path / "missing.json"), code=2)


def test_models_of_other_types_are_registered_and_shown(server: Server, tmp_path: Path) -> None:
    environment, path = server.environment, tmp_path / "own.json"
    own = {"max_tokens": 512, "language": ["en"], "model_specs": [{"model_format": "pytorch", "model_id": "a/b"}]}
    for model_type, more in (("embedding", {"dimensions": 384}), ("rerank", {"type": "normal"})):
        path.write_text(json.dumps({**own, **more, "model_name": "cli-vectors"}))
        arguments = ("-t", model_type)
        assert run(environment, "register", *arguments, "-f", str(path)).stdout == "Registered: cli-vectors\n"
        text = run(environment, "registrations", *arguments).stdout.splitlines()
        (row,) = [line for line in text if " cli-vectors " in line]
        assert {"Language", "Ability", "Max"} <= set(text[0].split()) and " 512 " in row
        assert ("Dimensions" in text[0] and " 384 " in row) if "dimensions" in more else " normal " in row
        found = run_json(environment, "engine", *arguments, "-n", "cli-vectors")
        assert found["model_name"] == "cli-vectors"
        run(environment, "engine", *arguments, "-n", "cli-vectors")
        run(environment, "unregister", *arguments, "-n", "cli-vectors")


def test_every_type_has_registrations(server: Server) -> None:
    for model_type in ("LLM", "embedding", "rerank", "image", "audio", "video"):
        assert isinstance(run_json(server.environment, "registrations", "-t", model_type), list)


def test_engine(server: Server) -> None:
    text = run(server.environment, "engine", "-n", "echo").stdout
    assert re.search(r"^echo +echo +echo +- +none +-?\d+ +server$", text, re.MULTILINE)
    assert "--token-delay-s" in text
    answer = run_json(server.environment, "engine", "-n", "echo", "-en", "ECHO")
    assert list(answer["engines"]) == ["echo"]
    assert "token_delay_s" in answer["options"]["echo"]["properties"]
    assert "ecko" in run(server.environment, "engine", "-n", "ecko", code=1).stderr


def test_cached(server: Server) -> None:
    assert isinstance(run_json(server.environment, "cached"), list)
    assert run_json(server.environment, "cached", "--model-name", "no-such-model") == []
    run(server.environment, "cached")


def test_plugins_needs_no_server() -> None:
    environment = {**clean_environment(), "MODELRACK_ENDPOINT": NOWHERE}
    rows = run_json(environment, "plugins")
    echo = next(row for row in rows if row["name"] == "echo")
    assert echo["distribution"] == "modelrack-echo"
    assert "echo" in echo["engines"]
    assert (echo["api"], echo["state"]) == (1, "loaded")
    text = run({**environment, "MODELRACK_PLUGINS": "echo,ecko"}, "plugins").stdout
    assert re.search(r"^echo +\S+ +modelrack-echo .*engines: echo", text, re.MULTILINE)
    assert "ecko: not installed" in text
    assert "Did you mean 'echo'?" in text


def test_generate(server: Server, uid: str) -> None:
    environment = server.environment
    assert run(environment, "generate", "-u", uid, "one", "two").stdout == "one two\n"
    assert run(environment, "generate", "-u", uid, stdin="one two\n").stdout == "one two\n"
    assert run(environment, "generate", "-u", uid, "--stream", "False", "one two").stdout == "one two\n"
    done = run(environment, "generate", "-u", uid, "--max_tokens", "1", "--verbose", "one two three")
    assert len(done.stdout.split()) == 1
    assert "tokens/s" in done.stderr
    answer = run_json(environment, "generate", "-u", uid, "one two")
    assert answer["choices"][0]["text"].strip() == "one two"
    assert "no-such" in run(environment, "generate", "-u", "no-such", "hi", code=1).stderr


def test_serve_on_a_busy_port(server: Server, tmp_path: Path) -> None:
    port = server.url.rpartition(":")[2]
    done = run(clean_environment(), "serve", "--port", port, "--home", str(tmp_path), code=1)
    assert "in use" in done.stderr
    assert "--port" in done.stderr


def test_serve_with_a_wrong_setting() -> None:
    done = run({**clean_environment(), "MODELRACK_DRAIN_S": "soon"}, "serve", "--port", "0", code=2)
    assert "MODELRACK_DRAIN_S" in done.stderr


def test_api_key(tmp_path: Path) -> None:
    with start_server(tmp_path, MODELRACK_API_KEYS="secret") as server:
        environment = {**server.environment, "MODELRACK_API_KEYS": "secret"}
        run(environment, "list", code=1)
        run(environment, "list", "-ak", "wrong", code=1)
        run(environment, "list", "-ak", "secret")
        run({**environment, "MODELRACK_API_KEY": "secret"}, "list")


def test_closed_pipe_is_no_error(server: Server, uid: str) -> None:
    """`modelrack list | head -0` must not complain."""
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(
        [*PROGRAM, "list"], env=server.environment, stdout=writing, stderr=subprocess.PIPE, text=True, timeout=60
    )
    os.close(writing)
    assert "Traceback" not in done.stderr
    assert "Exception" not in done.stderr


@pytest.mark.parametrize("name", ["nofile.gguf", "./nofile.gguf", "/nowhere/nofile.gguf"])
def test_a_file_that_is_not_there_is_named(server: Server, name: str) -> None:
    done = run(server.environment, "launch", "-n", name, code=1)
    assert f"There is no file {name.removeprefix('./')}." in done.stderr
