"""Files for clients: how they are named, signed, written and swept."""

import os
import time
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest

from modelrack.errors import EngineError
from modelrack.worker import ResultFiles, results
from modelrack.worker.results import MEDIA_TYPES, base_url, is_name, media_type_of, save, sign, sweep

KEY = b"k" * 32


@pytest.fixture
def place(tmp_path: Path) -> ResultFiles:
    (tmp_path / "files").mkdir()
    (tmp_path / "key").write_bytes(KEY)
    return ResultFiles(folder=str(tmp_path / "files"), key_file=str(tmp_path / "key"), ttl_s=60, max_bytes=100)


@pytest.mark.parametrize("media_type", sorted(MEDIA_TYPES))
def test_a_result_is_written_and_signed(place: ResultFiles, media_type: str) -> None:
    before = time.time()
    url = urlsplit(save(place, "http://rack:1/p", b"content", media_type))
    name = url.path.removeprefix("/p/v1/files/")
    assert (url.scheme, url.netloc) == ("http", "rack:1") and is_name(name) and media_type_of(name) == media_type
    file = Path(place.folder) / name
    assert file.read_bytes() == b"content" and file.stat().st_mode & 0o777 == 0o600
    query = parse_qs(url.query)
    assert before + 59 <= int(query["expires"][0]) <= time.time() + 60
    assert query["signature"] == [sign(KEY, name, int(query["expires"][0]))]
    assert os.listdir(place.folder) == [name]


def test_what_cannot_be_kept(place: ResultFiles) -> None:
    with pytest.raises(ValueError, match="text/html"):
        save(place, "", b"<script>", "text/html")
    with pytest.raises(EngineError, match="101 bytes"):
        save(place, "", bytes(101), "image/png")
    os.rmdir(place.folder)
    with pytest.raises(EngineError, match="cannot be kept: No such file"):
        save(place, "", b"x", "image/png")
    os.unlink(place.key_file)
    with pytest.raises(EngineError, match="cannot be kept"):
        save(place, "", b"x", "image/png")


def test_the_oldest_go_for_the_newest(place: ResultFiles) -> None:
    folder = Path(place.folder)
    for age in range(5):
        file = folder / f"{age}"
        file.write_bytes(bytes(30))
        os.utime(file, (time.time() - age - 1,) * 2)
    save(place, "", bytes(35), "image/png")
    left = sorted(name for name in os.listdir(folder) if not is_name(name))
    assert left == ["0", "1"] and len(os.listdir(folder)) == 3


def test_there_are_not_too_many(place: ResultFiles, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(results, "FILES_LIMIT", 3)
    names = [urlsplit(save(place, "", b"x", "image/png")).path.rpartition("/")[2] for _ in range(5)]
    assert len(os.listdir(place.folder)) == 3 and names[-1] in os.listdir(place.folder)


def test_what_has_expired_goes(place: ResultFiles) -> None:
    folder = Path(place.folder)
    for name, age in (("old", 61), (".old", 61), ("new", 1), (".new", 1)):
        (folder / name).write_bytes(bytes(60))
        os.utime(folder / name, (time.time() - age,) * 2)
    (folder / "folder").mkdir()
    (folder / "link").symlink_to(place.key_file)
    assert sweep(folder, 60, 100) == 2
    assert sorted(os.listdir(folder)) == [".new", "folder", "link", "new"]
    assert sweep(folder / "none", 60, 100) == 0


@pytest.mark.parametrize(
    "name", ["", "..", "../key", "a" * 32 + ".exe", "a" * 31 + ".png", "A" * 32 + ".png", "/etc/passwd"]
)
def test_other_names_are_none(name: str) -> None:
    assert not is_name(name)


@pytest.mark.parametrize(
    ("headers", "url"),
    [
        ({b"host": b"127.0.0.1:9997"}, "http://127.0.0.1:9997"),
        ({b"host": b"[::1]:80", b"x-forwarded-proto": b"https"}, "https://[::1]:80"),
        ({b"host": b"x.org", b"x-forwarded-prefix": b"/a/b"}, "http://x.org/a/b"),
        ({b"host": b"x.org", b"x-forwarded-prefix": b"//evil?"}, "http://x.org"),
        ({b"host": b"x.org", b"x-forwarded-proto": b"javascript"}, "http://x.org"),
        ({b"host": b'x"><script>'}, ""),
        ({}, ""),
    ],
)
def test_the_address_is_that_of_the_request(headers: dict[bytes, bytes], url: str) -> None:
    assert base_url(headers) == url
