"""The suite: what a plugin author subclasses."""

from typing import ClassVar

import pytest

from ...hooks import CommandWorker, Engine
from .base import BaseTests
from .claims import NAMES, NEEDS, feature_of, probes
from .constraints import ConstraintTests
from .faults import FaultTests
from .logprobs import LogprobTests
from .models import ModelTests
from .record import recorder_of
from .rig import CHAT, COMPLETIONS, Rig, Target
from .sampling import SamplingTests
from .shared import Conformance
from .subject import Subject
from .tokens import TokenTests
from .tools import ToolTests

__all__ = ["LLMConformance"]


# Tests of the classes named last come first; those of faults, which kill the worker, at the end.
class LLMConformance(
    FaultTests,
    ModelTests,
    ToolTests,
    ConstraintTests,
    TokenTests,
    LogprobTests,
    SamplingTests,
    BaseTests,
    Conformance,
    is_kit=True,
):
    """The conformance tests of an engine for language models.

    A plugin's test module has a subclass that names the `subject`; pytest runs all tests for it. Tests of features are
    run if the engine claims the feature; what it does not claim must be refused.
    """

    subject: ClassVar[Subject]
    subject_class = Subject
    rig_class = Rig

    @pytest.fixture(autouse=True)
    def _claim(self, request: pytest.FixtureRequest, engine: Engine) -> None:
        """Leave out a test of a feature that is not claimed; fail one whose model the subject does not bring."""
        name = feature_of(request.function)
        recorder = recorder_of(request.config)
        if recorder is not None:
            recorder.begin(request.node.nodeid, engine.name, engine.features, name or "")
        if name is None:
            return
        if name not in engine.features:
            pytest.skip(f"the engine '{engine.name}' does not claim '{name}'")
        if name in self.subject.without:
            pytest.skip(f"the subject's models are without '{name}'")
        role = NEEDS.get(name)
        assert role is None or role in self.subject.models, (
            f"'{name}' is claimed, but the subject brings no '{role}' model"
        )

    @pytest.fixture
    def reciter(self, rig: Rig) -> Target:
        """Return the model that writes the scripts."""
        if not rig.has("reciter"):
            pytest.skip("the subject brings no model that recites")
        return rig.target("reciter")

    @pytest.fixture(params=[CHAT, COMPLETIONS], ids=["chat", "completion"])
    def path(self, request: pytest.FixtureRequest, engine: Engine) -> str:
        """Return each of the two ways to generate."""
        path: str = request.param
        if isinstance(engine.worker, CommandWorker) and path not in engine.worker.routes:
            pytest.skip(f"the engine '{engine.name}' does not serve {path}")
        return path

    def test_the_subject_and_the_claims_make_sense(self, engine: Engine) -> None:
        unknown = [name for name in engine.features if name not in NAMES]
        assert not unknown, f"the engine claims what does not exist: {unknown}; known: {', '.join(NAMES)}"
        assert len(set(engine.features)) == len(engine.features), "a feature is claimed twice"
        claimed = [name for name in engine.features if name not in self.subject.without]
        lacking = {name: NEEDS[name] for name in claimed if NEEDS.get(name, "main") not in self.subject.models}
        assert not lacking, f"claimed, but the subject brings no model to show it: {lacking}"

    @pytest.mark.parametrize("name", NAMES)
    def test_a_feature_is_claimed_and_tested_or_refused(
        self, engine: Engine, main: Target, name: str, request: pytest.FixtureRequest
    ) -> None:
        if name in engine.features:
            tests = [test for test in dir(type(self)) if feature_of(getattr(type(self), test)) == name]
            assert tests, f"the kit has no test for '{name}'"
            return
        reasons = []
        for probe in probes(name):
            for path, body in probe.requests():
                if isinstance(engine.worker, CommandWorker) and path not in engine.worker.routes:
                    continue
                error = main.refused(path, body)
                assert error["param"] in probe.named, (
                    f"the refusal names {error['param']!r}, not {probe.named[0]!r}: {error}"
                )
                # Which other engines can depends on what else is installed.
                reasons.append(str(error["message"]).removesuffix(str(error.get("remedy") or "")).strip())
        reason = next(iter(reasons), "")
        recorder = recorder_of(request.config)
        if recorder is not None:
            recorder.notes[engine.name].reasons[name] = reason
        pytest.skip(f"'{name}' is not claimed: {reason or 'nothing in a request asks for it'}")
