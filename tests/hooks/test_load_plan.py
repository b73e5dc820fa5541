"""What the server hands to a worker: the formats of all plugins, and who else can do what."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from modelrack.client import Client
from modelrack.hooks import Family, LoadPlan, ModelFiles, Variant
from modelrack.hooks.loader import load_plugins
from modelrack.llm.formats.registered import FORMATS
from modelrack.testing.serving import Server
from modelrack.worker.contract import Job
from modelrack.worker.job import read_job, write_job


def make_job(plan: LoadPlan) -> Job:
    return Job(incarnation="x", replica_id=0, socket="s", lease=None, lease_s=1, plan=plan, routes=(), loader="m:L")


@pytest.fixture
def plan() -> LoadPlan:
    return LoadPlan(
        model_uid="u",
        family=Family(name="f", model_type="LLM"),
        variant=Variant(format="x"),
        quantization="none",
        files=ModelFiles(path="", format="x"),
        output_formats=FORMATS,
        feature_engines={"seed": ("a", "b")},
    )


def test_a_plan_survives_its_file(plan: LoadPlan, tmp_path: Path) -> None:
    write_job(tmp_path / "job.json", make_job(plan))
    assert read_job(tmp_path / "job.json").plan == plan


def test_a_job_of_an_earlier_server_has_neither(plan: LoadPlan, tmp_path: Path) -> None:
    path = tmp_path / "job.json"
    write_job(path, make_job(plan))
    job = json.loads(path.read_text())
    del job["plan"]["output_formats"], job["plan"]["feature_engines"]
    path.write_text(json.dumps(job))
    assert read_job(path).plan == replace(plan, output_formats=(), feature_engines={})


def test_a_launched_model_is_given_both(server: Server, demo_chat: str) -> None:
    with Client(server.url) as client:
        engine = client.describe_model(demo_chat)["model_engine"]
    (path,) = (path for path in server.home.rglob("job.json") if f'"{demo_chat}"' in path.read_text())
    given = read_job(path).plan
    plugins = load_plugins(None)
    assert given.output_formats == tuple(plugins.output_formats.values())
    assert given.feature_engines == plugins.feature_engines("LLM", engine)
