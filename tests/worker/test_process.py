"""The life of a worker's process: load, failure, stop, lease; and the guard of a command."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import httpx
import pytest

from modelrack.hooks import Command

from .conftest import RunningWorker, StartWorker, read_until, request_bytes, wait_for


def test_it_answers_while_it_loads(start_worker: StartWorker, folder: Path) -> None:
    worker = start_worker(options={"wait_for": str(folder / "go")}, ready=False)
    worker.wait_bound()
    status = wait_for(lambda: (s := worker.status())["stage"] == "half" and s, "the load's progress")
    assert (status["state"], status["progress"]) == ("loading", 0.5)
    assert status["reports"] >= 2
    response = worker.ask("say x")
    assert response.status_code == 503
    assert response.json()["error"]["code"] == "model_not_ready"
    (folder / "go").touch()
    worker.wait_state("ready")
    assert worker.ask("say x").status_code == 200


@pytest.mark.parametrize(
    ("options", "loader", "reason"),
    [
        ({"fail": "the disk is\n made of cheese"}, None, "the disk is made of cheese"),
        ({"break": "five is no number"}, None, "five is no number"),
        ({"miss": "tokens"}, None, "KeyError: 'tokens'"),
        (
            {"returns_class": True},
            None,
            "TypeError: probe_loader:ProbeLoader.load must return handlers by ability, such as {'chat': Chat()}, "
            "not {'generate': <class 'probe_loader.Probe'>}",
        ),
        ({"exit": True}, None, "SystemExit: 3"),
        ({}, "no_such_module:Loader", "No module named 'no_such_module'"),
        ({}, "probe_loader:Nobody", "AttributeError: module 'probe_loader' has no attribute 'Nobody'"),
    ],
)
def test_a_failed_load(start_worker: StartWorker, options: dict[str, object], loader: str | None, reason: str) -> None:
    worker = start_worker(options=options, loader=loader or "probe_loader:ProbeLoader", ready=False)
    status = worker.wait_state("failed")
    assert status["error"] == reason
    assert worker.wait_end() == 1
    assert worker.log.read_text().splitlines()[-1] == reason


def test_a_failed_load_ends_without_being_asked(start_worker: StartWorker) -> None:
    worker = start_worker(options={"fail": "nobody asks"}, ready=False)
    assert worker.wait_end() == 1
    assert worker.log.read_text().splitlines() == ["nobody asks"]


@pytest.mark.parametrize("steal", [False, True])
def test_sigterm_finishes_what_is_under_way(start_worker: StartWorker, folder: Path, steal: bool) -> None:
    """Some native libraries install handlers while they load (`steal`); the worker takes its own back."""
    worker = start_worker(options={"closed": str(folder / "closed"), "steal_signals": steal})
    idle = worker.connect()
    answers: list[httpx.Response] = []
    threads = [
        threading.Thread(target=lambda prompt=prompt: answers.append(worker.ask(prompt)))
        for prompt in ("wait 0.5", "slow 20")
    ]
    for thread in threads:
        thread.start()
    wait_for(lambda: worker.metrics()["active"] == 2, "two requests")
    worker.process.send_signal(signal.SIGTERM)
    assert idle.recv(1) == b"", "idle connections are closed"
    assert worker.wait_end() == 0
    for thread in threads:
        thread.join()
    assert sorted(len(answer.text.split("data: ")) for answer in answers) == [1, 22]
    assert (folder / "closed").read_text() == "closed"
    idle.close()
    with pytest.raises(OSError):
        worker.connect()


def test_sigterm_while_loading(start_worker: StartWorker, folder: Path) -> None:
    worker = start_worker(options={"wait_for": str(folder / "never")}, ready=False)
    worker.wait_state("loading")
    worker.process.send_signal(signal.SIGTERM)
    assert worker.wait_end() == 0


def test_sigint_is_ignored(start_worker: StartWorker) -> None:
    worker = start_worker()
    worker.process.send_signal(signal.SIGINT)
    assert worker.ask("wait 0.1").status_code == 200


def test_ctrl_c_stops_a_worker_that_runs_in_a_terminal(start_worker: StartWorker) -> None:
    ours, theirs = os.openpty()
    try:
        worker = start_worker(stdin=theirs)
        worker.process.send_signal(signal.SIGINT)
        assert worker.wait_end() == 0
    finally:
        os.close(ours)
        os.close(theirs)


def keep_touching(path: Path, seconds: float, process: "subprocess.Popen[bytes]") -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        path.touch()
        assert process.poll() is None
        time.sleep(0.02)


def test_the_lease(start_worker: StartWorker, folder: Path) -> None:
    """Also under a request that would never end."""
    lease = folder / "lease"
    lease.touch()
    worker = start_worker(lease=str(lease), lease_s=0.5)
    raw = worker.connect()
    raw.sendall(request_bytes("hang x"))
    keep_touching(lease, 1.0, worker.process)
    assert worker.wait_end() == 1
    assert "lease has expired" in worker.log.read_text()
    raw.close()


def test_a_lease_file_that_is_gone(start_worker: StartWorker, folder: Path) -> None:
    worker = start_worker(lease=str(folder / "nothing"), lease_s=0.3, ready=False)
    assert worker.wait_end() == 1


def test_the_working_directory_is_not_imported_from(start_worker: StartWorker) -> None:
    worker = start_worker()
    facts = worker.ask("record").json()
    assert "" not in facts["path"]
    assert facts["cwd"] not in facts["path"]


def test_a_killed_worker_cuts_its_streams(start_worker: StartWorker) -> None:
    worker = start_worker()
    with worker.connect() as raw:
        raw.sendall(request_bytes("stream a hang"))
        read_until(raw, b"\n\n\r\n")
        worker.process.kill()
        assert raw.recv(1) == b""


def test_usage_and_bad_jobs(tmp_path: Path) -> None:
    def run(*arguments: str) -> "subprocess.CompletedProcess[str]":
        command = [sys.executable, "-P", "-m", "modelrack.worker", *arguments]
        return subprocess.run(command, capture_output=True, text=True, timeout=20)

    assert run("--help").stdout.startswith("Usage:")
    assert run().returncode == 2
    assert run(str(tmp_path / "none.json")).returncode == 2
    (tmp_path / "bad.json").write_text('{"socket": "%s"}' % (tmp_path / "s"))
    result = run(str(tmp_path / "bad.json"))
    assert result.returncode == 2
    assert "is no job: incarnation" in result.stderr


def test_imports_stay_lean() -> None:
    """What a worker does not need, it does not load; nor does importing the contract start the host."""
    code = "import sys, modelrack.worker.process; print(*sys.modules)"
    modules = subprocess.run(
        [sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True
    ).stdout.split()
    assert not {"fastapi", "starlette", "uvicorn", "httpx", "pydantic_settings", "click", "rich"} & set(modules)


def is_running(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


class TestGuard:
    """`modelrack.worker.guard`, around commands of the shell's kind."""

    def start(self, start_worker: StartWorker, script: str, **fields: object) -> RunningWorker:
        command = Command(argv=(sys.executable, "-c", script), env={"WORD": "from the job"})
        return start_worker(module="modelrack.worker.guard", command=command, ready=False, **fields)

    def test_the_commands_exit_code_is_the_guards(self, start_worker: StartWorker) -> None:
        worker = self.start(start_worker, "import os, sys; print(os.environ['WORD']); sys.exit(7)")
        assert worker.wait_end() == 7
        assert worker.log.read_text() == "from the job\n"
        worker = self.start(start_worker, "import os; os.kill(os.getpid(), 9)")
        assert worker.wait_end() == 137

    def test_a_command_that_does_not_exist(self, start_worker: StartWorker) -> None:
        command = Command(argv=("/nowhere/at-all",))
        worker = start_worker(module="modelrack.worker.guard", command=command, ready=False)
        assert worker.wait_end() == 1
        assert "/nowhere/at-all cannot be started" in worker.log.read_text()

    def test_the_group_is_stopped_with_one_signal_for_the_command(self, start_worker: StartWorker) -> None:
        """llama.cpp's server takes a second signal as "at once": the command hears of a stop only once."""
        script = (
            "import signal, sys, time\n"
            "seen = []\n"
            "signal.signal(signal.SIGTERM, lambda *_: seen.append(1))\n"
            "print('up', flush=True)\n"
            "while not seen: time.sleep(0.01)\n"
            "time.sleep(0.3); sys.exit(len(seen))\n"
        )
        worker = self.start(start_worker, script)
        wait_for(lambda: "up" in worker.log.read_text(), "the command")
        os.killpg(worker.process.pid, signal.SIGTERM)
        assert worker.wait_end() == 1

    def test_a_signal_for_the_guard_alone_is_passed_on(self, start_worker: StartWorker) -> None:
        worker = self.start(start_worker, "import time; print('up', flush=True); time.sleep(60)")
        wait_for(lambda: "up" in worker.log.read_text(), "the command")
        worker.process.send_signal(signal.SIGTERM)
        assert worker.wait_end() == 128 + signal.SIGTERM

    def test_the_lease_ends_the_command(self, start_worker: StartWorker, folder: Path) -> None:
        lease = folder / "lease"
        lease.touch()
        script = "import os, time; print(os.getpid(), flush=True); time.sleep(60)"
        worker = self.start(start_worker, script, lease=str(lease), lease_s=0.5)
        pid = int(wait_for(lambda: worker.log.read_text().strip(), "the command"))
        keep_touching(lease, 0.8, worker.process)
        assert worker.wait_end() == 128 + signal.SIGTERM
        assert not is_running(pid)

    @pytest.mark.parametrize("how", ["exit", "lease"])
    def test_what_the_command_has_started_ends_with_it(self, start_worker: StartWorker, folder: Path, how: str) -> None:
        """Nobody else may be there to do it: vLLM's engine, say, is a process of its own below the one that answers."""
        lease = folder / "lease"
        lease.touch()
        deaf = "import signal, time; signal.signal(15, signal.SIG_IGN); print('up', flush=True); time.sleep(60)"
        script = (
            "import subprocess, sys, time\n"
            f"child = subprocess.Popen([sys.executable, '-c', {deaf!r}], stdout=subprocess.PIPE)\n"
            "child.stdout.readline(); print(child.pid, flush=True)\n"
            f"time.sleep({0 if how == 'exit' else 60}); sys.exit(3)\n"
        )
        worker = self.start(start_worker, script, lease=str(lease), lease_s=0.5)
        pid = int(wait_for(lambda: worker.log.read_text().strip(), "the command"))
        assert worker.wait_end() == (3 if how == "exit" else 128 + signal.SIGTERM)
        wait_for(lambda: not is_running(pid), "the end of what it had started")
