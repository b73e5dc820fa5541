"""What an instance takes over from an earlier server."""

from pathlib import Path

from modelrack.hooks import Family, LoadPlan, ModelFiles, Variant
from modelrack.lifecycle.instance import _given_to
from modelrack.lifecycle.store import WorkerRecord
from modelrack.worker.contract import Job
from modelrack.worker.job import write_job


def test_a_running_worker_keeps_the_accelerators_that_it_was_given(tmp_path: Path) -> None:
    """It holds their memory by now, so the roomiest are others."""
    path = tmp_path / "job.json"
    record = WorkerRecord(incarnation="x", model_uid="m", replica_id=0, socket="s", log="l", job=str(path))
    assert _given_to(record) is None
    plan = LoadPlan(
        model_uid="m",
        family=Family(name="f", model_type="LLM"),
        variant=Variant(format="x"),
        quantization="none",
        files=ModelFiles(path="", format="x"),
        accelerators=(2, 0),
    )
    job = Job(incarnation="x", replica_id=0, socket="s", lease=None, lease_s=1, plan=plan, routes=(), loader="m:L")
    write_job(path, job)
    assert _given_to(record) == (2, 0)
