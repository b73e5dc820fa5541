"""What distributions say of themselves may be damaged: that is told, by name, and the check goes on."""

import os
from pathlib import Path

import pytest

from modelrack.environments import Built, EnvironmentFailed, Environments
from modelrack.environments.inspection import installed, packages_folder

from .engines import make_engine


@pytest.fixture
async def built(environments: Environments) -> Built:
    return await environments.ensure(make_engine("apple"))


def info(built: Built) -> Path:
    return packages_folder(built.folder) / "apple-2.0.dist-info"


def replace(path: Path, content: bytes | None) -> None:
    """Write a file anew: the one that is there is shared with the cache."""
    path.unlink()
    if content is not None:
        path.write_bytes(content)


@pytest.mark.parametrize(
    ("content", "words"), [(None, "its METADATA is gone"), (b"", "its METADATA has no name and version")]
)
async def test_metadata(environments: Environments, built: Built, content: bytes | None, words: str) -> None:
    replace(info(built) / "METADATA", content)
    for full in (False, True):
        assert await environments.check(built.name, full=full) == [f"apple: {words}"]
    with pytest.raises(EnvironmentFailed, match="apple is damaged"):
        installed(built.folder)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (b"x" * 140_000, "larger than field limit"),
        (b"a\0b,,", "it holds a NUL"),
        (b"\xff\xfe,,", "it is no UTF-8"),
        (b"apple/data.bin,,many", "has the size 'many'"),
        (b"apple/data.bin,,-1", "has the size '-1'"),
        (b"", "line 1 names no file"),
    ],
)
async def test_records(environments: Environments, built: Built, line: bytes, words: str) -> None:
    record = info(built) / "RECORD"
    replace(record, line + b"\n" + record.read_bytes())
    (fault,) = await environments.check(built.name, full=True)
    assert fault.startswith("apple: its RECORD is damaged: ") and words in fault


async def test_only_files_of_the_environment_are_read(environments: Environments, built: Built, tmp_path: Path) -> None:
    """A device has no end, a pipe nobody who writes, and a link may lead anywhere."""
    packages = packages_folder(built.folder)
    os.mkfifo(packages / "apple" / "pipe")
    (packages / "apple" / "link").symlink_to("/dev/zero")
    (packages / "away").symlink_to(tmp_path)
    (tmp_path / "file").write_bytes(b"")
    record = info(built) / "RECORD"
    lines = ["/dev/zero", "../../../../../file", "away/file", "apple/pipe", "apple/link"]
    replace(record, record.read_bytes() + "".join(f"{line},sha256=AAAA,\n" for line in lines).encode())
    assert await environments.check(built.name, full=True) == [
        "apple: 3 files are outside of the environment: /dev/zero, ../../../../../file, away/file",
        "apple: 2 files are not regular: apple/pipe, apple/link",
        f"no distribution lists {(packages / 'away').relative_to(built.folder)}",
    ]


async def test_hashes_of_no_known_kind(environments: Environments, built: Built) -> None:
    record = info(built) / "RECORD"
    for kind in (b"shake_128=", b"nothing=", b"="):
        replace(record, record.read_bytes().replace(b"sha256=", kind))
        (fault,) = await environments.check(built.name, full=True)
        assert fault.startswith("apple: ") and "changed" in fault
        replace(record, record.read_bytes().replace(kind, b"sha256="))


async def test_a_distribution_that_is_there_twice(environments: Environments, built: Built) -> None:
    copy = info(built).with_name("zapple-9.dist-info")
    copy.mkdir()
    (copy / "METADATA").write_bytes((info(built) / "METADATA").read_bytes())
    unlisted = (copy / "METADATA").relative_to(built.folder)
    assert await environments.check(built.name) == ["apple is there twice", f"no distribution lists {unlisted}"]


async def test_a_lock_that_is_no_text(environments: Environments, built: Built) -> None:
    (built.folder / "pylock.toml").write_bytes(b"\xff")
    assert await environments.check(built.name) == ["its lock is damaged: it is no UTF-8"]
