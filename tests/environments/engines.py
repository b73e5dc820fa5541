"""Engines that declare environments."""

from collections.abc import Mapping

from modelrack.hooks import Engine, Environment, PythonWorker

__all__ = ["make_engine"]


def make_engine(
    *requirements: str,
    name: str = "fruit",
    absent: tuple[str, ...] = (),
    by_device: Mapping[str, tuple[str, ...]] | None = None,
    python: str = ">=3.11",
) -> Engine:
    """Return an engine whose environment holds what is given."""
    environment = Environment(requirements=requirements, absent=absent, by_device=by_device or {}, python=python)
    return Engine(
        name=name,
        model_types=("LLM",),
        worker=PythonWorker(loader="nobody:Loader"),
        accepts=lambda candidate, machine: None,
        environment=environment,
    )
