"""Workers of this plugin as real processes, on their Unix sockets."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from modelrack.testing.gguf import write_random_model

sys.path.insert(0, str(Path(__file__).parent))

from llama_worker import Start, WorkerProcess, start_worker


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a model of one million random weights."""
    return write_random_model(tmp_path_factory.mktemp("models") / "tiny.gguf")


@pytest.fixture(scope="session")
def worker(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Iterator[WorkerProcess]:
    """Return a ready worker that the tests share."""
    started = start_worker(tmp_path_factory.mktemp("w"), tiny_model, n_parallel=4)
    started.wait("ready")
    yield started
    assert started.stop() == 0, started.log()[-3000:]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Return a function that starts further workers; they are ended with the test."""
    started: list[WorkerProcess] = []

    def begin(model: Path, **options: Any) -> WorkerProcess:
        started.append(start_worker(tmp_path / f"w{len(started)}", model, **options))
        return started[-1]

    yield begin
    for one in started:
        if one.process.poll() is None:
            one.process.kill()
            one.process.wait()


_BARE = """
import json, sys
import xllamacpp
params = xllamacpp.CommonParams()
params.model.path, params.n_ctx, params.verbosity, params.fit_params = sys.argv[1], 2048, 0, False
params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 1
server = xllamacpp.Server(params)
body = {"messages": [{"role": "user", "content": "hello"}], "max_tokens": 24, "temperature": 0}
print(server.handle_chat_completions(body)["choices"][0]["message"]["content"])
"""


@pytest.fixture(scope="session")
def bare_text(tiny_model: Path) -> str:
    """Return what the engine answers to "hello" when it is used without modelrack."""
    done = subprocess.run([sys.executable, "-c", _BARE, str(tiny_model)], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout.removesuffix("\n")
