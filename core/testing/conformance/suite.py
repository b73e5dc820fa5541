"""The suite: what a plugin author subclasses."""

import json
import subprocess
import sys
from collections.abc import Iterator
from typing import Any, ClassVar

import httpx
import pytest

from ...hooks import CommandWorker, Engine
from ...hooks.loader import Plugins, load_plugins
from ..serving import start_server
from .base import BaseTests
from .claims import NAMES, NEEDS, feature_of, probes
from .constraints import ConstraintTests
from .faults import FaultTests
from .logprobs import LogprobTests
from .models import ModelTests
from .record import recorder_of
from .rig import CHAT, COMPLETIONS, Rig, Target
from .sampling import SamplingTests
from .subject import Subject
from .tokens import TokenTests
from .tools import ToolTests

__all__ = ["LLMConformance"]

_LOAD = """
import json, sys, time
import modelrack.hooks.loader
before, begin = set(sys.modules), time.perf_counter()
plugins = modelrack.hooks.loader.load_plugins({plugin!r})
took = time.perf_counter() - begin
print(json.dumps([sorted(name for name in {requires!r} if name in sys.modules), len(set(sys.modules) - before), took]))
"""


# Tests of the classes named last come first; those of faults, which kill the worker, at the end.
class LLMConformance(
    FaultTests, ModelTests, ToolTests, ConstraintTests, TokenTests, LogprobTests, SamplingTests, BaseTests
):
    """The conformance tests of an engine for language models.

    A plugin's test module has a subclass that names the `subject`; pytest runs all tests for it. Tests of features are
    run if the engine claims the feature; what it does not claim must be refused.
    """

    __test__ = False
    subject: ClassVar[Subject]

    def __init_subclass__(cls, **keywords: Any) -> None:
        super().__init_subclass__(**keywords)
        if not isinstance(getattr(cls, "subject", None), Subject):
            raise TypeError(f"{cls.__name__} needs `subject = Subject(engine=…, models=…)`")
        own = {name for name in vars(cls) if name.startswith("test_")}
        taken = sorted(own & set(dir(LLMConformance)))
        if taken:
            raise TypeError(
                f"{cls.__name__} replaces {', '.join(taken)} of the kit; a feature is left out by not claiming it"
            )
        if "__init__" in vars(cls):
            raise TypeError(f"{cls.__name__} has an __init__, so pytest would not collect it")
        # Whatever its name: a suite that is not collected would pass.
        cls.__test__ = True

    @pytest.fixture(scope="class")
    @classmethod
    def plugins(cls) -> Plugins:
        """Return the installed plugins."""
        return load_plugins(None)

    @pytest.fixture(scope="class")
    @classmethod
    def engine(cls, plugins: Plugins) -> Engine:
        """Return the description of the subject's engine."""
        problems = cls.subject.problems()
        assert not problems, f"the subject is incomplete: {'; '.join(problems)}"
        assert cls.subject.engine in plugins.engines, f"no plugin brings an engine '{cls.subject.engine}'"
        return plugins.engines[cls.subject.engine]

    @pytest.fixture(scope="class")
    @classmethod
    def rig(cls, engine: Engine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
        """Run a server for this class."""
        home, folder = tmp_path_factory.mktemp("home"), tmp_path_factory.mktemp("models")
        limits = httpx.Limits(max_connections=64, max_keepalive_connections=16)
        with (
            start_server(home) as server,
            httpx.Client(base_url=server.url, timeout=cls.subject.answer_s, limits=limits, trust_env=False) as http,
        ):
            yield Rig(server, cls.subject, engine, folder, http)

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
    def main(self, rig: Rig) -> Target:
        """Return the main model."""
        return rig.target("main")

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

    def test_the_description_loads_without_the_engine(
        self, plugins: Plugins, engine: Engine, record_property: Any
    ) -> None:
        """The server reads every description at start-up."""
        code = _LOAD.format(plugin=plugins.owner("engine", engine.name), requires=engine.requires)
        done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr
        loaded, modules, seconds = json.loads(done.stdout.splitlines()[-1])
        record_property("description_modules", modules)
        record_property("description_s", seconds)
        assert loaded == [], f"the description imports {loaded}"

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
