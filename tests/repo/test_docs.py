"""The pages say what the code says: settings, hooks, commands, routes, links."""

import re
from itertools import pairwise
from pathlib import Path

import click
import pytest
from markdown_it import MarkdownIt

from modelrack.cli.app import COMMANDS, cli
from modelrack.hooks import specs
from modelrack.settings import Settings

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted(DOCS.rglob("*.md")), *sorted(ROOT.glob("plugins/*/*.md"))]
HOOKS = sorted(name for name in vars(specs) if name.startswith(("register_", "resolve_", "on_")))


def headings(page: Path) -> list[str]:
    tokens = MarkdownIt().parse(page.read_text())
    return [after.content for token, after in pairwise(tokens) if token.type == "heading_open"]


def anchors(page: Path) -> set[str]:
    """Return the anchors as GitHub makes them."""
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in headings(page)}


def settings_table() -> str:
    """Return the table of settings as it has to stand in docs/configuration.md."""
    rows = ["| variable | default | meaning |", "| --- | --- | --- |"]
    for name, field in Settings.model_fields.items():
        value = str(field.default).replace(str(Path.home()), "~")
        shown = "" if field.default is None or field.default == () else f"`{value}`"
        rows.append(f"| `MODELRACK_{name.upper()}` | {shown} | {field.description} |")
    return "\n".join(rows)


def test_every_setting_is_documented() -> None:
    page = (DOCS / "configuration.md").read_text()
    found = re.search(r"<!-- table of settings -->\n(.*?)\n<!-- end of settings -->", page, re.DOTALL)
    assert found and found[1] == settings_table(), f"docs/configuration.md should hold:\n{settings_table()}"


@pytest.mark.parametrize("hook", HOOKS)
def test_every_hook_has_a_section(hook: str) -> None:
    assert hook in headings(DOCS / "plugins" / "hooks.md")


def test_no_section_for_a_hook_that_is_gone() -> None:
    named = {title for title in headings(DOCS / "plugins" / "hooks.md") if re.match(r"(register|resolve|on)_", title)}
    assert named == set(HOOKS)


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_every_command_and_option_is_documented(name: str) -> None:
    page = (DOCS / "cli.md").read_text()
    found = re.search(rf"^## {name}\n(.*?)(?=^## |\Z)", page, re.DOTALL | re.MULTILINE)
    assert found, f"docs/cli.md has no section '{name}'"
    command = cli.get_command(click.Context(cli), name)
    assert command
    common = {"--help", "--endpoint", "--api-key", "--json"}
    options = [option.opts for option in command.params if isinstance(option, click.Option)]
    assert [names for names in options if not common & set(names) and not any(name in found[1] for name in names)] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_lead_somewhere(page: Path) -> None:
    dead = []
    for token in MarkdownIt().parse(page.read_text()):
        for child in token.children or []:
            target = str(child.attrs.get("href", ""))
            if child.type != "link_open" or re.match(r"[a-z]+:", target):
                continue
            path, _, anchor = target.partition("#")
            other = (page.parent / path).resolve() if path else page
            if not other.exists() or (anchor and anchor not in anchors(other)):
                dead.append(target)
    assert dead == []
