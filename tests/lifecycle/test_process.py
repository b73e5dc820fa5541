"""A worker's process: its end is noticed, its group is stopped, and strangers are left alone."""

import asyncio
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

from modelrack.lifecycle.memory import held_memory
from modelrack.lifecycle.process import (
    OWNER_VARIABLE,
    Process,
    answers_for,
    ask_status,
    birth,
    kill_stray,
    last_lines,
    told_facts,
)

SLEEPER = "import time; print('up', flush=True); time.sleep(60)"
DEAF = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); " + SLEEPER
PARENT = (
    "import subprocess, sys; child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)']); "
    "print(child.pid, flush=True); import time; time.sleep(60)"
)


def start(code: str, owner: str = "test:1") -> tuple[Process, str]:
    """Start a process in its own session and return it with the first line that it prints."""
    child = subprocess.Popen(
        [sys.executable, "-c", code],
        stdout=subprocess.PIPE,
        start_new_session=True,
        env={**os.environ, OWNER_VARIABLE: owner},
    )
    assert child.stdout is not None
    line = child.stdout.readline().decode().strip()
    child.stdout.close()
    return Process(child.pid, birth(child.pid), child), line


async def until(condition: Callable[[], bool], limit_s: float = 5.0) -> None:
    deadline = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < deadline, "the condition did not come true in time"
        await asyncio.sleep(0.01)


def is_gone(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


async def test_an_end_is_noticed_with_its_manner() -> None:
    process, _ = start("print('x'); raise SystemExit(3)")
    await asyncio.wait_for(process.wait(), 5)
    assert process.ending() == "exited with code 3"
    process, _ = start(SLEEPER)
    assert process.is_running
    process.signal(signal.SIGKILL)
    await asyncio.wait_for(process.wait(), 5)
    assert process.ending() == "was killed by SIGKILL"


async def test_stop_is_polite_first() -> None:
    process, _ = start(SLEEPER)
    await process.stop(5)
    assert process.ending() == "was killed by SIGTERM"


async def test_a_process_deaf_to_sigterm_is_killed() -> None:
    process, _ = start(DEAF)
    began = time.monotonic()
    await process.stop(0.2)
    assert process.ending() == "was killed by SIGKILL"
    assert time.monotonic() - began < 5


async def test_what_a_dead_leader_left_behind_is_killed() -> None:
    """A worker that crashed left its helper processes holding device memory."""
    process, line = start(PARENT)
    helper = int(line)
    os.kill(process.pid, signal.SIGKILL)
    await asyncio.wait_for(process.wait(), 5)
    await until(lambda: is_gone(helper))


async def test_adoption_needs_the_same_process() -> None:
    process, _ = start(SLEEPER)
    assert Process.adopt(process.pid, process.created - 10) is None
    adopted = Process.adopt(process.pid, process.created)
    if sys.platform == "linux":
        # The system's clock may be set between two servers, and the workers are to be adopted all the same.
        assert 0 < process.created <= time.clock_gettime(time.CLOCK_BOOTTIME)
    assert adopted is not None and adopted.cpu_seconds() >= 0 and adopted.memory_bytes() > 0
    await process.stop(5)
    await asyncio.wait_for(adopted.wait(), 5)
    assert Process.adopt(process.pid, process.created) is None


async def test_a_sweep_kills_only_what_carries_the_tag() -> None:
    mine, _ = start(SLEEPER, "sweep-a:1")
    kept, _ = start(SLEEPER, "sweep-a:2")
    strangers, _ = start(SLEEPER, "sweep-b:1")
    assert kill_stray("sweep-a", [kept.pid]) == [mine.pid]
    await asyncio.wait_for(mine.wait(), 5)
    assert kept.is_running and strangers.is_running
    await kept.stop(5)
    await strangers.stop(5)


async def test_a_socket_without_a_worker_has_no_status(tmp_path: Path) -> None:
    assert await ask_status(str(tmp_path / "none.sock")) is None


async def test_a_socket_that_speaks_nonsense_has_no_status(tmp_path: Path) -> None:
    async def babble(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"220 smtp ready\r\n\r\n{}")
        writer.close()

    path = str(tmp_path / "s.sock")
    async with await asyncio.start_unix_server(babble, path):
        assert await ask_status(path) is None


@pytest.mark.parametrize(("start_at", "expected"), [(0, ["b", "c"]), (4, ["c"])])
def test_last_lines(tmp_path: Path, start_at: int, expected: list[str]) -> None:
    log = tmp_path / "log"
    log.write_bytes(b"a\nb\n\nc\n")
    assert last_lines(log, start_at, 2) == expected
    assert last_lines(tmp_path / "missing") == []


LISTENER = """
import os, socket, sys, time
if sys.argv[2] == "apart":
    os.setsid()
listener = socket.socket(socket.AF_UNIX)
listener.bind(sys.argv[1])
listener.listen()
time.sleep(60)
"""


@pytest.mark.parametrize(
    ("how", "owner", "is_ours"),
    [("child", "test:1", True), ("apart", "test:1", True), ("stranger", "test:2", False), ("stranger", "test:1", True)],
)
async def test_who_listens_is_told_from_a_stranger(tmp_path: Path, how: str, owner: str, is_ours: bool) -> None:
    """By its group, as a child that has left the group, or by its tag."""
    path = tmp_path / "s.sock"
    argv = [sys.executable, "-c", LISTENER, str(path), how]
    code = f"import subprocess, time; subprocess.Popen({argv}); print('up', flush=True); time.sleep(60)"
    process, _ = start(SLEEPER if how == "stranger" else code)
    stranger = None
    if how == "stranger":
        stranger = subprocess.Popen(argv, env={**os.environ, OWNER_VARIABLE: owner}, start_new_session=True)
    try:
        await until(lambda: path.exists() and _accepts(path))
        assert answers_for(str(path), process, "test:1") is is_ours
    finally:
        kill_stray("test", [])
        await process.stop(0)
        if stranger is not None:
            stranger.wait(10)


def _accepts(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as connection:
        return connection.connect_ex(str(path)) == 0


async def test_where_nobody_listens_nobody_else_does(tmp_path: Path) -> None:
    process, _ = start(SLEEPER)
    assert answers_for(str(tmp_path / "none.sock"), process, "test:1")
    await process.stop(0)


@pytest.mark.parametrize(
    ("body", "facts"),
    [
        (b'{"facts": {"context_length": 7}}', {"context_length": 7}),
        (b'{"facts": [1]}', {}),
        (b"[1]", {}),
        (b"ok", {}),
        (b"", {}),
    ],
)
def test_facts_of_a_command(body: bytes, facts: dict[str, object]) -> None:
    assert told_facts(body) == facts


async def test_memory_counts_the_children() -> None:
    process, child = start(PARENT)
    await until(lambda: psutil.Process(int(child)).memory_info().rss > 6 << 20)
    alone = psutil.Process(process.pid).memory_info().rss
    host, _ = held_memory(process)
    assert host > alone + (1 << 20)
    await process.stop(0)
    assert held_memory(process) == (0, 0)


async def test_accelerators_count_for_the_processes_of_the_worker_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """A driver that stands for NVML: what others hold does not count, nor what it cannot tell."""
    process, child = start(PARENT)
    users: dict[int, list[tuple[int, int | None]]] = {
        0: [(process.pid, 5), (1, 70)],
        1: [(int(child), 7), (process.pid, None)],
    }
    driver = SimpleNamespace(
        NVMLError=RuntimeError,
        nvmlInit=lambda: None,
        nvmlShutdown=lambda: None,
        nvmlDeviceGetCount=lambda: len(users),
        nvmlDeviceGetHandleByIndex=lambda index: index,
        nvmlDeviceGetComputeRunningProcesses=lambda index: [
            SimpleNamespace(pid=pid, usedGpuMemory=amount) for pid, amount in users[index]
        ],
    )
    monkeypatch.setitem(sys.modules, "pynvml", driver)
    assert held_memory(process)[1] == 12
    users[2] = []
    del users[1]
    driver.nvmlDeviceGetComputeRunningProcesses = lambda index: (_ for _ in ()).throw(RuntimeError("lost"))
    assert held_memory(process)[1] == 0
    await process.stop(0)
