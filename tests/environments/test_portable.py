"""An environment goes to another home as one file."""

import asyncio
import io
import json
import os
import subprocess
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from modelrack.environments import Built, EnvironmentFailed, Environments, Progress
from modelrack.errors import AlreadyExists, BadRequest, Conflict, NotFound

from .conftest import settings
from .engines import make_engine

Change = Callable[[tarfile.TarInfo, bytes], tuple[tarfile.TarInfo, bytes] | None]


@pytest.fixture
async def packed(environments: Environments, tmp_path: Path) -> tuple[Built, Path]:
    built = await environments.ensure(make_engine("apple"))
    await environments.export(built.name, tmp_path / "apple.tar")
    return built, tmp_path / "apple.tar"


@pytest.fixture(scope="session")
def archive(wheels: Path, cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return an exported environment, made once for all tests that only read it."""
    folder = tmp_path_factory.mktemp("archive")

    async def make() -> None:
        environments = Environments(folder / "home")
        built = await environments.ensure(make_engine("apple"))
        await environments.export(built.name, folder / "apple.tar")

    with pytest.MonkeyPatch.context() as context:
        for name, value in settings(wheels, cache).items():
            context.setenv(name, value)
        asyncio.run(make())
    return folder / "apple.tar"


def rewrite(source: Path, target: Path, change: Change, *more: tuple[tarfile.TarInfo, bytes]) -> Path:
    """Write an archive anew, changed member by member."""
    with tarfile.open(source) as old, tarfile.open(target, "w") as new:
        for member in old:
            content = file.read() if (file := old.extractfile(member)) else b""
            if (changed := change(member, content)) is not None:
                changed[0].size = len(changed[1])
                new.addfile(changed[0], io.BytesIO(changed[1]))
        for member, content in more:
            member.size = len(content)
            new.addfile(member, io.BytesIO(content))
    return target


def member(name: str, **values: object) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    for key, value in values.items():
        setattr(info, key, value)
    return info


@pytest.mark.parametrize("name", ["apple.tar", "apple.tar.gz"])
async def test_it_works_in_another_home_without_network(
    environments: Environments, tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    built = await environments.ensure(make_engine("apple"))
    (next(built.folder.glob("lib/*/site-packages/apple")) / "__pycache__").mkdir()
    heard: list[Progress] = []
    await environments.export(built.name, tmp_path / name, report=heard.append)
    monkeypatch.setenv("PIP_FIND_LINKS", "")
    monkeypatch.setenv("UV_OFFLINE", "1")
    monkeypatch.setenv("UV_CACHE_DIR", str(tmp_path / "no-cache"))
    other = Environments(tmp_path / "other")
    took = await other.import_(tmp_path / name, report=heard.append)
    assert took.name == built.name and took.packages == built.packages and took.folder != built.folder
    assert other.find(make_engine("apple")) == took == await other.ensure(make_engine("apple"))
    assert await other.check(took.name, full=True) == []
    assert subprocess.run([took.folder / "bin" / "apple"], capture_output=True, text=True).stdout == "apple\n"
    assert not [*took.folder.rglob("apple/__pycache__")] and {"writing the file", "unpacking"} <= {
        h.detail for h in heard
    }
    again = await other.import_(tmp_path / name)
    assert again == took and len(other.list()) == 1


async def test_what_is_there_already_is_shared(environments: Environments, packed: tuple[Built, Path]) -> None:
    built, file = packed
    other = await environments.ensure(make_engine("apple", "pear"))
    await environments.remove(built.name)
    took = await environments.import_(file)
    paths = [next(item.folder.glob("lib/*/site-packages/apple/data.bin")) for item in (took, other)]
    assert paths[0].stat().st_ino == paths[1].stat().st_ino


async def test_what_cannot_be_exported(environments: Environments, packed: tuple[Built, Path], tmp_path: Path) -> None:
    built, file = packed
    with pytest.raises(AlreadyExists, match="is there already"):
        await environments.export(built.name, file)
    with pytest.raises(EnvironmentFailed, match="No such file or directory"):
        await environments.export(built.name, tmp_path / "no" / "such" / "folder.tar")
    with pytest.raises(NotFound):
        await environments.export("nothing", tmp_path / "x.tar")
    next(built.folder.glob("lib/*/site-packages/apple/data.bin")).unlink()
    with pytest.raises(Conflict, match="is damaged: apple: 1 file is gone"):
        await environments.export(built.name, tmp_path / "x.tar")
    assert sorted(path.name for path in tmp_path.glob("*.tar*")) == ["apple.tar"]


async def test_files_that_are_none_are_refused(tmp_path: Path, archive: Path) -> None:
    other = Environments(tmp_path / "other")
    (tmp_path / "text.tar").write_text("nothing of that kind")
    with tarfile.open(tmp_path / "empty.tar", "w"):
        pass
    with tarfile.open(tmp_path / "strange.tar", "w") as strange:
        strange.add(archive, "environment.json/apple.tar")
    (tmp_path / "half.tar").write_bytes(archive.read_bytes()[:2000])
    for name in ("text.tar", "empty.tar", "strange.tar", "half.tar"):
        with pytest.raises(BadRequest, match="is no environment"):
            await other.import_(tmp_path / name)
    for name in ("missing.tar", ""):
        with pytest.raises(BadRequest, match="cannot be read"):
            await other.import_(tmp_path / name)
    assert other.list() == []


def facts(**values: object) -> Change:
    def change(info: tarfile.TarInfo, content: bytes) -> tuple[tarfile.TarInfo, bytes]:
        if info.name == "environment.json":
            content = json.dumps({**json.loads(content), **values}).encode()
        return info, content

    return change


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"platform": "plan9-vax"}, "is for plan9-vax, and this machine is "),
        ({"python_tag": "--help"}, "is no environment"),
        ({"device": "cuda"}, "its lock is not the one that it was made from"),
        ({"name": "other-0123456789ab"}, "its lock is not the one that it was made from"),
        ({"name": "../other"}, "is no environment"),
        ({"key": "../../other"}, "is no environment"),
        ({"hash": "0123456789ab"}, "its lock is not the one that it was made from"),
        ({"schema": 2}, "is no environment"),
        ({"packages": "all"}, "is no environment"),
        ({"python_version": "3"}, "is no environment"),
    ],
)
async def test_facts_that_do_not_fit_are_refused(
    tmp_path: Path, archive: Path, values: dict[str, object], message: str
) -> None:
    other = Environments(tmp_path / "other")
    with pytest.raises(BadRequest, match=message):
        await other.import_(rewrite(archive, tmp_path / "bad.tar", facts(**values)))
    assert other.list() == []


async def test_an_interpreter_that_is_not_there_is_told(
    tmp_path: Path, archive: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("UV_PYTHON_DOWNLOADS", "never")
    for tag, words in (("pypy-3.11", "(?i)pypy"), ("cpython-3.99", r"3\.99")):
        with pytest.raises(EnvironmentFailed, match=words):
            bad = rewrite(archive, tmp_path / f"{tag}.tar", facts(python_tag=tag))
            await Environments(tmp_path / "other").import_(bad)


async def test_an_old_python_imports_nothing(tmp_path: Path, archive: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(tarfile, "data_filter")
    with pytest.raises(EnvironmentFailed, match=r"from Python 3\.11\.4 on"):
        await Environments(tmp_path / "other").import_(archive)


async def test_damage_on_the_way_is_found(tmp_path: Path, archive: Path) -> None:
    def drop(info: tarfile.TarInfo, content: bytes) -> tuple[tarfile.TarInfo, bytes] | None:
        return None if info.name.endswith("apple/data.bin") else (info, content)

    def spoil(info: tarfile.TarInfo, content: bytes) -> tuple[tarfile.TarInfo, bytes]:
        return info, bytes(len(content)) if info.name.endswith("apple/data.bin") else content

    other = Environments(tmp_path / "other")
    for change, what in ((drop, "gone"), (spoil, "changed")):
        with pytest.raises(BadRequest, match=f"is damaged: apple: 1 file is {what}"):
            await other.import_(rewrite(archive, tmp_path / "bad.tar", change))
    cut = tmp_path / "cut.tar"
    cut.write_bytes(archive.read_bytes()[: archive.stat().st_size // 2])
    with pytest.raises(BadRequest, match="is damaged"):
        await other.import_(cut)
    assert other.list() == [] and other.incomplete() == []


@pytest.mark.parametrize(
    "info",
    [
        member("../../escaped"),
        member("/tmp/escaped-from-an-archive"),
        member("lib/out", type=tarfile.SYMTYPE, linkname="../../../.."),
        member("lib/passwords", type=tarfile.LNKTYPE, linkname="/etc/passwd"),
        member("lib/device", type=tarfile.CHRTYPE),
        member("bin/python"),
        member("pyvenv.cfg"),
    ],
    ids=lambda info: info.name,
)
async def test_what_leads_out_or_replaces_the_interpreter_is_refused(
    tmp_path: Path, archive: Path, info: tarfile.TarInfo
) -> None:
    other = Environments(tmp_path / "other")
    bad = rewrite(archive, tmp_path / "bad.tar", lambda info, content: (info, content), (info, b""))
    with pytest.raises(BadRequest):
        await other.import_(bad)
    assert other.list() == [] and not (tmp_path / "escaped").exists()
    assert not Path("/tmp/escaped-from-an-archive").exists()


def site(archive: Path, path: str) -> str:
    """Return the name of a member among the packages."""
    with tarfile.open(archive) as file:
        return (
            next(name for name in file.getnames() if name.endswith("apple/data.bin"))[: -len("apple/data.bin")] + path
        )


@pytest.mark.parametrize(
    "path",
    [
        "evil.py",
        "./evil.pth",
        "apple/evil.py",
        "evil/data.txt",
        "../../../bin/evil",
        "../../python3.1/site-packages/x.py",
    ],
)
async def test_code_that_no_distribution_lists_is_refused(tmp_path: Path, archive: Path, path: str) -> None:
    """Before the interpreter is started, which would run it."""
    proof = tmp_path / "proof"
    content = f"import pathlib; pathlib.Path({str(proof)!r}).touch()\n".encode()
    more = (member(site(archive, path)), content)
    bad = rewrite(archive, tmp_path / "bad.tar", lambda info, content: (info, content), more)
    other = Environments(tmp_path / "other")
    with pytest.raises(BadRequest, match=r"is damaged: (no distribution lists .*|.* missing)"):
        await other.import_(bad)
    assert other.list() == [] and not proof.exists()


async def test_what_uv_makes_is_not_taken_from_a_file(tmp_path: Path, archive: Path) -> None:
    proof = tmp_path / "proof"
    evil = f"import pathlib; pathlib.Path({str(proof)!r}).touch()\n".encode()
    names = ("_virtualenv.py", "_virtualenv.pth", "apple/__pycache__/__init__.cpython-311.pyc")
    more = [(member(f"./{site(archive, name)}"), evil) for name in names]
    file = rewrite(archive, tmp_path / "more.tar", lambda info, content: (info, content), *more)
    other = Environments(tmp_path / "other")
    took = await other.import_(file)
    assert await other.check(took.name, full=True) == [] and not proof.exists()
    assert not [*took.folder.rglob("apple/__pycache__/*")]


@pytest.mark.parametrize(
    "info",
    [
        member("./pyvenv.cfg"),
        member("lib/../pyvenv.cfg"),
        member("bin/./python3"),
        member("lib/x", type=tarfile.LNKTYPE, linkname="pyvenv.cfg"),
        member("lib/x", type=tarfile.SYMTYPE, linkname="python3.11"),
        member("lib/x", type=tarfile.FIFOTYPE),
        member("./pylock.toml"),
    ],
    ids=lambda info: info.name,
)
async def test_names_are_read_in_their_plainest_form(tmp_path: Path, archive: Path, info: tarfile.TarInfo) -> None:
    bad = rewrite(archive, tmp_path / "bad.tar", lambda info, content: (info, content), (info, b""))
    with pytest.raises(BadRequest, match="which an environment does not take from a file"):
        await Environments(tmp_path / "other").import_(bad)


async def test_what_is_no_regular_file_is_not_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", Path("/dev/zero")):
        with pytest.raises(BadRequest, match="cannot be read: it is no regular file"):
            await Environments(tmp_path / "other").import_(path)
