"""Requests that come as forms: into models, and through a real worker process."""

import base64
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import pytest
from pydantic import AliasChoices, Field

from modelrack.api.chat import ChatRequest
from modelrack.api.completions import CompletionRequest
from modelrack.api.embeddings import EmbeddingRequest
from modelrack.api.files import Upload
from modelrack.api.kwargs import KwargsRequest
from modelrack.api.rerank import RerankRequest
from modelrack.errors import BadRequest
from modelrack.hooks import Route
from modelrack.worker import ResultFiles
from modelrack.worker.forms import make_form_parser

from .conftest import RunningWorker, StartWorker, wait_for

TYPE = b"multipart/form-data; charset=utf-8; boundary=AaB03x"
PNG = b"\x89PNG\r\n\x1a\n--AaB03\r\n\r\n--\xff"


class Request(KwargsRequest):
    image: list[Upload] = Field(validation_alias=AliasChoices("image", "images"))
    mask: Upload | None = None
    granularities: list[str] | None = Field(None, validation_alias="timestamp_granularities")
    prompt: str = Field("", max_length=2_000_000)
    title: str = "untitled"
    n: int | None = None
    is_fast: bool | None = None
    strength: float = 0.5


parse = make_form_parser(Request, {"n": 4, "unknown": 1})


def part(head: str, value: bytes | str = b"", more: str = "") -> bytes:
    content = value.encode() if isinstance(value, str) else value
    return f"--AaB03x\r\nContent-Disposition: form-data; {head}\r\n{more}\r\n".encode() + content + b"\r\n"


MODEL = part('name="model"', "m")
IMAGE = part('name="image"; filename="C:\\\\pics\\\\a.png"', PNG, "Content-Type: Image/PNG; x=y\r\n")
END = b"--AaB03x--\r\n"


def read(*parts: bytes, end: bytes = END) -> Any:
    return parse(TYPE, b"".join((MODEL, IMAGE, *parts, end)))


def test_files_and_texts() -> None:
    request = read(
        part('name="n"', "2"),
        part('name="is_fast"', "true"),
        part('name="strength"', "0.25"),
        part('name="prompt"', "grüße\r\n🐋"),
        part('name="kwargs"', '{"strength": 0.25, "title": "x"}'),
    )
    assert request.image == [Upload(PNG, "a.png", "image/png")]
    assert (request.n, request.is_fast, request.strength) == (2, True, 0.25)
    assert (request.prompt, request.title) == ("grüße\r\n🐋", "x")


@pytest.mark.parametrize("name", ["image", "image[]"])
def test_several_files_of_one_name(name: str) -> None:
    assert [image.content for image in read(part(f'name="{name}"; filename="b"', b"2")).image] == [PNG, b"2"]


@pytest.mark.parametrize("name", ["images", "images[]", "image[]"])
def test_lists_by_other_names(name: str) -> None:
    request = parse(TYPE, MODEL + part(f'name="{name}"; filename="b"', b"2") + END)
    assert [image.content for image in request.image] == [b"2"]


def test_repeated_texts_are_a_list() -> None:
    name = 'name="timestamp_granularities[]"'
    assert read(part(name, "word")).granularities == ["word"]
    assert read(part(name, "word"), part(name, "segment")).granularities == ["word", "segment"]


def test_what_is_empty_is_not_given() -> None:
    request = read(
        part('name="mask"; filename=""', b"", "Content-Type: application/octet-stream\r\n"),
        part('name="n"', ""),
        part('name="title"', ""),
        part('name="kwargs"', ""),
        part('name="timestamp_granularities[]"', ""),
    )
    assert (request.mask, request.n, request.title, request.granularities) == (None, 4, "untitled", None)


def test_files_that_do_not_say_that_they_are() -> None:
    text = base64.b64encode(PNG).decode()
    assert read(part('name="mask"', text)).mask.content == PNG
    assert read(part('name="mask"', f"data:image/png;base64,{text}")).mask.media_type == "image/png"
    assert read(part('name="mask"', PNG)).mask.content == PNG
    assert read(part('name="mask"', b"text", "Content-Type: image/png\r\n")).mask.content == b"text"


@pytest.mark.parametrize(
    ("wrong", "param"),
    [
        (part('name="n"', "two"), "n"),
        (part('name="n"', "1") + part('name="n"', "1"), "n"),
        (part('name="n[]"', "1"), None),
        (part('name="prompt"', b"\xff"), "prompt"),
        (part('name="prompt"', b"x" * (1 << 20) + b"y"), "prompt"),
        (part('name="prompt"; filename="a.txt"', b"x"), "prompt"),
        (part('name="mask"; filename="a.png"', b""), "mask"),
        (part('name="mask"', "no base64"), "mask"),
        (part('name="mask"; filename="' + "x" * 300 + '"', b"x"), "mask"),
        (part('name="mask"; filename="a"', b"x", "Content-Transfer-Encoding: base64\r\n"), "mask"),
        (part('name="images"; filename="a"', b"x"), "images"),
        (part('name="other"', "x"), "other"),
        (part('name="other"; filename="a"', b"x"), "other"),
        (part('name="kwargs"', "[1]"), "kwargs"),
        (part('name="kwargs"', '{"n": 3}') + part('name="n"', "2"), "kwargs.n"),
        (part('name="model"', "other"), "model"),
    ],
)
def test_what_is_wrong_with_a_field_is_told(wrong: bytes, param: str | None) -> None:
    if param is None:  # a mark of a list on a field that is none
        assert read(wrong).n == 1
        return
    with pytest.raises(BadRequest) as caught:
        read(wrong)
    assert caught.value.param == param and param.partition(".")[0] in caught.value.message


@pytest.mark.parametrize(
    ("body", "text"),
    [
        (b"", "cut off"),
        (b"nothing", "malformed"),
        (MODEL + IMAGE, "cut off"),
        (MODEL + IMAGE[:-9], "cut off"),
        (MODEL + b"--AaB03x\r\nno colon\r\n\r\nx\r\n" + END, "malformed"),
        (MODEL + b"--AaB03x\r\n\r\nx\r\n" + END, "Part 2 of the form has no name"),
        (MODEL + b"--AaB03x\r\nContent-Disposition: attachment; name=x\r\n\r\nx\r\n" + END, "has no name"),
        (MODEL + part('filename="a"', b"x") + END, "has no name"),
        (MODEL + part('name=""', b"x") + END, "1 to 128 characters"),
        (MODEL + part('name="' + "x" * 129 + '"', b"x") + END, "1 to 128 characters"),
        (MODEL + b'--AaB03x\r\nContent-Disposition: form-data; name="\xff"\r\n\r\nx\r\n' + END, "not valid UTF-8"),
        (MODEL * 257 + END, "more than 256 parts"),
        (MODEL + part('name="n"', "1", "A: " + "x" * 9000 + "\r\n") + END, "head|malformed"),
        (MODEL + part('name="n"', "1", ("A: " + "x" * 3000 + "\r\n") * 3) + END, "over 8192 bytes"),
    ],
)
def test_what_is_wrong_with_a_form_is_told(body: bytes, text: str) -> None:
    with pytest.raises(BadRequest, match=text):
        parse(TYPE, body)


@pytest.mark.parametrize("boundary", [b"", b"; boundary=", b"; boundary=" + b"x" * 71])
def test_a_boundary_is_needed(boundary: bytes) -> None:
    with pytest.raises(BadRequest, match="boundary"):
        parse(b"multipart/form-data" + boundary, MODEL + END)


@pytest.mark.parametrize("model", [ChatRequest, CompletionRequest, EmbeddingRequest, RerankRequest])
def test_models_without_files_take_forms_too(model: type[Any]) -> None:
    """Where a form can say what they want; else the field is named."""
    parts = {"input": "a", "prompt": "a", "query": "a", "documents": "a", "messages": "[]", "seed": "5"}
    names = [name for name in parts if name in model.model_fields]
    body = b"".join(part(f'name="{name}"', parts[name]) for name in ("model", *names) if name != "model")
    try:
        request = make_form_parser(model)(TYPE, MODEL + body + END)
    except BadRequest as error:
        assert error.param == "messages.0"
    else:
        assert request.model == "m" and getattr(request, "seed", 5) == 5
    for name in model.model_fields:
        for wrong in (part(f'name="{name}"', "?"), part(f'name="{name}"; filename="a"', b"\xff")):
            with suppress(BadRequest):
                make_form_parser(model)(TYPE, MODEL + body + wrong + END)


def test_a_large_file_is_copied_once() -> None:
    """What python-multipart calls back with is the body itself, so a file is one slice of it."""
    content = b"\r\n-" * 4_000_000
    body = MODEL + part('name="image"; filename="a"', content) + END
    assert parse(TYPE, body).image[0].content == content


class TestWorker:
    """The same through the host."""

    @pytest.fixture
    def worker(self, start_worker: StartWorker, folder: Path) -> Iterator[RunningWorker]:
        (folder / "files").mkdir()
        (folder / "key").write_bytes(b"k" * 32)
        place = ResultFiles(folder=str(folder / "files"), key_file=str(folder / "key"), ttl_s=60, max_bytes=1000)
        route = Route(path="/v1/paint", ability="paint", request="media_probe:PaintRequest", response="")
        yield start_worker(routes=(route,), loader="media_probe:MediaLoader", files=place)

    def paint(self, worker: RunningWorker, **options: Any) -> httpx.Response:
        return worker.client.post("/v1/paint", **options)

    def test_a_form_and_json_are_the_same(self, worker: RunningWorker) -> None:
        form = self.paint(
            worker, data={"model": "m", "prompt": "p", "n": "2"}, files=[("image[]", ("a.png", PNG, "image/png"))] * 2
        )
        text = base64.b64encode(PNG).decode()
        json = self.paint(worker, json={"model": "m", "prompt": "p", "n": 2, "image": [text, text]})
        assert form.status_code == json.status_code == 200, form.text
        assert form.json() == {"images": [["a.png", "image/png", len(PNG)]] * 2, "prompt": "p", "n": 2}
        assert json.json() == {"images": [["", "application/octet-stream", len(PNG)]] * 2, "prompt": "p", "n": 2}

    def test_bad_forms_are_400_and_name_the_field(self, worker: RunningWorker) -> None:
        answer = self.paint(worker, data={"model": "m", "n": "x"}, files={"image": ("a", b"x")})
        assert (answer.status_code, answer.json()["error"]["param"]) == (400, "n")
        answer = self.paint(worker, content=b"junk", headers={"content-type": "MULTIPART/form-data; boundary=x"})
        assert answer.status_code == 400 and "form" in answer.json()["detail"]
        assert "python_multipart" not in worker.log.read_text()

    def test_progress_is_told_while_it_lasts(self, worker: RunningWorker) -> None:
        got: list[httpx.Response] = []
        body = {"model": "m", "prompt": "wait", "image": ["AAAA"]}
        headers = {"x-request-id": "a/b:1"}
        transport = httpx.HTTPTransport(uds=worker.job.socket)

        def ask() -> None:
            with httpx.Client(transport=transport, base_url="http://worker", timeout=20) as client:
                got.append(client.post("/v1/paint", json=body, headers=headers))

        thread = threading.Thread(target=ask)
        thread.start()

        def progress() -> Any:
            answer = worker.client.get("/_worker/requests/a/b:1")
            return answer.json().get("progress") if answer.status_code == 200 else None

        assert wait_for(progress, "progress") == 0.5
        self.paint(worker, json={"model": "m", "prompt": "release", "image": ["AAAA"]})
        thread.join(20)
        assert got[0].json()["told"] == [0.5, 0.5, 0.5, 1.0]
        assert worker.client.get("/_worker/requests/a/b:1").status_code == 404

    def test_results_are_kept_for_the_one_who_asked(self, worker: RunningWorker) -> None:
        body = {"model": "m", "prompt": "save", "image": ["AAAA"]}
        headers = {"host": "rack.example:99", "x-forwarded-proto": "https", "x-forwarded-prefix": "/a"}
        url = self.paint(worker, json=body, headers=headers).json()["url"]
        assert url.startswith("https://rack.example:99/a/v1/files/")
        name = url.partition("/v1/files/")[2].partition("?")[0]
        assert worker.job.files is not None
        assert (Path(worker.job.files.folder) / name).read_bytes() == b"\x00\x00\x00"
        answer = self.paint(worker, json={**body, "n": 1001})
        assert answer.status_code == 500 and "MODELRACK_FILES_MAX_MB" in answer.json()["detail"]


def test_a_worker_without_a_folder_says_so(start_worker: StartWorker) -> None:
    route = Route(path="/v1/paint", ability="paint", request="media_probe:PaintRequest", response="")
    worker = start_worker(routes=(route,), loader="media_probe:MediaLoader")
    answer = worker.client.post("/v1/paint", json={"model": "m", "prompt": "save", "image": ["AAAA"]})
    assert answer.status_code == 500 and answer.json()["detail"] == "This worker has no folder for results."
