"""Chatting on the command line, with a real server and the echo model."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from modelrack.client import Client
from modelrack.testing.serving import Server

from .commands import Terminal, run, run_json


@pytest.fixture(scope="module")
def client(server: Server) -> Iterator[Client]:
    with Client(server.url) as client:
        yield client


@pytest.fixture(scope="module")
def uid(client: Client) -> Iterator[str]:
    """Launch the echo model."""
    uid = client.launch_model("echo", model_uid="chat-echo")
    yield uid
    client.terminate_model(uid)


@pytest.fixture(scope="module")
def slow_uid(client: Client) -> Iterator[str]:
    """Launch an echo model that never ends by itself."""
    uid = client.launch_model("echo", model_uid="chat-slow", token_delay_s=0.05, repeat=True)
    yield uid
    client.terminate_model(uid)


def test_one_question(server: Server, uid: str) -> None:
    environment = server.environment
    assert run(environment, "chat", "-u", uid, "one", "two").stdout == "one two\n"
    assert run(environment, "chat", "--model-uid", uid, stdin="one\ntwo\n").stdout == "one\ntwo\n"
    assert run(environment, "chat", "-u", uid, "--stream", "false", "one two").stdout == "one two\n"
    assert run(environment, "chat", "-u", uid, "--max-tokens", "1", "one two").stdout.split() == ["one"]
    assert "tokens/s" in run(environment, "chat", "-u", uid, "-v", "one two").stderr


def test_question_as_json(server: Server, uid: str) -> None:
    answer = run_json(server.environment, "chat", "-u", uid, "one two")
    assert answer["choices"][0]["message"]["content"].strip() == "one two"
    assert answer["model"] == uid


def test_model_by_name_is_launched_when_it_does_not_run(tmp_path: Path, server: Server) -> None:
    from modelrack.testing.serving import start_server

    with start_server(tmp_path) as own:
        assert "modelrack chat --model-name" in run(own.environment, "chat", "hi", code=1).stderr
        assert run(own.environment, "chat", "-n", "echo", "hi").stdout == "hi\n"
        assert run(own.environment, "chat", "-n", "echo", "hi").stdout == "hi\n"
        assert run(own.environment, "chat", "hi").stdout == "hi\n"
        with Client(own.url) as client:
            assert list(client.list_models()) == ["echo"]


def test_which_model_is_asked_for(server: Server, uid: str, slow_uid: str) -> None:
    assert uid in run(server.environment, "chat", "hi", code=2).stderr


def test_unknown_model(server: Server) -> None:
    done = run(server.environment, "chat", "-u", "no-such", "hi", code=1)
    assert "no-such" in done.stderr


def test_conversation(server: Server, uid: str, tmp_path: Path) -> None:
    saved = tmp_path / "talk.json"
    with Terminal(server.environment, "chat", "-u", uid, "--verbose") as terminal:
        terminal.expect(">>> ")
        terminal.enter("hello there\n")
        terminal.expect("hello there")  # what was typed
        terminal.expect("hello there")  # what was answered
        terminal.expect("tokens/s")
        terminal.expect(">>> ")
        terminal.enter("first \\\n")
        terminal.expect("... ")
        terminal.enter("second\n")
        terminal.expect(">>> ")
        terminal.enter('"""\n')
        terminal.expect("... ")
        terminal.enter("third\n")
        terminal.expect("... ")
        terminal.enter('fourth"""\n')
        terminal.expect(">>> ")
        terminal.enter("/system Be brief.\n/set temperature 0.2\n/set\n")
        terminal.expect("temperature 0.2")
        terminal.enter("/nonsense\n")
        terminal.expect("There is no command /nonsense")
        terminal.enter("/help\n")
        terminal.expect("/exit")
        terminal.enter(f"/save {saved}\n")
        terminal.expect("Saved to")
        terminal.enter("/clear\n")
        terminal.expect("Forgotten.")
        terminal.enter("/exit\n")
        assert terminal.end() == 0
    content = json.loads(saved.read_text())
    assert content["model"] == uid
    assert content["temperature"] == 0.2
    roles = [message["role"] for message in content["messages"]]
    assert roles == ["system", *("user", "assistant") * 3]
    asked = [message["content"] for message in content["messages"] if message["role"] == "user"]
    assert asked == ["hello there", "first \nsecond", "third\nfourth"]
    history = server.home / "chat_history"
    assert "hello there" in history.read_text()
    assert history.stat().st_mode & 0o077 == 0


def test_ctrl_c_stops_an_answer_and_ctrl_d_leaves(server: Server, slow_uid: str) -> None:
    with Terminal(server.environment, "chat", "-u", slow_uid) as terminal:
        terminal.expect(">>> ")
        terminal.enter("again and\n")
        terminal.expect("again and")
        terminal.expect("andagain")
        terminal.enter("\x03")
        terminal.expect("(stopped)")
        terminal.expect(">>> ")
        terminal.press("\x03", ">>> ")
        terminal.enter("\x04")
        assert terminal.end() == 0


def test_error_in_a_conversation_does_not_end_it(server: Server, uid: str) -> None:
    with Terminal(server.environment, "chat", "-u", uid) as terminal:
        terminal.expect(">>> ")
        terminal.enter("/set temperature hot\n")
        terminal.expect(">>> ")
        terminal.enter("hello\n")
        terminal.expect("Error:")
        terminal.expect(">>> ")
        terminal.enter("/set temperature\n")
        terminal.expect(">>> ")
        terminal.enter("good morning\n")
        terminal.expect("good morning")
        terminal.expect("good morning")
        terminal.enter("/exit\n")
        assert terminal.end() == 0
