"""The command that calculates how much memory a model needs."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import click

from .help import EpilogCommand
from .options import CONTEXT, json_option
from .output import print_json

if TYPE_CHECKING:
    from ..catalog.shapes import Shape

_MIB = 1 << 20
_FALLBACK_CONTEXT = 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class _Model:
    """What is known of the model that was named."""

    name: str | None
    form: str
    quantization: str
    size_b: float | None
    shape: "Shape | None" = None
    weights: int | None = None
    context: int | None = None


@click.command(
    "cal-model-mem",
    cls=EpilogCommand,
    context_settings=CONTEXT,
    short_help="Calculate how much memory a model needs.",
    epilog="""
Of a model whose files are on this machine, its own numbers count; else those of
a published model of the same size, which is an approximation. One that comes in
several sizes needs --size-in-billions; format and quantization may be left out,
and those that were taken are told. No server is asked; `modelrack plan` says
more of a launch.

Examples:
  modelrack cal-model-mem -s 7 -f gptq -q Int4 -c 16384
  modelrack cal-model-mem -n demo-chat -c 2048
  modelrack cal-model-mem -n qwen3 -s 8 -f gguf -q Q4_K_M -c 32768 --json
""",
)
@click.option("-n", "--model-name", metavar="NAME", help="A model's name, .gguf file or folder.")
@click.option(
    "-s",
    "--size-in-billions",
    "--model-size-in-billions",
    metavar="SIZE",
    help="Such as 7, 1.8 or 1_8; needed without a name, or where a name has several.",
)
@click.option("-f", "--model-format", metavar="FORMAT", help="gguf, pytorch, awq, …; needed without a name.")
@click.option("-q", "--quantization", metavar="NAME", help="Q4_K_M, Int4, none, …")
@click.option("-c", "--context-length", type=click.IntRange(min=1), metavar="N", help="Tokens.  [default: the model's]")
@click.option(
    "--kv-cache-dtype", type=click.Choice(["8", "16", "32"]), default="16", show_default=True, help="Bits of the cache."
)
@json_option
def cal_model_mem(
    model_name: str | None,
    size_in_billions: str | None,
    model_format: str | None,
    quantization: str | None,
    context_length: int | None,
    kv_cache_dtype: str,
    as_json: bool,
) -> None:
    """Calculate the memory that one sequence takes: weights, cache, overhead and activations."""
    from ..api.launch import parse_size
    from ..catalog.calculator import calculate
    from ..catalog.names import plain_format

    try:
        size = parse_size(size_in_billions)
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="'--size-in-billions'") from None
    if model_name is not None:
        model = _find(model_name, size, model_format, quantization)
    elif size is None or model_format is None:
        raise click.UsageError("Give --size-in-billions and --model-format, or --model-name.")
    else:
        model = _Model(name=None, form=plain_format(model_format), quantization=quantization or "none", size_b=size)
    context = context_length or model.context or _FALLBACK_CONTEXT
    needs = calculate(
        model.form,
        model.quantization,
        context,
        size_b=model.size_b,
        shape=model.shape,
        weights=model.weights,
        cache_bits=int(kv_cache_dtype),
    )
    amounts = {
        name: -(-count // _MIB)
        for name, count in (
            ("model_mem", needs.model_mem),
            ("kv_cache_mem", needs.kv_cache_mem),
            ("overhead", needs.overhead),
            ("activation_mem", needs.activation_mem),
            ("total", needs.total),
        )
    }
    if as_json:
        facts = {
            "model_name": model.name,
            "model_format": model.form,
            "model_size_in_billions": model.size_b,
            "quantization": model.quantization,
            "context_length": context,
            "kv_cache_dtype": int(kv_cache_dtype),
            "basis": needs.basis,
            "weights_are_counted": needs.weights_are_counted,
        }
        print_json({**facts, **amounts})
        return
    click.echo(f"model_name: {model.name}")
    click.echo(f"kv_cache_dtype: {kv_cache_dtype}")
    click.echo(f"model size: {'?' if model.size_b is None else f'{model.size_b:g}'} B")
    click.echo(f"quant: {model.quantization}")
    click.echo(f"context: {context}")
    click.echo("gpu mem usage:")
    shown = {"model mem": "model_mem", "kv_cache": "kv_cache_mem", "overhead": "overhead", "active": "activation_mem"}
    for label, name in shown.items():
        click.echo(f"  {label}: {amounts[name]} MB")
    click.echo(f"  total: {amounts['total']} MB ({-(-amounts['total'] // 1024)} GB)")
    if model.name is not None and (model_format is None or quantization is None):
        click.echo(f"Taken: {model.form}, {model.quantization}. --model-format and --quantization choose.", err=True)
    if needs.basis == "typical":
        click.echo("The model's files are not on this machine: a model of about its size was taken.", err=True)


def _find(name: str, size: float | None, form: str | None, quantization: str | None) -> _Model:
    """Look a model up among the families of this environment, and its files on this machine.

    Raises: ModelNotFound, NoEngine, BadRequest: there is no such model, or not in this form, or in several sizes.
    """
    from pathlib import Path

    from ..api.launch import LaunchRequest
    from ..catalog.catalog import Catalog
    from ..catalog.memory import shape_of, weights_of
    from ..catalog.names import format_size, rank_quantization
    from ..catalog.resolution import find_forms
    from ..catalog.suggest import listing
    from ..errors import BadRequest
    from ..hooks.types import LoadPlan, ModelFiles
    from ..settings import get_settings
    from .engine import load_installed_plugins

    settings, plugins = get_settings(), load_installed_plugins()
    known = Path(name).expanduser()
    request = LaunchRequest(
        model_name=str(known.absolute()) if known.exists() else name,
        model_size_in_billions=size,
        model_format=form,
        quantization=quantization,
    )
    catalog = Catalog(plugins, settings.home.expanduser() / "families")
    subject, forms = find_forms(request, catalog, plugins, settings.hub, settings.cache_dir)
    usable = [form for form in forms if form.problem is None]
    if not usable:
        raise next(form.problem for form in forms if form.problem is not None)
    sizes = dict.fromkeys(form.variant.size_b for form in usable)
    if len(sizes) > 1:
        text = listing(f"{format_size(each):g}" for each in sorted(each for each in sizes if each is not None))
        raise BadRequest(
            f"Model '{subject.family.name}' comes in several sizes: {text} (billions of parameters).",
            param="model_size_in_billions",
            remedy="Say which is meant: --size-in-billions.",
        )
    chosen = min(usable, key=lambda form: (form.found is None, rank_quantization(form.quantization)))
    files = chosen.found.files if chosen.found else ModelFiles(path="", format=chosen.variant.format)
    plan = LoadPlan(
        model_uid=subject.family.name,
        family=subject.family,
        variant=chosen.variant,
        quantization=chosen.quantization,
        files=files,
    )
    return _Model(
        name=subject.family.name,
        form=chosen.variant.format,
        quantization=chosen.quantization,
        size_b=chosen.variant.size_b or size,
        shape=shape_of(plan),
        weights=weights_of(plan) if files.path else None,
        context=subject.family.context_length,
    )
