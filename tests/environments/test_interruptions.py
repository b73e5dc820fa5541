"""What is begun and not finished is never used: cancelled, killed, out of room."""

import asyncio
import contextlib
import fcntl
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from modelrack.environments import EnvironmentFailed, Environments, Progress

from .engines import make_engine
from .wheels import SLOW_BACKEND, make_sdist, make_wheel

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = """
import asyncio, sys
from pathlib import Path
sys.path.insert(0, {tests!r})
from environments_engines import make_engine
from modelrack.environments import EnvironmentFailed, Environments

async def main():
    environments = Environments(Path(sys.argv[1]))
    try:
        built = await environments.ensure(make_engine("snail"), report=lambda state: print(state.detail, flush=True))
        print(built.name)
    except EnvironmentFailed as error:
        print(error.message.replace("\\n", " "), "|", error.remedy)

asyncio.run(main())
"""


@pytest.fixture
def place(tmp_path: Path, wheels: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the folder in which the build of `snail` says that it has started, and waits for a file `go`."""
    place = tmp_path / "place"
    make_wheel(place / "built", "snail")
    make_sdist(tmp_path / "more", "snail", SLOW_BACKEND)
    monkeypatch.setenv("PIP_FIND_LINKS", f"{wheels} {tmp_path / 'more'}")
    monkeypatch.setenv("TEST_PLACE", str(place))
    monkeypatch.setenv("UV_CACHE_DIR", str(tmp_path / "cache"))  # else it would be built once for all tests
    return place


@pytest.fixture
def builder(tmp_path: Path, home: Path) -> Callable[[], "subprocess.Popen[str]"]:
    """Return what starts a process that makes the environment of `snail`."""
    folder = tmp_path / "scripts"
    folder.mkdir()
    (folder / "environments_engines.py").write_text(Path(__file__).with_name("engines.py").read_text())
    (folder / "build.py").write_text(SCRIPT.format(tests=str(folder)))
    argv = [sys.executable, str(folder / "build.py"), str(home)]
    return lambda: subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def wait_for(condition: Callable[[], object], what: str, limit_s: float = 40.0) -> None:
    end = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < end, f"waited in vain: {what}"
        time.sleep(0.02)


async def has_started(place: Path) -> int:
    """Wait until the build has started, and return the pid of its process."""
    end = time.monotonic() + 40
    while not (found := list(place.glob("started-*"))):
        assert time.monotonic() < end, "the build does not start"
        await asyncio.sleep(0.02)
    return int(found[0].name.removeprefix("started-"))


def is_gone(pid: int) -> bool:
    with contextlib.suppress(psutil.NoSuchProcess):
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    return True


def left_over(home: Path) -> list[str]:
    return sorted(path.name for path in (home / "envs").iterdir() if path.name.startswith((".building", ".removing")))


async def test_a_cancelled_build_ends_all_that_it_has_started(
    environments: Environments, home: Path, place: Path
) -> None:
    engine = make_engine("snail")
    task = asyncio.create_task(environments.ensure(engine))
    pid = await has_started(place)
    assert left_over(home)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    wait_for(lambda: is_gone(pid), "the build's process ends")
    assert left_over(home) == [] and environments.list() == [] and environments.find(engine) is None
    (place / "go").touch()
    built = await environments.ensure(engine)
    assert await environments.check(built.name, full=True) == []


async def test_one_who_is_cancelled_again_and_again_cleans_up_too(
    environments: Environments, home: Path, place: Path
) -> None:
    task = asyncio.create_task(environments.ensure(make_engine("snail")))
    pid = await has_started(place)
    while not task.done():
        task.cancel()
        await asyncio.sleep(0)
    assert task.cancelled()
    wait_for(lambda: is_gone(pid), "the build's process ends")
    assert left_over(home) == []
    (place / "go").touch()
    built = await environments.ensure(make_engine("snail"))
    assert environments.list() == [built]


async def test_one_who_waits_can_be_cancelled_alone(environments: Environments, place: Path) -> None:
    engine = make_engine("snail")
    heard: list[Progress] = []
    first = asyncio.create_task(environments.ensure(engine))
    await has_started(place)
    second = asyncio.create_task(environments.ensure(engine, report=heard.append))
    third = asyncio.create_task(environments.ensure(engine))
    while not heard:
        await asyncio.sleep(0.02)
    second.cancel()
    with pytest.raises(asyncio.CancelledError):
        await second
    (place / "go").touch()
    assert await first == await third


async def test_the_next_one_builds_when_the_first_is_cancelled(environments: Environments, place: Path) -> None:
    engine = make_engine("snail")
    first = asyncio.create_task(environments.ensure(engine))
    await has_started(place)
    second = asyncio.create_task(environments.ensure(engine))
    await asyncio.sleep(0)
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    (place / "go").touch()
    built = await second
    assert await environments.check(built.name) == []


async def test_one_who_waits_hears_how_far_it_is(environments: Environments, place: Path) -> None:
    engine = make_engine("snail")
    first = asyncio.create_task(environments.ensure(engine))
    await has_started(place)
    heard: list[Progress] = []
    second = asyncio.create_task(environments.ensure(engine, report=heard.append))
    while not any(progress.fraction > 0 for progress in heard):
        await asyncio.sleep(0.02)
    assert heard[-1].total_bytes > 0
    (place / "go").touch()
    assert await first == await second


def test_two_processes_build_once(
    environments: Environments, place: Path, builder: Callable[[], "subprocess.Popen[str]"]
) -> None:
    first = builder()
    wait_for(lambda: list(place.glob("started-*")), "the build starts")
    second = builder()
    assert second.stdout and second.stdout.readline()  # it hears of the first
    (place / "go").touch()
    names = {process.communicate(timeout=60)[0].splitlines()[-1] for process in (first, second)}
    assert [built.name for built in environments.list()] == list(names)
    assert len(list(place.glob("started-*"))) == 1


@pytest.mark.parametrize("victim", ["builder", "build"])
def test_a_killed_build_leaves_nothing_that_is_used(
    environments: Environments,
    home: Path,
    place: Path,
    builder: Callable[[], "subprocess.Popen[str]"],
    victim: str,
) -> None:
    first = builder()
    wait_for(lambda: list(place.glob("started-*")), "the build starts")
    (mark,) = place.glob("started-*")
    pid = int(mark.name.removeprefix("started-"))
    if victim == "build":
        os.kill(pid, signal.SIGKILL)
        out, err = first.communicate(timeout=60)
        assert "snail" in out.splitlines()[-1] and "ailed to build" in out.splitlines()[-1] and not err
    else:
        first.kill()
        first.communicate(timeout=60)
        assert left_over(home)
        wait_for(lambda: is_gone(pid), "uv and what it had started end with the one who started them")
    assert environments.list() == [] and environments.find(make_engine("snail")) is None
    mark.unlink()
    (place / "go").touch()
    second = builder()
    out, err = second.communicate(timeout=60)
    name = out.splitlines()[-1]
    assert [built.name for built in environments.list()] == [name] and not err
    assert left_over(home) == [] and asyncio.run(environments.check(name, full=True)) == []


async def test_what_somebody_works_on_is_not_swept(environments: Environments, home: Path) -> None:
    root = home / "envs"
    for name in (".building-mine", ".building-stale", ".removing-stale"):
        (root / name / "env").mkdir(parents=True)
    (root / ".building-nobody.lock").touch()
    fd = os.open(root / ".building-mine.lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        await environments.ensure(make_engine("apple"))
        assert left_over(home) == [".building-mine", ".building-mine.lock"]
    finally:
        os.close(fd)
    await environments.ensure(make_engine("apple<2"))
    assert left_over(home) == []


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[list[str]]:
    """Return what a command is to start with to have a disk of two megabytes as its home."""
    prefix = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c"]
    (tmp_path / "disk").mkdir()
    mount = f'mount -t tmpfs -o size=2m none {tmp_path / "disk"} && exec "$@"'
    command = [*prefix, mount, "sh"]
    try:
        done = subprocess.run([*command, "true"], capture_output=True, timeout=20)
    except OSError:
        pytest.skip("there is no unshare")
    if done.returncode:
        pytest.skip("this machine lets nobody mount a disk in a namespace")
    yield command


def test_a_full_disk_is_told(
    tmp_path: Path, small_disk: list[str], builder: Callable[[], "subprocess.Popen[str]"], place: Path
) -> None:
    (place / "go").touch()
    argv = [*small_disk, sys.executable, str(tmp_path / "scripts" / "build.py"), str(tmp_path / "disk" / "home")]
    variables = {**os.environ, "UV_LINK_MODE": "copy"}
    done = subprocess.run(argv, env=variables, capture_output=True, text=True, timeout=60)
    message, _, remedy = done.stdout.splitlines()[-1].partition("|")
    assert "No space left on device" in message and "MODELRACK_HOME" in remedy, done.stdout + done.stderr
    assert not done.stderr


async def test_a_full_disk_is_told_by_an_import(
    environments: Environments, tmp_path: Path, small_disk: list[str]
) -> None:
    built = await environments.ensure(make_engine("apple"))
    await environments.export(built.name, tmp_path / "apple.tar")
    argv = [*small_disk, sys.executable, "-m", "modelrack.cli", "env", "import", str(tmp_path / "apple.tar")]
    variables = {**os.environ, "MODELRACK_HOME": str(tmp_path / "disk" / "home")}
    done = subprocess.run(argv, env=variables, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1 and done.stdout == ""
    assert done.stderr.startswith("Error: ") and "cannot be written: No space left on device." in done.stderr


async def test_a_cache_elsewhere_makes_no_second_copies(
    environments: Environments, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """uv copies where it cannot link: the environments then share their files among themselves."""
    other = Path("/dev/shm")
    if not other.is_dir() or other.stat().st_dev == tmp_path.stat().st_dev or not os.access(other, os.W_OK):
        pytest.skip("there is no second file system to be written")
    cache = other / f"modelrack-test-{os.getpid()}"
    monkeypatch.setenv("UV_CACHE_DIR", str(cache))
    try:
        one = await environments.ensure(make_engine("apple", name="one"))
        two = await environments.ensure(make_engine("apple", "pear", name="two"))
    finally:
        subprocess.run(["rm", "-rf", str(cache)], check=True)
    stats = [next(built.folder.glob("lib/*/site-packages/apple/data.bin")).stat() for built in (one, two)]
    assert stats[0].st_ino == stats[1].st_ino
    assert await environments.check(one.name, full=True) == await environments.check(two.name, full=True) == []


async def test_a_failure_leaves_the_lock_for_the_next(environments: Environments) -> None:
    for _ in range(2):
        with pytest.raises(EnvironmentFailed):
            await environments.ensure(make_engine("no-such-thing"))
