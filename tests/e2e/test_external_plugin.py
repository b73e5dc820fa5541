"""A distribution from outside this repository, installed by pip, brings a type, a family, an engine and a handler."""

import subprocess
from collections.abc import Iterator
from typing import Any

import httpx
import openai
import pytest

from modelrack.testing.serving import Server, clean_environment, start_server
from virtualenvs import Environment, make_environment

PYPROJECT = """
[build-system]
requires = ["setuptools>=77"]
build-backend = "setuptools.build_meta"

[project]
name = "modelrack-stranger"
version = "3.2.1"
dependencies = ["modelrack"]

[project.entry-points.modelrack]
stranger = "modelrack_stranger.plugin"

[tool.setuptools]
packages = ["modelrack_stranger"]
"""

API = '''
from pydantic import BaseModel

from modelrack.api.common import InferenceRequest


class ColourRequest(InferenceRequest):
    """Asks for the colour of a thing."""

    thing: str


class ColourAnswer(BaseModel):
    """Names it."""

    model: str
    colour: str
    shade: int
'''

PLUGIN = '''
from pathlib import Path

from pydantic import Field

from modelrack.hooks import Engine, Family, ModelType, Options, PythonWorker, Route, Source, Variant, hookimpl

MODELRACK_API = 1


class ColourOptions(Options):
    """Options of a launch."""

    shade: int = Field(0, ge=0, le=9, description="How dark.")


def accepts(candidate, machine):
    return None if candidate.variant.format == "paint" else "it runs paint only"


@hookimpl
def register_model_types():
    route = Route(
        path="/v1/colours",
        ability="colour",
        request="modelrack_stranger.api:ColourRequest",
        response="modelrack_stranger.api:ColourAnswer",
        summary="Name the colour of a thing.",
    )
    return [ModelType(name="colours", routes=(route,), abilities=("colour",))]


@hookimpl
def register_families():
    variant = Variant(format="paint", sources=(Source(hub="file", repo=str(Path(__file__).parent)),))
    return [
        Family(name="palette", model_type="colours", abilities=("colour",), variants=(variant,)),
        Family(name="Stranger-Chat", model_type="LLM", abilities=("chat",), context_length=77, variants=(variant,)),
    ]


@hookimpl
def register_engines():
    worker = PythonWorker(loader="modelrack_stranger.worker:Loader")
    return [Engine(name="brush", model_types=("colours", "LLM"), worker=worker, accepts=accepts, options=ColourOptions)]
'''

WORKER = """
import modelrack.worker
from modelrack.api.chat import ChatWriter, chat_answer
from modelrack.api.common import usage_dict
from modelrack_stranger.api import ColourAnswer

COLOURS = {"sky": "blue", "grass": "green"}


class Loader(modelrack.worker.Loader):
    def load(self, report):
        report(0.5, "mixing")
        return {"colour": self.colour, "chat": self.chat}

    async def colour(self, request, call):
        return ColourAnswer(
            model=call.model_uid, colour=COLOURS.get(request.thing, "grey"), shade=self.plan.options["shade"]
        )

    async def chat(self, request, call):
        call.usage(1, 1)
        if request.stream:
            return self.stream(call)
        message = {"role": "assistant", "content": "I am a stranger here."}
        choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": "stop"}
        return chat_answer(call.model_uid, [choice], usage_dict(1, 1))

    async def stream(self, call):
        writer = ChatWriter(call.model_uid)
        yield writer.start()
        for piece in ("I am ", "a stranger ", "here."):
            yield writer.text(piece)
        yield writer.finish("stop")
"""


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Environment:
    """Build the distribution as its author would, and install the wheel beside modelrack."""
    source = tmp_path_factory.mktemp("stranger")
    (source / "pyproject.toml").write_text(PYPROJECT)
    package = source / "modelrack_stranger"
    package.mkdir()
    for name, content in {"__init__": "", "api": API, "plugin": PLUGIN, "worker": WORKER}.items():
        (package / f"{name}.py").write_text(content)
    environment = make_environment(tmp_path_factory.mktemp("environment") / "venv")
    environment.install(source)
    return environment


@pytest.fixture(scope="module")
def stranger(environment: Environment, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with start_server(tmp_path_factory.mktemp("home"), executable=environment.python) as running:
        yield running


@pytest.fixture
def api(stranger: Server) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=stranger.url, timeout=60) as client:
        yield client


def modelrack(environment: Environment, server: Server, *arguments: str) -> str:
    done = subprocess.run(
        [environment.bin / "modelrack", *arguments],
        env={**clean_environment(), "MODELRACK_ENDPOINT": server.url},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def launch(api: httpx.Client, **body: Any) -> str:
    response = api.post("/v1/models", params={"wait_ready": True}, json=body)
    assert response.status_code == 200, response.text
    return str(response.json()["model_uid"])


def test_the_plugin_is_listed(environment: Environment, stranger: Server) -> None:
    printed = modelrack(environment, stranger, "plugins")
    (row,) = [line for line in printed.splitlines() if line.startswith("stranger")]
    assert "3.2.1" in row and "modelrack-stranger" in row and "brush" in row and "loaded" in row


def test_its_families_are_registered(environment: Environment, stranger: Server, api: httpx.Client) -> None:
    assert api.get("/v1/model_registrations/colours").json() == [{"model_name": "palette", "is_builtin": True}]
    assert "Stranger-Chat" in modelrack(environment, stranger, "registrations", "--model-type", "LLM")
    assert isinstance(api.get("/v1/engines/Stranger-Chat").json()["brush"], list)


def test_a_type_with_a_route_of_its_own(api: httpx.Client) -> None:
    uid = launch(api, model_name="palette", model_type="colours", shade=3)
    answer = api.post("/v1/colours", json={"model": uid, "thing": "sky"})
    assert (answer.status_code, answer.json()) == (200, {"model": "palette", "colour": "blue", "shade": 3})
    for body in ({"model": uid}, {"model": uid, "thing": "sky", "size": 1}, {"model": uid, "thing": 5}):
        refused = api.post("/v1/colours", json=body)
        assert refused.status_code == 400 and refused.json()["error"]["param"] in ("thing", "size"), refused.text
    assert api.get(f"/v1/models/{uid}").json()["model_type"] == "colours"
    assert api.delete(f"/v1/models/{uid}").json() is None


def test_its_route_is_described(api: httpx.Client) -> None:
    operation = api.get("/openapi.json").json()["paths"]["/v1/colours"]["post"]
    assert operation["summary"] == "Name the colour of a thing."
    assert "thing" in str(api.get("/openapi.json").json())


def test_a_known_type_through_every_client(environment: Environment, stranger: Server) -> None:
    launched = modelrack(environment, stranger, "launch", "--model-name", "Stranger-Chat", "--model-uid", "there")
    assert "there" in launched
    with openai.OpenAI(api_key="any", base_url=f"{stranger.url}/v1", max_retries=0) as client:
        answer = client.chat.completions.create(model="there", messages=[{"role": "user", "content": "Hello"}])
        assert answer.choices[0].message.content == "I am a stranger here."
        chunks = client.chat.completions.create(
            model="there", messages=[{"role": "user", "content": "Hello"}], stream=True
        )
        assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == "I am a stranger here."
    assert modelrack(environment, stranger, "chat", "--model-uid", "there", "Hello").strip() == "I am a stranger here."
    assert "there" in modelrack(environment, stranger, "list")
    modelrack(environment, stranger, "terminate", "--model-uid", "there")


def test_an_unknown_option_names_the_known(api: httpx.Client) -> None:
    body = {"model_name": "palette", "model_type": "colours", "shadow": 3}
    refused = api.post("/v1/models", params={"wait_ready": True}, json=body)
    assert refused.status_code == 400
    assert "shadow" in refused.json()["detail"] and "shade" in refused.json()["detail"]
