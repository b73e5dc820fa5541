"""Files for clients, over HTTP: only at the URLs that were given out, and only while they are good."""

import asyncio
import os
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest
from fastapi import FastAPI

from modelrack.errors import Forbidden
from modelrack.server import errors
from modelrack.server.files import FileStore
from modelrack.server.routes import files
from modelrack.worker import ResultFiles
from modelrack.worker.results import save, sign

CONTENT = bytes(range(256)) * 40


@pytest.fixture
def place(tmp_path: Path) -> ResultFiles:
    home = tmp_path / "home"
    return ResultFiles(folder=str(home / "files"), key_file=str(home / "files.key"), ttl_s=60, max_bytes=1 << 20)


@pytest.fixture
def store(place: ResultFiles) -> FileStore:
    return FileStore(place)


@pytest.fixture
async def client(store: FileStore) -> AsyncIterator[httpx.AsyncClient]:
    app = FastAPI()
    errors.install(app)
    app.include_router(files.router(store))
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://rack") as client:
        yield client


def check_error(answer: httpx.Response, status: int) -> str:
    assert answer.status_code == status and answer.headers["content-type"] == "application/json"
    body = answer.json()
    assert body["detail"] == body["error"]["message"]
    return str(body["detail"])


@pytest.mark.parametrize("media_type", ["image/png", "video/mp4", "audio/mpeg", "text/plain"])
async def test_a_file_is_served(place: ResultFiles, client: httpx.AsyncClient, media_type: str) -> None:
    url = save(place, "http://rack", CONTENT, media_type)
    answer = await client.get(url)
    assert (answer.status_code, answer.content) == (200, CONTENT)
    assert answer.headers["content-type"].partition(";")[0] == media_type
    assert answer.headers["x-content-type-options"] == "nosniff" and "private" in answer.headers["cache-control"]
    head = await client.head(url)
    assert (head.status_code, head.content, head.headers["content-length"]) == (200, b"", str(len(CONTENT)))


async def test_ranges(place: ResultFiles, client: httpx.AsyncClient) -> None:
    url = save(place, "http://rack", CONTENT, "video/mp4")
    for asked, content in (("bytes=0-9", CONTENT[:10]), ("bytes=10230-", CONTENT[10230:]), ("bytes=-5", CONTENT[-5:])):
        answer = await client.get(url, headers={"range": asked})
        assert (answer.status_code, answer.content) == (206, content)
        assert answer.headers["content-range"].endswith("/10240")
    for ignored in ("lines=1-2", "bytes=5-1", "bytes=", "bytes=-", "bytes=-0", "bytes=a-b", "bytes=0-1,3-4", "x", ""):
        answer = await client.get(url, headers={"range": ignored})
        assert (answer.status_code, answer.content) == (200, CONTENT)
    answer = await client.get(url, headers={"range": "bytes=10240-"})
    assert "10240 bytes" in check_error(answer, 416) and answer.headers["content-range"] == "bytes */10240"
    answer = await client.get(url, headers={"range": "bytes=10240-", "if-range": '"other"'})
    assert (answer.status_code, answer.content) == (200, CONTENT)


async def test_other_urls_are_refused(place: ResultFiles, store: FileStore, client: httpx.AsyncClient) -> None:
    url = save(place, "http://rack", CONTENT, "image/png")
    path, _, query = url.partition("?")
    parts = dict(part.split("=") for part in query.split("&"))
    other = save(place, "http://rack", b"other", "image/png").partition("?")[0]
    later = str(int(parts["expires"]) + 1)
    for wrong in (
        path,
        f"{path}?expires={parts['expires']}",
        f"{path}?signature={parts['signature']}",
        f"{path}?expires={later}&signature={parts['signature']}",
        f"{path}?expires={parts['expires']}&signature={parts['signature'][:-1]}",
        f"{path}?expires={parts['expires']}&signature=%C3%BC%ff",
        f"{path}?expires=٣&signature=0",
        f"{path}?expires={'9' * 5000}&signature=0",
        f"{other}?{query}",
        f"http://rack/v1/files/..%2Ffiles.key?{query}",
    ):
        answer = await client.get(wrong)
        assert answer.status_code in (403, 404), wrong
        check_error(answer, answer.status_code)
    past = int(time.time()) - 1
    name = path.rpartition("/")[2]
    key = Path(place.key_file).read_bytes()
    assert "expired" in check_error(await client.get(f"{path}?expires={past}&signature={sign(key, name, past)}"), 403)
    os.unlink(Path(place.folder) / name)
    assert "gone" in check_error(await client.get(url), 404)


@pytest.mark.parametrize("name", ["../files.key", "/etc/passwd", "..", ".", "x.png", "a" * 32 + ".sh"])
def test_a_good_signature_opens_no_other_file(store: FileStore, place: ResultFiles, name: str) -> None:
    until = int(time.time()) + 9
    key = Path(place.key_file).read_bytes()
    with pytest.raises(Forbidden):
        store.find(name, str(until), sign(key, name, until))


def test_the_key_is_the_owners_alone_and_stays(store: FileStore, place: ResultFiles) -> None:
    file = Path(place.key_file)
    key = file.read_bytes()
    assert len(key) == 32 and file.stat().st_mode & 0o777 == 0o600
    file.chmod(0o644)
    FileStore(place)
    assert file.read_bytes() == key and file.stat().st_mode & 0o777 == 0o600


def test_what_somebody_removed_comes_back(store: FileStore, place: ResultFiles) -> None:
    """With the same key: URLs that were given out go on."""
    key = Path(place.key_file).read_bytes()
    for wrong in (None, b"", b"short"):
        os.unlink(place.key_file)
        if wrong is not None:
            Path(place.key_file).write_bytes(wrong)
        os.rmdir(place.folder)
        store.sweep()
        assert Path(place.key_file).read_bytes() == key and os.listdir(place.folder) == []
    assert sorted(os.listdir(Path(place.folder).parent)) == ["files", "files.key"]


def test_a_place_that_cannot_be_had_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").write_text("")
    FileStore(ResultFiles(folder=str(tmp_path / "file/x"), key_file=str(tmp_path / "file/key"), ttl_s=1, max_bytes=1))
    assert "cannot be kept" in caplog.text


@pytest.fixture
def quick(tmp_path: Path) -> Iterator[ResultFiles]:
    yield ResultFiles(folder=str(tmp_path / "f"), key_file=str(tmp_path / "k"), ttl_s=0.05, max_bytes=100)


async def test_old_ones_go_at_the_start_and_now_and_then(quick: ResultFiles, monkeypatch: pytest.MonkeyPatch) -> None:
    store = FileStore(quick)
    name = urlsplit(save(quick, "", b"x", "image/png")).path.rpartition("/")[2]
    path = Path(quick.folder) / name
    os.utime(path, (time.time() - 1,) * 2)
    FileStore(quick)
    assert not path.exists()
    save(quick, "", b"x", "image/png")
    sweeping = asyncio.ensure_future(store.keep_swept())
    async with asyncio.timeout(10):
        while os.listdir(quick.folder):
            await asyncio.sleep(0.01)
    sweeping.cancel()
