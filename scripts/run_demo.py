"""Start a server with the demonstration model, ask it one question, and stay in the foreground until Ctrl-C."""

import argparse
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

ROOT = Path(__file__).resolve().parent.parent
MODELRACK = Path(sys.executable).parent / "modelrack"
HOST = "127.0.0.1"
MODEL = "demo-chat"
QUESTION = "What is the largest animal?"
READY_S = 60
STOP_S = 60

TRY = """
Try it, from another terminal in this folder:

  command line   {modelrack} chat --model-uid {model}{endpoint}
                 {modelrack} list{endpoint}
                 {modelrack} registrations --model-type LLM{endpoint}

  curl           curl {url}/v1/chat/completions -H 'Content-Type: application/json' \\
                   -d '{{"model": "{model}", "messages": [{{"role": "user", "content": "{question}"}}]}}'

  our client     in {python}:
                 from modelrack.client import Client
                 model = Client("{url}").get_model("{model}")
                 print(model.chat([{{"role": "user", "content": "{question}"}}]))

  OpenAI SDK     after {python} -m pip install openai, in {python}:
                 import openai
                 client = openai.Client(api_key="any", base_url="{url}/v1")
                 messages = [{{"role": "user", "content": "{question}"}}]
                 print(client.chat.completions.create(model="{model}", messages=messages))

Descriptions of all routes: {url}/docs
Logs and models: {home}

Press Ctrl-C to stop the server."""


class Failure(Exception):
    """The demonstration cannot go on; the message says why and what to do."""


def call(url: str, body: dict[str, Any] | None = None, timeout_s: float = 30) -> Any:
    """Send a request and return the JSON of the answer."""
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=timeout_s) as answer:
        return json.load(answer)


def check_port(port: int) -> None:
    """Refuse a port that another program listens on."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError as error:
            raise Failure(
                f"Port {port} cannot be used ({error.strerror}). Choose another: make run PORT={port + 1}"
            ) from error


def explain(log: Path, what: str) -> Failure:
    """Make the error for a server that does not come up, with the end of its log."""
    tail = "\n".join(log.read_text(errors="replace").splitlines()[-15:])
    return Failure(f"{what} The end of {log}:\n{tail}")


@contextmanager
def serve(port: int, log: Path, env: dict[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    """Run the server, ready to answer, and stop it at the end."""
    command = [str(MODELRACK), "serve", "--host", HOST, "--port", str(port)]
    print(f"$ modelrack serve --port {port}", flush=True)
    started = time.monotonic()
    with log.open("wb") as sink:
        server = subprocess.Popen(command, env=env, stdin=subprocess.DEVNULL, stdout=sink, stderr=subprocess.STDOUT)
    try:
        while True:
            try:
                call(f"http://{HOST}:{port}/ready", timeout_s=5)
                break
            except (OSError, ValueError):
                if server.poll() is not None:
                    raise explain(log, f"The server ended with exit code {server.returncode}.") from None
                if time.monotonic() > started + READY_S:
                    raise explain(log, f"The server was not ready within {READY_S} s.") from None
                time.sleep(0.05)
        print(f"  listening on http://{HOST}:{port} ({time.monotonic() - started:.1f} s)\n", flush=True)
        yield server
    finally:
        stop(server)


def stop(server: subprocess.Popen[bytes]) -> None:
    """End the server and wait until it is gone; a second Ctrl-C does not leave it behind."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    if server.poll() is None:
        print("\nStopping the server ...", flush=True)
        server.terminate()
        try:
            server.wait(STOP_S)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()
        print("Stopped.", flush=True)


def launch(url: str, env: dict[str, str]) -> None:
    """Launch the model, or wait for it where an earlier run has left it in the store."""
    started = time.monotonic()
    instances = call(f"{url}/v1/models/instances?model_uid={MODEL}")
    if not instances:
        print(f"$ modelrack launch --model-name {MODEL}", flush=True)
        command = [str(MODELRACK), "launch", "--model-name", MODEL, "--endpoint", url]
        if subprocess.run(command, env=env, stdin=subprocess.DEVNULL).returncode:
            raise Failure(f"{MODEL} could not be launched; the reason stands above.")
    while not instances or instances[0]["status"] != "READY":
        if time.monotonic() > started + READY_S:
            raise Failure(f"{MODEL} was not ready within {READY_S} s. Its state: {json.dumps(instances)}")
        time.sleep(0.05)
        instances = call(f"{url}/v1/models/instances?model_uid={MODEL}")
    print(f"  {MODEL} is ready ({time.monotonic() - started:.1f} s)\n", flush=True)


def ask(url: str) -> None:
    """Ask the model the question and print what it says."""
    body = {"model": MODEL, "messages": [{"role": "user", "content": QUESTION}], "temperature": 0}
    answer = call(f"{url}/v1/chat/completions", body)
    print(f"> {QUESTION}\n{answer['choices'][0]['message']['content']}", flush=True)


def show_commands(port: int, home: Path) -> None:
    """Print what a newcomer can try next."""
    url = f"http://{HOST}:{port}"
    commands = {"modelrack": os.path.relpath(MODELRACK, ROOT), "python": os.path.relpath(sys.executable, ROOT)}
    values = {**commands, "model": MODEL, "question": QUESTION, "home": home}
    print(TRY.format(url=url, endpoint="" if port == 9997 else f" --endpoint {url}", **values), flush=True)


def run(port: int) -> int:
    """Run the whole demonstration and return the exit code."""
    check_port(port)
    home = Path(os.environ.get("MODELRACK_HOME") or ROOT / ".modelrack")
    home.mkdir(parents=True, exist_ok=True)
    env = {**os.environ, "MODELRACK_HOME": str(home)}
    url = f"http://{HOST}:{port}"
    with serve(port, home / "run.log", env) as server:
        launch(url, env)
        ask(url)
        show_commands(port, home)
        code = server.wait()
    raise explain(home / "run.log", f"The server ended by itself, with exit code {code}.")


def _interrupt(_number: int, _frame: FrameType | None) -> NoReturn:
    raise KeyboardInterrupt


def main() -> int:
    """Read the arguments, run, and turn the ways it can end into an exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    default = os.environ.get("MODELRACK_PORT") or "9997"
    parser.add_argument("--port", type=int, default=int(default), help="port to listen on (default: %(default)s)")
    port = parser.parse_args().port
    # SIGINT too: a shell that starts this in the background has it ignored, and Python would leave it so.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _interrupt)
    try:
        return run(port)
    except KeyboardInterrupt:
        return 0
    except urllib.error.HTTPError as error:
        print(f"Error: {error.url} answered {error.code}: {error.read().decode(errors='replace')}", file=sys.stderr)
    except (Failure, OSError) as error:
        print(f"Error: {error}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
