"""Engines against each other: a greedy answer of the same model is the same, whatever engine writes it."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import httpx
import pytest

from ...catalog.engines import where_it_runs
from ...hooks import Engine
from ...hooks.loader import load_plugins
from ..serving import start_server
from .rig import CHAT, Target, together
from .subject import Model, Subject

__all__ = ["QUESTIONS", "check_agreement"]

QUESTIONS = (
    "What is the largest animal?",
    "How do you say hello in Japanese?",
    "What is the capital of France?",
    "你好",
    "How many days are there in a week?",
    "What colour is the sky?",
    "Who are you?",
    "What is two plus two?",
)
"""What demo-chat is asked; it was trained on such questions, so no near tie is decided by what an engine rounds."""


def check_agreement(
    home: Path,
    engine: str,
    *,
    others: Sequence[str] | None = None,
    model: str = "demo-chat",
    questions: Sequence[str] = QUESTIONS,
    options: Mapping[str, Mapping[str, Any]] | None = None,
    environment: str | None = None,
    launch_s: float = 120,
) -> tuple[str, ...]:
    """Check that engines give the same greedy answers, alone and all at once; return the names of those compared.

    All run in one server, one after another. The test that calls this is skipped where no other engine is installed.

    Args:
        home: an empty folder for the server.
        engine: whose plugin this is a test of.
        others: engines to compare it with, as far as they are installed; None: all that run the model.
        options: options by engine, such as the data type it computes with.
        environment: of `engine`, as at a launch.
        launch_s: the most that a launch may take.
    """
    options = options or {}
    plugins = load_plugins(None)
    assert engine in plugins.engines, f"no plugin brings an engine '{engine}'"
    names = [name for name in others or plugins.engines if name != engine and name in plugins.engines]
    with (
        start_server(home) as server,
        httpx.Client(base_url=server.url, timeout=launch_s, trust_env=False) as http,
    ):
        runs = _takers(http, model)
        rivals = [name for name in names if name in runs and where_it_runs(plugins.engines[name]) == "server"]
        if not rivals:
            pytest.skip(f"no other engine that runs '{model}' is installed here")
        answers: dict[str, list[str]] = {}
        for name in (engine, *rivals):
            fields: dict[str, Any] = dict(options.get(name, {}))
            if name == engine and environment is not None:
                fields["environment"] = environment
            answers[name] = _answers(http, plugins.engines[name], model, questions, fields)
    first = answers[engine]
    assert len(set(first)) > len(questions) // 2, f"'{model}' says the same to everything: {first}"
    for name in rivals:
        differing = [
            f"{question!r}: {one!r} ({engine}), {other!r} ({name})"
            for question, one, other in zip(questions, first, answers[name], strict=True)
            if one != other
        ]
        assert not differing, "answers differ:\n" + "\n".join(differing)
    return (engine, *rivals)


def _takers(http: httpx.Client, model: str) -> set[str]:
    """Return the engines that run a model here."""
    response = http.get(f"/v1/engines/LLM/{model}")
    assert response.status_code == 200, response.text
    return {name for name, found in response.json().items() if isinstance(found, list)}  # else it is the reason


def _answers(
    http: httpx.Client, engine: Engine, model: str, questions: Sequence[str], fields: Mapping[str, Any]
) -> list[str]:
    body = {"model_name": model, "model_engine": engine.name, "model_uid": "agreement", **fields}
    response = http.post("/v1/models", json=body, params={"wait_ready": 1})
    assert response.status_code == 200, f"'{model}' cannot be launched with {engine.name}: {response.text}"
    subject = Subject(engine=engine.name, models={"main": Model(name=model)})
    target = Target(http, "agreement", subject, engine)

    def ask(question: str) -> str:
        return target.chat(question, max_tokens=64).text

    alone = [target.both(CHAT, question, max_tokens=64).text for question in questions]
    assert together(ask, questions) == alone, f"{engine.name} answers otherwise when it is asked all at once"
    ended = http.delete("/v1/models/agreement")
    assert ended.status_code == 200, ended.text
    return alone
