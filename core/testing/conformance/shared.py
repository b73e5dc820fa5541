"""What the suites of all model types share: the subject, a real server for it, and that the description is light."""

import json
import subprocess
import sys
from collections.abc import Iterator
from typing import Any, ClassVar

import httpx
import pytest

from ...hooks import Engine
from ...hooks.loader import Plugins, load_plugins
from ..serving import start_server
from .served import BaseRig, BaseTarget
from .subject import BaseSubject

__all__ = ["Conformance"]

_LOAD = """
import json, sys, time
import modelrack.hooks.loader
before, begin = set(sys.modules), time.perf_counter()
plugins = modelrack.hooks.loader.load_plugins({plugin!r})
took = time.perf_counter() - begin
print(json.dumps([sorted(name for name in {requires!r} if name in sys.modules), len(set(sys.modules) - before), took]))
"""


class Conformance:
    """Base of the suites. One for a model type is declared with `is_kit=True`; a plugin's tests subclass that.

    Attributes:
        subject: what is tested.
        subject_class: what a subject of this suite must be.
        rig_class: what tests get as `rig`.
    """

    __test__ = False
    subject: ClassVar[BaseSubject]
    subject_class: ClassVar[type[BaseSubject]]
    rig_class: ClassVar[type[BaseRig]] = BaseRig
    _kit: ClassVar[type]

    def __init_subclass__(cls, *, is_kit: bool = False, **keywords: Any) -> None:
        super().__init_subclass__(**keywords)
        if is_kit:
            cls._kit = cls
            return
        if not isinstance(getattr(cls, "subject", None), cls.subject_class):
            raise TypeError(f"{cls.__name__} needs `subject = {cls.subject_class.__name__}(engine=…, models=…)`")
        own = {name for name in vars(cls) if name.startswith("test_")}
        taken = sorted(own & set(dir(cls._kit)))
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
    def rig(cls, engine: Engine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[BaseRig]:
        """Run a server for this class."""
        home, folder = tmp_path_factory.mktemp("home"), tmp_path_factory.mktemp("models")
        limits = httpx.Limits(max_connections=64, max_keepalive_connections=16)
        with (
            start_server(home) as server,
            httpx.Client(base_url=server.url, timeout=cls.subject.answer_s, limits=limits, trust_env=False) as http,
        ):
            yield cls.rig_class(server, cls.subject, engine, folder, http)

    @pytest.fixture
    def main(self, rig: BaseRig) -> BaseTarget:
        """Return the main model."""
        found: BaseTarget = rig.target("main")
        return found

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
