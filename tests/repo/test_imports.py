"""Who may import whom, in the source and in the running process."""

import ast
import importlib
import importlib.util
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from modelrack.catalog.engines import missing_modules
from modelrack.hooks import PythonWorker
from modelrack.hooks.loader import load_plugins

ROOT = Path(__file__).resolve().parents[2]
SOURCES = sorted(
    path
    for folder in ("core", "plugins", "tests", "bench", "scripts")
    for path in (ROOT / folder).rglob("*.py")
    if not {"build", "__pycache__"} & set(path.parts)
)
ENGINES = {
    "torch",
    "tensorflow",
    "transformers",
    "vllm",
    "llama_cpp",
    "llguidance",
    "xllamacpp",
    "sentence_transformers",
    "diffusers",
}
SERVER = {"fastapi", "starlette", "uvicorn"}
SHOW = "import json, sys; print(json.dumps(sorted({name.split('.')[0] for name in sys.modules})))"


def absolute_imports(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            yield node.module


def loaded(statement: str) -> set[str]:
    """Run a statement in a fresh process and return the top-level modules that it loaded."""
    command = [sys.executable, "-P", "-c", f"{statement}\n{SHOW}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return set(json.loads(done.stdout.splitlines()[-1]))


def test_nothing_imports_the_folder_core() -> None:
    assert len(SOURCES) > 20
    guilty = [
        str(path.relative_to(ROOT))
        for path in SOURCES
        if any(n.split(".")[0] == "core" for n in absolute_imports(path))
    ]
    assert guilty == []


def test_the_core_imports_no_engine_and_itself_only_relatively() -> None:
    """What follows grammars is no engine: an extra, imported by one package, when it is called."""
    guilty = {}
    for path in SOURCES:
        if path.is_relative_to(ROOT / "core"):
            is_guided = path.is_relative_to(ROOT / "core/llm/guided")
            banned = ENGINES - ({"llguidance"} if is_guided else set()) | {"modelrack"}
            imports = [name.split(".")[0] for name in absolute_imports(path)]
            if names := [name for name in imports if name in banned or name.startswith("modelrack_")]:
                guilty[str(path.relative_to(ROOT))] = names
    assert guilty == {}


def test_what_follows_grammars_is_imported_when_it_is_called() -> None:
    assert loaded("import modelrack.llm.guided.constraints, modelrack.llm.handlers") & {"llguidance", "numpy"} == set()


@pytest.mark.parametrize(
    ("statement", "banned"),
    [
        ("import modelrack.client", SERVER | ENGINES | {"uvloop", "rich", "click"}),
        ("import modelrack.cli", SERVER | ENGINES | {"uvloop", "huggingface_hub"}),
        ("import modelrack.worker.__main__", SERVER | ENGINES | {"httpx"}),
        ("import modelrack.hooks", SERVER | ENGINES | {"httpx"}),
    ],
)
def test_an_import_stays_light(statement: str, banned: set[str]) -> None:
    assert loaded(statement) & banned == set()


@pytest.mark.parametrize("arguments", [["--help"], ["launch", "--help"], ["plugins", "--help"]])
def test_help_loads_nothing_heavy(arguments: list[str]) -> None:
    statement = f"from modelrack.cli.app import run\nassert run({arguments!r}) == 0"
    assert loaded(statement) & (SERVER | ENGINES | {"httpx", "huggingface_hub", "pydantic"}) == set()


def test_descriptions_of_plugins_load_without_engines() -> None:
    """The server reads every plugin at start-up; an engine imported there would cost it seconds and gigabytes."""
    modules = loaded("from modelrack.hooks.loader import load_plugins\nload_plugins(None)")
    assert modules & (ENGINES | {"modelscope"}) == set()


def test_what_plugins_name_by_a_dotted_path_is_there() -> None:
    """Such a path is followed at the first request or download only, long after a wrong one was written."""
    plugins = load_plugins(None)
    routes = [route for model_type in plugins.model_types.values() for route in model_type.routes]
    paths = [hub.fetch for hub in plugins.hubs.values()]
    paths += [output_format.parser for output_format in plugins.output_formats.values()]
    paths += [path for route in routes for path in (route.request, route.response, route.chunk) if path]
    loaders = {
        engine.worker.loader: missing_modules(engine)
        for engine in plugins.engines.values()
        if isinstance(engine.worker, PythonWorker)
    }
    paths += [formats.parser for formats in plugins.output_formats.values()]
    paths += [loader for loader, missing in loaders.items() if not missing]
    assert len(paths) > 10
    for path in paths:
        module, _, name = path.partition(":")
        assert hasattr(importlib.import_module(module), name), path
    # What cannot be imported here, because its engine is not, can be read.
    for loader in loaders:
        module, _, name = loader.partition(":")
        found = importlib.util.find_spec(module)
        assert found and found.origin, loader
        tree = ast.parse(Path(found.origin).read_text())
        assert name in {node.name for node in tree.body if isinstance(node, ast.ClassDef | ast.FunctionDef)}, loader
