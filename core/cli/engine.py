"""The command that shows which engines can run a model, and their options."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import click

from ..client.endpoint import is_local
from .help import EpilogCommand
from .options import CONTEXT, connect, json_option, server_options
from .output import print_json, print_table

if TYPE_CHECKING:
    from ..hooks.loader import Plugins


@click.command(
    "engine",
    cls=EpilogCommand,
    context_settings=CONTEXT,
    short_help="Show which engines can run a model, and their options.",
    epilog="""
Examples:
  modelrack engine --model-name demo-chat
  modelrack engine --model-name qwen3 --size-in-billions 0.6 --model-format gguf
  modelrack engine --model-name bge-m3 --model-type embedding --json
""",
)
@click.option("-n", "--model-name", required=True, metavar="NAME", help="The model's name.")
@click.option("-t", "--model-type", default="LLM", show_default=True, metavar="TYPE", help="The model's type.")
@click.option("-en", "--model-engine", metavar="ENGINE", help="Only this engine.")
@click.option("-f", "--model-format", metavar="FORMAT", help="Only this format.")
@click.option("-s", "--size-in-billions", "--model-size-in-billions", metavar="SIZE", help="Only this size.")
@click.option("-q", "--quantization", metavar="NAME", help="Only this quantization.")
@json_option
@server_options
def engine(
    model_name: str,
    model_type: str,
    model_engine: str | None,
    model_format: str | None,
    size_in_billions: str | None,
    quantization: str | None,
    as_json: bool,
    endpoint: str | None,
    api_key: str | None,
) -> None:
    """Show which engines can run a model here, why the others cannot, and the options of those that can."""
    with connect(endpoint, api_key) as client:
        engines = client.query_engine_by_model_name(model_name, model_type)
        is_here = is_local(client.base_url)
    wanted = {"model_format": model_format, "model_size_in_billions": size_in_billions, "quantization": quantization}
    only = model_engine if model_engine is None else _plain_name(model_engine, engines, is_here)
    found = {
        name: forms if isinstance(forms, str) else [form for form in forms if _matches(form, wanted)]
        for name, forms in engines.items()
        if only is None or only.lower() == name.lower()
    }
    if model_engine is not None and not found:
        known = ", ".join(engines) or "none"
        raise click.ClickException(f"There is no engine '{model_engine}' for {model_type} models; there is: {known}.")
    # The options are part of the plugins' description: for a server on this machine they can be read without asking it.
    options = (
        _options([name for name, forms in found.items() if forms and not isinstance(forms, str)], model_type)
        if is_here
        else {}
    )
    if as_json:
        print_json({"model_name": model_name, "engines": found, "options": options})
    else:
        _print(model_name, found, options)
    if not any(forms and not isinstance(forms, str) for forms in found.values()):
        click.echo(f"No engine here runs '{model_name}' in this form.", err=True)


def _plain_name(name: str, known: dict[str, Any], is_here: bool) -> str:
    """Return the name that an engine's alias stands for; aliases are known for a server on this machine."""
    if not is_here or any(name.lower() == other.lower() for other in known):
        return name
    engine = load_installed_plugins().find_engine(name)
    return name if engine is None else engine.name


def _matches(form: dict[str, Any], wanted: dict[str, str | None]) -> bool:
    for key, value in wanted.items():
        if value is None:
            continue
        offered = form.get("quantizations", []) if key == "quantization" else [form.get(key)]
        if _plain(value) not in {_plain(item) for item in offered}:
            return False
    return True


def _plain(value: Any) -> str:
    """Return a name or a size such that `1_8`, `1.8` and `1.8B` are the same."""
    text = str(value).lower().replace("_", ".")
    try:
        return f"{float(text.removesuffix('b')):g}"
    except ValueError:
        return text


def _print(model_name: str, found: dict[str, Any], options: dict[str, Any]) -> None:
    forms = [(name, form) for name, forms in found.items() if not isinstance(forms, str) for form in forms]
    print_table(
        ["Name", "Engine", "Format", "Size (in billions)", "Quantizations", "Rank", "Environment"],
        (
            [
                model_name,
                name,
                form.get("model_format"),
                form.get("model_size_in_billions"),
                form.get("quantizations") or form.get("quantization"),
                form.get("rank"),
                _environment(form),
            ]
            for name, form in forms
        ),
    )
    refused = [(name, reason) for name, reason in found.items() if isinstance(reason, str)]
    if refused:
        print()
        print_table(["Engine", "Cannot run it, because"], refused)
    for name, schema in options.items():
        print()
        print_table(["Option", "Type", "Default", "Meaning"], _option_rows(schema), title=f"Options of {name}")


def _environment(form: dict[str, Any]) -> str | None:
    """Return where it would run, in words."""
    if form.get("environment") != "isolated":
        return form.get("environment")
    return "its own, built" if form.get("environment_is_built") else "its own, to be built"


def _options(names: list[str], model_type: str) -> dict[str, Any]:
    """Return the JSON schema of each engine's options for a type, as far as its plugin is installed here."""
    if not names:
        return {}
    loaded = load_installed_plugins()
    found = {name: loaded.find_engine(name) for name in names}
    return {
        name: known.options_for(model_type).model_json_schema()
        for name, known in found.items()
        if known is not None and model_type in known.model_types
    }


def load_installed_plugins() -> "Plugins":
    """Load the plugins of this environment; what is wrong with one is told by `modelrack plugins`."""
    import logging

    from ..hooks.loader import load_plugins
    from ..settings import get_settings

    logging.getLogger("modelrack.hooks").setLevel(logging.CRITICAL)
    return load_plugins(get_settings().plugins)


def _option_rows(schema: dict[str, Any]) -> Iterator[list[Any]]:
    for name, facts in sorted(schema.get("properties", {}).items()):
        yield [f"--{name.replace('_', '-')}", _type(facts), facts.get("default"), facts.get("description")]


def _type(facts: dict[str, Any]) -> str:
    if "enum" in facts or "const" in facts:
        return " | ".join(str(value) for value in facts.get("enum", [facts.get("const")]))
    if "anyOf" in facts:
        return " | ".join(_type(item) for item in facts["anyOf"] if item.get("type") != "null")
    if facts.get("type") == "array":
        return "list"
    return str(facts.get("type") or facts.get("$ref", "").rpartition("/")[2] or "any")
