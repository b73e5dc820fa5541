"""Environments are made once, found again, shared, checked and removed."""

import asyncio
import dataclasses
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from modelrack.environments import WORKER_REQUIREMENTS, EnvironmentFailed, Environments, Progress
from modelrack.environments.declaration import declare
from modelrack.errors import BadRequest, Conflict, NotFound
from modelrack.hooks import Engine, PythonWorker

from .engines import make_engine
from .wheels import BROKEN_BACKEND, make_sdist, make_wheel


def run(python: str, script: str) -> str:
    done = subprocess.run([python, "-I", "-c", script], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def packages_of(folder: Path) -> Path:
    (found,) = folder.glob("lib/python*/site-packages")
    return found


async def test_one_is_made_and_found_again(environments: Environments, home: Path) -> None:
    engine = make_engine("apple<2", name="Fruit Salad!")
    assert environments.find(engine) is None and environments.list() == []
    heard: list[Progress] = []
    built = await environments.ensure(engine, report=heard.append)
    assert built.name == f"fruit-salad-{built.hash}" and built.folder == home / "envs" / built.name
    assert run(built.python, "import apple, core_of_apple, pydantic; print(apple.VERSION)") == "1.0"
    assert run(built.python, "import sys; print(sys.prefix)") == str(built.folder)
    assert subprocess.run([built.folder / "bin" / "apple"], capture_output=True, text=True).stdout == "apple\n"
    versions = {package.name: package.version for package in built.packages}
    assert versions["apple"] == "1.0" and versions["core-of-apple"] == "1.5" and "modelrack" not in versions
    assert built.size_bytes > 40000 and built.engine == "Fruit Salad!" and "apple<2" in built.requirements
    fractions = [progress.fraction for progress in heard]
    assert fractions == sorted(fractions) and heard[-1].done_bytes == heard[-1].total_bytes > 0
    assert environments.find(engine) == built == Environments(home).find(engine)
    assert environments.list() == [built] == [environments.get(built.name)]
    assert await environments.check(built.name, full=True) == []
    assert {path.name for path in (home / "envs").iterdir()} == {".index", ".locks", built.name}


async def test_a_made_one_needs_nothing_any_more(
    environments: Environments, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No index, no wheels, no uv: it is used as it is, and is not touched."""
    engine = make_engine("apple")
    built = await environments.ensure(engine)
    before = {path: path.stat().st_mtime_ns for path in built.folder.rglob("*")}
    monkeypatch.setenv("PIP_FIND_LINKS", str(home / "nowhere"))
    monkeypatch.setenv("PATH", "")
    monkeypatch.setitem(sys.modules, "uv", None)
    assert await environments.ensure(engine) == built
    assert {path: path.stat().st_mtime_ns for path in built.folder.rglob("*")} == before
    plan = await environments.plan(engine)
    assert plan.built == built and plan.download_bytes == 0 and plan.packages == built.packages


async def test_what_differs_has_an_environment_of_its_own(environments: Environments) -> None:
    first = await environments.ensure(make_engine("apple", by_device={"cuda": ("pear",)}))
    for engine, device, extra in (
        (make_engine("apple", by_device={"cuda": ("pear",)}), "cuda", ()),
        (make_engine("apple"), "cpu", ("pear",)),
        (make_engine("apple<2"), "cpu", ()),
        (make_engine("apple", name="other"), "cpu", ()),
        (make_engine("apple", absent=("core-of-apple",)), "cpu", ()),
    ):
        assert environments.find(engine, device, extra=extra) is None
        other = await environments.ensure(engine, device, extra=extra)
        assert other.name != first.name and other.device == device
        assert await environments.check(other.name) == []


async def test_declarations_that_come_to_the_same_share_one(environments: Environments) -> None:
    first = await environments.ensure(make_engine("apple"))
    again = make_engine("core-of-apple", "apple>=1")
    assert environments.find(again) is None
    assert await environments.ensure(again) == first == environments.find(again)
    assert environments.list() == [first]


async def test_declarations_that_come_to_the_same_at_the_same_time_share_one(environments: Environments) -> None:
    engines = make_engine("apple"), make_engine("core-of-apple", "apple>=1"), make_engine("apple!=1.0")
    first, second, third = await asyncio.gather(*map(environments.ensure, engines))
    assert first == second == third and environments.list() == [first]
    assert await environments.check(first.name, full=True) == []
    assert [environments.find(engine) for engine in engines] == [first] * 3


async def test_another_interpreter_is_taken_where_it_must_be(environments: Environments, tmp_path: Path) -> None:
    minor = next((minor for minor in (12, 13, 14) if minor != sys.version_info.minor and _runs(f"python3.{minor}")), 0)
    if not minor:
        pytest.skip("there is no second interpreter here")
    engine = make_engine("apple", python=f">=3.{minor},<3.{minor + 1}")
    # What is repacked for this interpreter is of no use to the other one.
    lean = tuple(Requirement(text).name for text in WORKER_REQUIREMENTS)
    built = await environments.ensure(replace_absent(engine, lean))
    assert built.python_version.startswith(f"3.{minor}.") and built.python_tag.endswith(f"-3.{minor}")
    assert await environments.check(built.name, full=True) == [] and environments.find(replace_absent(engine, lean))
    await environments.export(built.name, tmp_path / "x.tar")
    other = await Environments(tmp_path / "other").import_(tmp_path / "x.tar")
    assert other.python_tag == built.python_tag


def _runs(program: str) -> bool:
    try:
        return subprocess.run([program, "-c", ""], capture_output=True, timeout=20).returncode == 0
    except OSError:
        return False


def replace_absent(engine: Engine, names: tuple[str, ...]) -> Engine:
    assert engine.environment
    return dataclasses.replace(engine, environment=dataclasses.replace(engine.environment, absent=names))


async def test_a_spoilt_cache_is_noticed(
    environments: Environments, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("UV_CACHE_DIR")
    built = await environments.ensure(make_engine("apple"))
    (packages_of(built.folder) / "apple" / "data.bin").write_bytes(b"the file in the cache is the same one")
    await environments.remove(built.name, keep_cache=True)
    with pytest.raises(EnvironmentFailed, match=r"is not whole: apple: 1 file is changed: apple/data\.bin") as caught:
        await environments.ensure(make_engine("apple"))
    assert caught.value.remedy and "uv cache clean" in caught.value.remedy and environments.list() == []


async def test_an_index_that_cannot_be_written_is_told(environments: Environments, home: Path) -> None:
    (home / "envs").mkdir(parents=True)
    (home / "envs" / ".index").write_text("")
    with pytest.raises(EnvironmentFailed, match="cannot be written: File exists"):
        await environments.ensure(make_engine("apple"))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
async def test_one_that_cannot_be_removed_is_told(environments: Environments, home: Path) -> None:
    built = await environments.ensure(make_engine("apple"))
    (home / "envs").chmod(0o500)
    try:
        with pytest.raises(EnvironmentFailed, match="cannot be written: Permission denied"):
            await environments.remove(built.name)
    finally:
        (home / "envs").chmod(0o700)


async def test_what_must_be_absent_is_not_there(environments: Environments) -> None:
    built = await environments.ensure(make_engine("pear", absent=("Core_Of.Apple",)))
    assert "core-of-apple" not in {package.name for package in built.packages}
    assert run(built.python, "import importlib.util as u; print(u.find_spec('core_of_apple'))") == "None"


def test_what_must_be_absent_may_depend_on_the_device() -> None:
    engine = make_engine("pear", absent=("apple",))
    assert engine.environment is not None
    environment = dataclasses.replace(engine.environment, absent_by_device={"cpu": ("Core_Of.Apple",)})
    engine = dataclasses.replace(engine, environment=environment)
    assert declare(engine, "cpu").absent == ("apple", "core-of-apple") and declare(engine, "cuda").absent == ("apple",)


async def test_environments_share_their_files_on_the_disk(environments: Environments) -> None:
    one = await environments.ensure(make_engine("apple", name="one"))
    two = await environments.ensure(make_engine("apple", "pear", name="two"))
    for part in ("apple/data.bin", "pydantic/main.py", "orjson/__init__.py"):
        first, second = (packages_of(built.folder) / part for built in (one, two))
        assert first.stat().st_ino == second.stat().st_ino and first.stat().st_nlink >= 3  # the cache has it too


async def test_an_upgrade_takes_what_is_new_and_leaves_the_old(
    environments: Environments, tmp_path: Path, wheels: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_wheel(tmp_path / "more", "plum", "1.0")
    monkeypatch.setenv("PIP_FIND_LINKS", f"{wheels} {tmp_path / 'more'}")
    old = await environments.ensure(make_engine("plum"))
    make_wheel(tmp_path / "more", "plum", "1.1")
    assert await environments.ensure(make_engine("plum")) == old
    new = await environments.ensure(make_engine("plum"), upgrade=True)
    assert new.name != old.name and run(new.python, "import plum; print(plum.VERSION)") == "1.1"
    assert environments.find(make_engine("plum")) == new
    assert [built.name for built in environments.list()] == sorted([old.name, new.name])
    assert await environments.ensure(make_engine("plum"), upgrade=True) == new


async def test_a_plan_installs_nothing(environments: Environments, home: Path) -> None:
    plan = await environments.plan(make_engine("apple"))
    assert plan.built is None and plan.download_bytes > 20000
    assert ("apple", "2.0") in {(package.name, package.version) for package in plan.packages}
    assert environments.list() == [] and environments.incomplete() == []
    assert not [path for path in (home / "envs").iterdir() if path.name.startswith(".building")]


async def test_tasks_that_need_the_same_build_it_once(environments: Environments) -> None:
    engine = make_engine("apple")
    heard: list[str] = []
    tasks = [environments.ensure(engine, report=lambda progress: heard.append(progress.detail)) for _ in range(3)]
    built = await asyncio.gather(*tasks)
    assert built[0] == built[1] == built[2], "they were not made at the same moment"
    assert "checking" in heard


@pytest.mark.parametrize(
    ("requirements", "reason"),
    [
        (("apple<2", "apple>=2"), "you require apple<2 and apple>=2"),
        (("apple", "proud-pear"), "core-of-apple"),
        (("no-such-thing",), "no-such-thing was not found"),
    ],
)
async def test_the_resolvers_reason_is_told(
    environments: Environments, home: Path, requirements: tuple[str, ...], reason: str
) -> None:
    with pytest.raises(EnvironmentFailed) as caught:
        await environments.ensure(make_engine(*requirements))
    assert reason in caught.value.message and caught.value.message.startswith("No solution found")
    assert "error:" not in caught.value.message and len(caught.value.message.splitlines()) < 8
    assert {path.name for path in (home / "envs").iterdir()} == {".locks"}
    with pytest.raises(EnvironmentFailed, match=r"No solution found"):
        await environments.plan(make_engine(*requirements))


@pytest.mark.parametrize(
    ("extra", "reason"),
    [
        ("durian", "durian was not found"),
        ("apple>=9", "apple>=9, pear cannot be installed beside what engine 'fruit' requires"),
        ("apple<2", "unsatisfiable"),
        ("proud-pear", "core-of-apple>=3"),
    ],
)
async def test_what_a_user_adds_and_cannot_be_had_is_a_bad_request(
    environments: Environments, home: Path, extra: str, reason: str
) -> None:
    with pytest.raises(BadRequest, match=reason) as caught:
        await environments.ensure(make_engine("apple==2.0"), extra=(extra, "pear"))
    assert caught.value.param == "virtual_env_packages" and extra in caught.value.message
    assert not list((home / "envs").glob("[!.]*"))


async def test_a_declaration_that_cannot_be_had_is_no_fault_of_what_is_added(environments: Environments) -> None:
    with pytest.raises(EnvironmentFailed, match="durian was not found"):
        await environments.ensure(make_engine("durian"), extra=("apple",))


async def test_a_failed_build_of_a_package_gives_its_reason(
    environments: Environments, tmp_path: Path, wheels: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_sdist(tmp_path / "more", "thorn", BROKEN_BACKEND)
    monkeypatch.setenv("PIP_FIND_LINKS", f"{wheels} {tmp_path / 'more'}")
    with pytest.raises(EnvironmentFailed) as caught:
        await environments.ensure(make_engine("thorn"))
    assert "thorn" in caught.value.message and "the compiler is not there" in caught.value.message


async def test_without_network_the_error_says_so(
    environments: Environments, wheels: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PIP_NO_INDEX")
    monkeypatch.setenv("UV_DEFAULT_INDEX", "http://127.0.0.1:9/simple")
    monkeypatch.setenv("UV_HTTP_RETRIES", "0")
    with pytest.raises(EnvironmentFailed) as caught:
        await environments.ensure(make_engine("plum"))
    assert "Failed to fetch" in caught.value.message and "UV_DEFAULT_INDEX" in str(caught.value.remedy)
    monkeypatch.setenv("UV_OFFLINE", "1")
    with pytest.raises(EnvironmentFailed) as caught:
        await environments.ensure(make_engine("plum"))
    assert "env import" in str(caught.value.remedy)


async def test_without_uv_the_remedy_is_told(environments: Environments, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.setitem(sys.modules, "uv", None)
    with pytest.raises(EnvironmentFailed) as caught:
        await environments.ensure(make_engine("apple"))
    assert caught.value.remedy == "pip install uv"


async def test_a_uv_that_cannot_be_started_is_told(
    environments: Environments, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "uv").write_text("no program\n")
    (tmp_path / "uv").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setitem(sys.modules, "uv", None)
    with pytest.raises(EnvironmentFailed, match="uv"):
        await environments.ensure(make_engine("apple"))


async def test_a_home_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    environments = Environments(tmp_path / "file" / "home")
    assert environments.find(make_engine("apple")) is None and environments.list() == []
    for work in (environments.ensure(make_engine("apple")), environments.plan(make_engine("apple"))):
        with pytest.raises(EnvironmentFailed, match="cannot be written: Not a directory") as caught:
            await work
        assert "MODELRACK_HOME" in str(caught.value.remedy)


async def test_an_interpreter_that_is_not_there_is_told(
    environments: Environments, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("UV_PYTHON_DOWNLOADS", "never")
    with pytest.raises(EnvironmentFailed, match=r"3\.99"):
        await environments.ensure(make_engine("apple", python=">=3.99"))


async def test_what_cannot_be_declared_is_refused(environments: Environments) -> None:
    plain = Engine(
        name="plain", model_types=("LLM",), worker=PythonWorker(loader="nobody:Loader"), accepts=lambda c, m: None
    )
    for work, message in (
        (environments.ensure(plain), "'plain' declares no environment"),
        (environments.ensure(make_engine("apple"), "abacus"), "no kind of device 'abacus'"),
        (environments.ensure(make_engine("apple"), extra=("apple >> 3",)), "'apple >> 3' is no requirement"),
    ):
        with pytest.raises(BadRequest, match=message):
            await work
    for broken in (make_engine("apple >> 3"), make_engine(python="three")):
        with pytest.raises(EnvironmentFailed, match="that engine 'fruit' declares is wrong"):
            environments.find(broken)


async def test_names_that_lead_elsewhere_are_no_environments(environments: Environments, home: Path) -> None:
    (home / "envs").mkdir(parents=True)
    (home / "other").mkdir()
    for name in ("", ".", "..", "../other", ".index", "missing"):
        with pytest.raises(NotFound):
            environments.get(name)
        with pytest.raises(NotFound):
            await environments.remove(name)
    assert (home / "other").is_dir()


async def test_one_is_removed_with_what_only_it_had_in_the_cache(
    environments: Environments, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("UV_CACHE_DIR")
    one = await environments.ensure(make_engine("apple", name="one"))
    two = await environments.ensure(make_engine("core-of-apple", name="two"))
    await environments.remove(one.name)
    assert environments.list() == [two] and environments.find(make_engine("apple", name="one")) is None
    assert not [*home.rglob("apple/data.bin")] and [*(home / "cache").rglob("core_of_apple/__init__.py")]
    assert await environments.check(two.name, full=True) == []
    await environments.remove(two.name, keep_cache=True)
    assert [*(home / "cache").rglob("core_of_apple/__init__.py")] and os.listdir(environments.root / ".index") == []


async def test_one_in_use_is_not_removed(environments: Environments) -> None:
    built = await environments.ensure(make_engine("apple"))
    waiting = "import sys; print(flush=True); sys.stdin.read()"
    for program, variables in (
        (built.python, {}),
        (sys.executable, {"VIRTUAL_ENV": str(built.folder)}),
    ):
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        user = subprocess.Popen([program, "-c", waiting], env={**os.environ, **variables}, **pipes)  # type: ignore[call-overload]
        user.stdout.readline()
        try:
            with pytest.raises(Conflict, match=f"in use by process {user.pid}") as caught:
                await environments.remove(built.name)
            assert "Terminate" in str(caught.value.remedy)
        finally:
            user.communicate()
    assert environments.find(make_engine("apple")) == built
    await environments.remove(built.name)
    assert environments.list() == []


async def test_damage_is_found(environments: Environments) -> None:
    engine = make_engine("apple", absent=("pear",))
    built = await environments.ensure(engine)
    packages = packages_of(built.folder)

    async def faults(full: bool = False) -> str:
        return "; ".join(await environments.check(built.name, full=full))

    # Files are shared with the cache: what a test changes it replaces.
    data = packages / "apple" / "data.bin"
    content = data.read_bytes()
    data.unlink()
    assert await faults() == "apple: 1 file is gone: apple/data.bin"
    data.write_bytes(content[:-1])
    assert await faults() == "apple: 1 file is changed: apple/data.bin"
    data.write_bytes(bytes(len(content)))
    assert await faults() == "" and await faults(full=True) == "apple: 1 file is changed: apple/data.bin"
    data.write_bytes(content)
    assert await faults(full=True) == ""
    for stray in (packages / "apple" / "more.txt", packages / "evil.pth", built.folder / "bin" / "evil"):
        stray.write_text("")
        assert await faults() == f"no distribution lists {stray.relative_to(built.folder)}"
        data.unlink()
        assert await faults() == (
            f"apple: 1 file is gone: apple/data.bin; no distribution lists {stray.relative_to(built.folder)}"
        )
        data.write_bytes(content)
        stray.unlink()
    (packages / "apple" / "__pycache__").mkdir(exist_ok=True)
    (packages / "apple" / "__pycache__" / "x.cpython-311.pyc").write_text("")
    assert await faults() == ""
    info = packages / "pear-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: pear\nVersion: 1.0\n")
    assert await faults() == "pear is there, and must not be"
    info.rename(packages / "melon-1.0.dist-info")
    (packages / "melon-1.0.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: melon\nVersion: 1.0\n")
    assert await faults() == "melon was added"
    shutil.rmtree(packages / "melon-1.0.dist-info")
    (packages / "core_of_apple-1.5.dist-info").rename(built.folder / "core")
    assert (await faults()).startswith("core-of-apple is missing; no distribution lists ")
    (built.folder / "core").rename(packages / "core_of_apple-1.5.dist-info")
    (packages / "core_of_apple-1.5.dist-info" / "RECORD").unlink()
    assert await faults() == "core-of-apple: its RECORD is gone"
    text = (packages / "core_of_apple-1.5.dist-info" / "METADATA").read_text()
    (packages / "core_of_apple-1.5.dist-info" / "METADATA").unlink()
    (packages / "core_of_apple-1.5.dist-info" / "METADATA").write_text(text.replace("1.5", "1.6"))
    assert await faults() == "core-of-apple is of version 1.6, and 1.5 is locked"
    packages.rename(built.folder / "packages")
    assert await faults() == f"{built.folder} has no folder site-packages"
    (built.folder / "packages").rename(packages)
    (built.folder / "pylock.toml").rename(built.folder / "lock")
    assert await faults() == "its lock is gone"
    (built.folder / "pylock.toml").write_text("[")
    assert "cannot be read" in await faults()
    (built.folder / "bin" / "python").unlink()
    assert "cannot be started: No such file" in await faults()
    (built.folder / "bin" / "python").symlink_to("/bin/false")
    assert "it does not run: exit code 1" in await faults()


async def test_one_whose_interpreter_is_gone_is_made_anew(environments: Environments) -> None:
    """As after an upgrade of the system's Python."""
    engine = make_engine("apple")
    built = await environments.ensure(engine)
    (built.folder / "bin" / "python").unlink()
    assert environments.find(engine) is None
    again = await environments.ensure(engine)
    assert again.name == built.name and await environments.check(again.name, full=True) == []


async def test_one_without_its_mark_is_never_used(environments: Environments) -> None:
    engine = make_engine("apple")
    built = await environments.ensure(engine)
    mark = built.folder / "environment.json"
    for content in (None, "{", json.dumps({"schema": 1, "name": built.name}), mark.read_text().replace("1,", "2,", 1)):
        mark.unlink()
        if content is not None:
            mark.write_text(content)
        (built.folder / "stranger").write_text("")
        assert environments.find(engine) is None and environments.list() == []
        assert environments.incomplete() == [built.name]
        assert await environments.check(built.name) == ["it has no mark of being complete: it is never used"]
        with pytest.raises(NotFound, match="is not complete"):
            environments.get(built.name)
        assert (await environments.ensure(engine)).name == built.name
        assert not (built.folder / "stranger").exists() and environments.incomplete() == []
    mark.unlink()
    await environments.remove(built.name)
    assert environments.incomplete() == []
