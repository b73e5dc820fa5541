"""The plugin loader, on real distributions laid down in a folder on the import path."""

import logging
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from modelrack.hooks.loader import load_plugins

GOOD = """
from modelrack.hooks import Engine, Environment, Family, ModelType, PythonWorker, Route, hookimpl

@hookimpl
def register_model_types():
    route = Route(path="/v1/colours", ability="colour", request="m:R", response="m:A")
    return [ModelType(name="colour", routes=(route,))]

@hookimpl
def register_engines():
    worker = PythonWorker(loader="m:L")
    aliases = ("{alias}",)
    return [Engine(name="{engine}", model_types=("colour",), worker=worker, accepts=lambda c, m: None, aliases=aliases)]

@hookimpl
def register_families():
    return [Family(name="{family}", model_type="colour")]
"""


class Site:
    """A folder on the import path into which plugins are laid."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def add(self, name: str, code: str, distribution: str | None = None) -> None:
        """Lay down a module and the metadata of a distribution that registers it."""
        module = f"site_{name}_{distribution or 'own'}".replace("-", "_")
        (self.root / f"{module}.py").write_text(code)
        info = self.root / f"{distribution or 'modelrack-' + name}-1.2.dist-info".replace("-", "_", 1)
        info.mkdir()
        (info / "METADATA").write_text(
            f"Metadata-Version: 2.1\nName: {distribution or 'modelrack-' + name}\nVersion: 1.2\n"
        )
        (info / "entry_points.txt").write_text(f"[modelrack]\n{name} = {module}\n")


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    """Give an empty site folder on the import path."""
    monkeypatch.syspath_prepend(str(tmp_path))
    yield Site(tmp_path)
    for name in [name for name in sys.modules if name.startswith("site_")]:
        del sys.modules[name]


def good(engine: str = "paint", family: str = "red", alias: str = "brush") -> str:
    return GOOD.format(engine=engine, family=family, alias=alias)


def test_a_good_plugin_registers_what_it_brings(site: Site) -> None:
    site.add("paint", good())
    plugins = load_plugins("paint")
    row = plugins.row("paint")
    assert (row.state, row.version, row.distribution, row.api) == ("loaded", "1.2", "modelrack-paint", 1)
    assert row.engines == ["paint"] and row.families == ["red"] and row.model_types == ["colour"]
    assert plugins.find_engine("PAINT") is plugins.engines["paint"]
    assert plugins.model_types["colour"].routes[0].path == "/v1/colours"
    assert row.to_json()["failure"] is None


def test_an_exact_name_wins_over_an_alias(site: Site) -> None:
    site.add("a", good(engine="first", family="red", alias="second"))
    site.add("b", good(engine="second", family="blue", alias="x").replace("/v1/colours", "/v1/other"))
    plugins = load_plugins("a,b")
    assert plugins.find_engine("second") is plugins.engines["second"]
    assert plugins.find_engine("x") is plugins.engines["second"]
    assert plugins.find_engine("third") is None


def test_of_engines_with_one_name_that_of_the_model_type_is_meant(site: Site) -> None:
    """A library with engines for several types is asked for by one name, as at Xinference."""
    site.add("a", good(engine="paint", family="red", alias="x"))
    other = good(engine="draw", family="blue", alias="paint").replace("/v1/colours", "/v1/lines")
    site.add("b", other.replace('"colour"', '"line"'))
    plugins = load_plugins()
    assert plugins.find_engine("paint", "line") is plugins.engines["draw"]
    assert plugins.find_engine("paint", "colour") is plugins.find_engine("paint") is plugins.engines["paint"]
    assert plugins.find_engine("paint", "sound") is plugins.engines["paint"]


@pytest.mark.parametrize(
    ("code", "reason", "remedy"),
    [
        ("import no_such_module_at_all", "No module named 'no_such_module_at_all'", "no_such_module_at_all"),
        ("raise RuntimeError('boom')", "RuntimeError: boom", "authors"),
        ("raise SystemExit(3)", "SystemExit: 3", "authors"),
        ("def (", "SyntaxError", "authors"),
        (
            "from modelrack.hooks import hookimpl\n@hookimpl\ndef register_engine(): return []",
            "did you mean 'register_engines'?",
            "Correct the hook",
        ),
        (
            "from modelrack.hooks import hookimpl\n@hookimpl\ndef resolve_model(reference): return None",
            "has no argument 'reference'; it has: ref",
            "Correct",
        ),
        (
            "from modelrack.hooks import hookimpl\n@hookimpl\ndef register_families(): return 1 / 0",
            "ZeroDivisionError",
            "authors",
        ),
        (
            "from modelrack.hooks import hookimpl\n@hookimpl\ndef register_families(): return ['x']",
            "must return a list of Family",
            "Correct it in modelrack-broken",
        ),
        ("def register_engines(): return []", "'register_engines' is not marked with @hookimpl", "Correct"),
        ("ANSWER = 42", "no hook in site_broken_own", "Correct"),
        (
            good(engine="x").replace('("colour",)', '"colour"'),
            "Engine 'x': model_types must be tuple[str, ...], not 'colour'",
            "Correct it",
        ),
        (
            good(engine="x").replace('loader="m:L"', 'loader="m.L"'),
            "PythonWorker: loader must be a dotted path 'package.module:Name', not 'm.L'",
            "Correct it",
        ),
        (
            good(engine="x").replace("accepts=lambda c, m: None", "accepts=None"),
            "Engine 'x': accepts must be Callable[[Candidate, Machine], str | None], not None",
            "Correct it",
        ),
        (
            good(engine="x").replace("aliases=aliases", "environment=Environment(by_device={'cpu': 'torch'})"),
            "Environment: by_device must be Mapping[str, tuple[str, ...]], not {'cpu': 'torch'}",
            "Correct it",
        ),
        (
            good(engine="x").replace("aliases=aliases", "rank='high'"),
            "Engine 'x': rank must be int | Callable[[Candidate, Machine], int], not 'high'",
            "Correct it",
        ),
        ("MODELRACK_API = 99", "plugin API 99", "pip install --upgrade modelrack modelrack-broken"),
    ],
)
def test_a_broken_plugin_costs_only_itself(site: Site, code: str, reason: str, remedy: str) -> None:
    site.add("broken", code)
    site.add("paint", good())
    plugins = load_plugins("broken,paint")
    row = plugins.row("broken").to_json()
    assert row["state"] == "failed"
    assert reason in row["failure"]
    assert remedy in row["remedy"]
    assert plugins.row("paint").state == "loaded"
    assert list(plugins.engines) == ["paint"]


def test_an_unknown_model_type_is_told(site: Site) -> None:
    site.add(
        "paint",
        good().replace('[Family(name="red", model_type="colour")]', '[Family(name="red", model_type="Colour")]'),
    )
    row = load_plugins("paint").row("paint").to_json()
    assert row["state"] == "partial"
    assert row["failure"] == "family 'red' is of the model type 'Colour', which no plugin brings"
    assert row["remedy"] == "Did you mean 'colour'?"


def test_a_name_that_is_taken_is_refused_naming_the_owner(site: Site) -> None:
    site.add("a", good())
    site.add("b", good(engine="Paint", family="blue"))
    plugins = load_plugins("a,b")
    row = plugins.row("b").to_json()
    assert row["state"] == "partial"
    assert "engine 'Paint' is already registered by plugin 'a'" in row["failure"]
    assert "path /v1/colours is already registered by plugin 'a'" in row["failure"]
    assert [family.name for _, family in plugins.families] == ["red", "blue"]


SHARED = """
from modelrack.hooks import ModelType, Route, hookimpl

@hookimpl
def register_model_types():
    shared = Route(path="/v1/mix", ability="mix", request="m:R", response="m:A", summary="{summary}")
    return [ModelType(name="{model_type}", routes=(shared,{more}))]
"""


def test_types_of_one_plugin_may_share_a_route(site: Site) -> None:
    head, _, rest = SHARED.format(summary="Mix.", model_type="colour", more="").partition("return [")
    both = rest.strip().removesuffix("]")
    site.add("paint", f"{head}return [{both}, {both.replace('colour', 'tone')}]\n")
    plugins = load_plugins("paint")
    assert plugins.row("paint").problems == []
    assert plugins.model_types["colour"].routes == plugins.model_types["tone"].routes != ()


@pytest.mark.parametrize("summary", ["Mix.", "Stir."])
def test_a_route_of_another_plugin_is_taken(site: Site, summary: str) -> None:
    site.add("a", SHARED.format(summary="Mix.", model_type="colour", more=""))
    site.add("b", SHARED.format(summary=summary, model_type="tone", more=""))
    plugins = load_plugins("a,b")
    assert "path /v1/mix is already registered by plugin 'a'" in str(plugins.row("b").to_json()["failure"])
    assert plugins.model_types["tone"].routes == ()


def test_a_route_that_is_there_twice_is_told(site: Site) -> None:
    site.add("a", SHARED.format(summary="Mix.", model_type="colour", more=" shared"))
    assert "path /v1/mix is already registered" in str(load_plugins("a").row("a").to_json()["failure"])


def test_two_distributions_of_one_plugin_name(site: Site) -> None:
    site.add("paint", good())
    site.add("paint", good(engine="other"), distribution="other-paint")
    plugins = load_plugins("paint")
    states = sorted((row.distribution, row.state) for row in plugins.rows if row.name == "paint")
    assert [state for _, state in states].count("failed") == 1
    assert len(plugins.engines) == 1


def test_a_plugin_that_is_asked_for_and_not_there(site: Site) -> None:
    site.add("paint", good())
    plugins = load_plugins("pant")
    row = plugins.row("pant")
    assert row.state == "failed" and row.problems == [("not installed", "Did you mean 'paint'?")]
    assert "paint" not in plugins.engines


def test_resolve_takes_the_first_answer_and_survives_a_raising_plugin(
    site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    head = "from modelrack.hooks import ModelFiles, hookimpl\n@hookimpl\n"
    site.add("a", head + "def resolve_model(ref): raise ValueError('no')")
    site.add("b", head + "def resolve_model(ref): return None")
    site.add("c", head + "def resolve_model(ref): return ModelFiles(path='/c/' + ref, format='x')")
    site.add("d", head + "def resolve_model(): return ModelFiles(path='/d', format='x')")
    plugins = load_plugins("a,b,c,d")
    with caplog.at_level(logging.ERROR):
        files = plugins.resolve_model("thing")
    assert files is not None and files.path == "/c/thing"
    assert "plugin a: resolve_model failed" in caplog.text


def test_the_module_of_an_engine_is_the_one_its_entry_point_names(site: Site) -> None:
    site.add("paint", good())
    assert load_plugins("paint").module_of("paint") == "site_paint_own"


def test_a_row_lists_the_hooks_it_implements(site: Site) -> None:
    site.add("paint", good())
    hooks = load_plugins("paint").row("paint").hooks
    assert hooks == ["register_engines", "register_families", "register_model_types"]


FORMATS = """
from modelrack.hooks import OutputFormat, hookimpl

@hookimpl
def register_output_formats():
    return [OutputFormat(name="{name}", kind="tools", parser="m:P", aliases={aliases}, marks=(("<a>", "</a>"),))]
"""


def formats(name: str, *aliases: str) -> str:
    return FORMATS.format(name=name, aliases=aliases)


def test_output_formats_are_collected(site: Site) -> None:
    site.add("paint", formats("strokes", "dots"))
    plugins = load_plugins("paint")
    row = plugins.row("paint")
    assert (row.state, row.output_formats) == ("loaded", ["strokes"])
    assert row.to_json()["output_formats"] == ["strokes"]
    assert plugins.output_formats["strokes"].aliases == ("dots",)
    assert plugins.owner("output format", "strokes") == "paint"
    assert plugins.row("builtin").output_formats == list(plugins.output_formats)[:-1]
    assert "hermes" in plugins.output_formats


@pytest.mark.parametrize(
    ("name", "aliases", "problem"),
    [
        ("Strokes", (), "output format 'Strokes' is already registered by plugin 'a'"),
        ("DOTS", (), "output format 'DOTS' is already registered by plugin 'a'"),
        ("lines", ("strokes",), "alias 'strokes' of output format 'lines' is already registered by plugin 'a'"),
        ("lines", ("x", "Dots"), "alias 'Dots' of output format 'lines' is already registered by plugin 'a'"),
        ("lines", ("Qwen",), "alias 'Qwen' of output format 'lines' is already registered by plugin 'builtin'"),
    ],
)
def test_names_and_aliases_of_output_formats_are_unique(
    site: Site, name: str, aliases: tuple[str, ...], problem: str
) -> None:
    site.add("a", formats("strokes", "dots"))
    site.add("b", formats(name, *aliases))
    plugins = load_plugins("a,b")
    row = plugins.row("b").to_json()
    assert (row["state"], row["failure"], row["remedy"]) == ("partial", problem, "Rename one of them.")
    assert "strokes" in plugins.output_formats and name not in plugins.output_formats


@pytest.mark.parametrize(
    ("wrong", "right", "reason"),
    [
        ('parser="m:P"', 'parser="m.P"', "parser must be a dotted path 'package.module:Name', not 'm.P'"),
        ('kind="tools"', 'kind="tool"', "kind must be Literal['tools', 'reasoning', 'both'], not 'tool'"),
        (
            'marks=(("<a>", "</a>"),)',
            'marks=("<a>", "</a>")',
            "marks must be tuple[tuple[str, ...], ...], not ('<a>', '</a>')",
        ),
    ],
)
def test_the_fields_of_an_output_format_are_checked(site: Site, wrong: str, right: str, reason: str) -> None:
    site.add("paint", formats("strokes").replace(wrong, right))
    row = load_plugins("paint").row("paint").to_json()
    assert (row["state"], row["failure"]) == ("failed", f"OutputFormat 'strokes': {reason}")


def test_the_other_engines_that_can_are_known_by_feature(site: Site) -> None:
    claim = 'aliases=aliases, features=("seed", "n")'
    site.add("a", good(engine="one", family="red").replace("aliases=aliases", claim))
    other = good(engine="two", family="blue").replace("/v1/colours", "/v1/b").replace("aliases=aliases", claim)
    site.add("b", other.replace('"seed", "n"', '"seed",'))
    plugins = load_plugins("a,b")
    assert plugins.feature_engines("colour", "none") == {"seed": ("one", "two"), "n": ("one",)}
    assert plugins.feature_engines("colour", "one") == {}, "what it lacks here, no other engine has"
    assert plugins.feature_engines("colour", "two") == {"n": ("one",)}
    assert plugins.feature_engines("LLM", "one") == {}
