"""What models of images, audio and video need of the server, through a stranger's plugin: forms, progress, files."""

import base64
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from modelrack.client import Client
from modelrack.testing.serving import Server, start_server, wait_until

PLUGIN = """
from modelrack.hooks import Engine, Family, ModelType, PythonWorker, Route, Source, Variant, hookimpl

@hookimpl
def register_model_types():
    paths = {"/v1/images/generations": "make", "/v1/images/variations": "vary"}
    requests = {"make": "MakeRequest", "vary": "VaryRequest"}
    routes = tuple(
        Route(path=path, ability=ability, request=f"paint_worker:{requests[ability]}", response="paint_worker:Images",
              summary="Paint.")
        for path, ability in paths.items()
    )
    return [ModelType(name="picture", routes=routes)]

@hookimpl
def register_engines():
    return [Engine(
        name="paint", model_types=("picture",), worker=PythonWorker(loader="paint_worker:PaintLoader"),
        accepts=lambda candidate, machine: None,
    )]

@hookimpl
def register_families():
    return [Family(name="painter", model_type="picture", abilities=("text2image",), variants=(
        Variant(format="paint", sources=(Source(hub="file", repo="/"),)),))]
"""

WORKER = '''
import asyncio
from pathlib import Path
from pydantic import AliasChoices, BaseModel, Field
from modelrack.api.files import Upload
from modelrack.api.kwargs import KwargsRequest
from modelrack.worker import Loader


class MakeRequest(KwargsRequest):
    prompt: str
    n: int = 1
    size: str | None = None
    response_format: str = "url"
    steps: int = 1


class VaryRequest(MakeRequest):
    image: list[Upload] = Field(validation_alias=AliasChoices("image", "images"))
    negative_prompt: str | None = None


class Images(BaseModel):
    created: int
    data: list[dict[str, str]]


class Painter:
    """Paint the prompt, and what came with it. After each step but the last a file is waited for."""

    async def __call__(self, request, call):
        for number in range(1, request.steps):
            await asyncio.to_thread(call.progress, number / request.steps)
            while not Path(request.prompt, str(number)).exists():
                await asyncio.sleep(0.005)
        images = [image.content for image in getattr(request, "image", ())]
        content = b"|".join([request.prompt.encode(), *images])
        return {"created": 1, "data": [{"url": await asyncio.to_thread(call.save, content, "image/png")}]}


class PaintLoader(Loader):
    def load(self, report):
        painter = Painter()
        return {"make": painter, "vary": painter}
'''


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    site = tmp_path_factory.mktemp("site")
    (site / "paint_plugin.py").write_text(PLUGIN)
    (site / "paint_worker.py").write_text(WORKER)
    info = site / "modelrack_paint-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: modelrack-paint\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[modelrack]\npaint = paint_plugin\n")
    return site


def launch(server: Server, **options: Any) -> None:
    body = {"model_name": "painter", "model_type": "picture", "model_uid": "p", **options}
    answer = httpx.post(f"{server.url}/v1/models", params={"wait_ready": True}, json=body, timeout=60)
    assert answer.status_code == 200, answer.text


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, site: Path) -> Iterator[Server]:
    with start_server(tmp_path_factory.mktemp("home"), PYTHONPATH=str(site), MODELRACK_API_KEYS="sk-a") as running:
        headers = {"Authorization": "Bearer sk-a"}
        body = {"model_name": "painter", "model_type": "picture", "model_uid": "p", "replica": 2}
        url = f"{running.url}/v1/models?wait_ready=true"
        answer = httpx.post(url, json=body, headers=headers, timeout=60)
        assert answer.status_code == 200, answer.text
        yield running


@pytest.fixture(scope="module")
def client(server: Server) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server.url, headers={"Authorization": "Bearer sk-a"}, timeout=20) as client:
        yield client


@pytest.fixture(scope="module")
def xinference(server: Server) -> Any:
    from xinference_client import RESTfulClient

    return RESTfulClient(server.url, api_key="sk-a")


def handle(server: Server, xinference: Any) -> Any:
    from xinference_client.client.restful.restful_client import RESTfulImageModelHandle

    return RESTfulImageModelHandle("p", server.url, auth_headers={"Authorization": "Bearer sk-a"})


def test_forms_of_released_clients(server: Server, client: httpx.Client, xinference: Any) -> None:
    picture = handle(server, xinference)
    made = picture.image_to_image(b"\x89PNG\r\n--", "draw", steps=1)
    assert httpx.get(made["data"][0]["url"]).content == b"draw|\x89PNG\r\n--"
    made = picture.image_to_image([b"one", b"two"], "draw", negative_prompt="no", size="8*8")
    assert httpx.get(made["data"][0]["url"]).content == b"draw|one|two"
    with pytest.raises(RuntimeError, match="unknown field 'hue'"):
        picture.image_to_image(b"one", "draw", hue=1)
    body = {"model": "p", "prompt": "json", "image": [base64.b64encode(b"x").decode()]}
    url = client.post("/v1/images/variations", json=body).json()["data"][0]["url"]
    assert httpx.get(url).content == b"json|x"
    ours = Client(server.url, api_key="sk-a")
    assert ours.list_models()["p"]["model_type"] == "picture"


def test_progress_of_a_request_on_either_replica(
    server: Server, client: httpx.Client, xinference: Any, tmp_path: Path
) -> None:
    """By the id in `kwargs`, as Xinference's client sends it, and as it asks."""
    picture = handle(server, xinference)
    with pytest.raises(RuntimeError, match="No request 'r0'"):
        xinference.get_progress("r0")
    threads = [
        threading.Thread(
            target=picture.text_to_image, args=(str(tmp_path),), kwargs={"request_id": f"r{index}", "steps": 4}
        )
        for index in range(2)
    ]
    for thread in threads:
        thread.start()

    def told(name: str) -> Any:
        answer = client.get(f"/v1/requests/{name}/progress")
        return answer.json()["progress"] if answer.status_code == 200 else None

    wait_until(lambda: [told("r0"), told("r1")] == [0.25, 0.25])
    assert xinference.get_progress("r0")["progress"] == 0.25
    for number, progress in ((1, 0.5), (2, 0.75), (3, 1.0)):
        (tmp_path / str(number)).touch()
        wait_until(lambda progress=progress: [told("r0"), told("r1")] == [progress, progress])  # type: ignore[misc]  # bound
    for thread in threads:
        thread.join(20)
    answer = client.get("/v1/requests/r1/progress").json()
    assert answer == {"progress": 1.0, "status": "finished", "model": "p", "request_id": "r1"}
    assert httpx.get(f"{server.url}/v1/requests/r1/progress").status_code == 401


def test_a_request_is_aborted_by_the_id_in_kwargs(server: Server, client: httpx.Client) -> None:
    body = {"model": "p", "prompt": "draw", "kwargs": '{"request_id": "stop", "steps": 1000}'}
    got: list[httpx.Response] = []

    def ask() -> None:
        with httpx.Client(base_url=server.url, headers=client.headers, timeout=20) as own:
            got.append(own.post("/v1/images/generations", json=body))

    thread = threading.Thread(target=ask)
    thread.start()
    wait_until(lambda: client.get("/v1/requests/stop/progress").json().get("progress"))
    assert client.post("/v1/models/p/requests/stop/abort").json() == {"msg": "DONE"}
    thread.join(20)
    assert got[0].json()["error"]["code"] == "request_aborted"
    assert client.get("/v1/requests/stop/progress").json()["status"] == "failed"


def test_urls_need_no_key_but_their_signature(server: Server, client: httpx.Client) -> None:
    body = {"model": "p", "prompt": "secret"}
    url = client.post("/v1/images/generations", json=body).json()["data"][0]["url"]
    assert url.startswith(f"{server.url}/v1/files/")
    answer = httpx.get(url, headers={"range": "bytes=0-2"})
    assert (answer.status_code, answer.content, answer.headers["content-type"]) == (206, b"sec", "image/png")
    assert httpx.get(url[:-1]).status_code == httpx.get(url.partition("?")[0]).status_code == 403
    assert httpx.post(url).status_code == 405
    assert (server.home / "files.key").stat().st_mode & 0o777 == 0o600


def test_a_bad_upload_is_told_and_leaves_nothing(server: Server, client: httpx.Client) -> None:
    before = sorted((server.home / "files").iterdir())
    for files, data, param in (
        ({"image": ("a.png", b"")}, {"prompt": "x"}, "image.0"),
        ({"image": ("a.png", b"x")}, {}, "prompt"),
        ({"image": ("a.png", b"x")}, {"prompt": "x", "n": "many"}, "n"),
        ({"image": ("a.png", b"x"), "prompt": ("p.txt", b"x")}, {}, "prompt"),
    ):
        answer = client.post("/v1/images/variations", data={"model": "p", **data}, files=files)
        assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)
    assert sorted((server.home / "files").iterdir()) == before


def test_forms_are_described(client: httpx.Client) -> None:
    document = client.get("/openapi.json").json()
    body = document["paths"]["/v1/images/variations"]["post"]["requestBody"]["content"]
    assert list(body) == ["multipart/form-data"]
    schema = document["components"]["schemas"]["VaryRequest"]["properties"]
    assert schema["image"]["items"] == {"type": "string", "format": "binary"} and "kwargs" in schema
    assert list(document["paths"]["/v1/images/generations"]["post"]["requestBody"]["content"]) == ["application/json"]


def test_files_outlive_the_server_and_its_address(tmp_path: Path, site: Path) -> None:
    """An adopted worker signs with the home's key, and is told the new server's address with each request."""
    home = tmp_path / "home"
    body = {"model": "p", "prompt": "draw"}
    with start_server(home, PYTHONPATH=str(site)) as server:
        launch(server)
        first = httpx.post(f"{server.url}/v1/images/generations", json=body).json()["data"][0]["url"]
        server.process.kill()
        server.process.wait()
    (home / "files.key").chmod(0o644)
    with start_server(home, PYTHONPATH=str(site), MODELRACK_PUBLIC_URL="https://rack.example/a") as server:
        wait_until(lambda: httpx.get(f"{server.url}/ready").status_code == 200)
        answer = httpx.post(f"{server.url}/v1/images/generations", json=body, timeout=20)
        second = answer.json()["data"][0]["url"]
        assert second.startswith("https://rack.example/a/v1/files/")
        for url in (first, second):
            path = url[url.index("/v1/files/") :]
            assert httpx.get(f"{server.url}{path}").content == b"draw"
        assert (home / "files.key").stat().st_mode & 0o777 == 0o600
