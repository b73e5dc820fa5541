"""The command that launches a model, shows its progress, and lets Ctrl-C cancel it."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from ..client import Client
from ..client.endpoint import is_local
from .help import EpilogCommand
from .options import CONTEXT, connect, json_option, server_options
from .output import print_json
from .progress import wait_with_progress

__all__ = ["JSON_STARTS", "LaunchCommand", "launch", "launch_arguments", "launch_parameters", "parse_extra"]

JSON_STARTS = ("[", "{")
"""First characters of values that are JSON; anything else goes as text, and the engine's typed options read it."""


F = TypeVar("F", bound=Callable[..., Any])


def _only_environment(ctx: click.Context, param: click.Parameter, values: tuple[str, ...]) -> str | None:
    """Return the one environment that was given, perhaps more than once.

    Raises: click.UsageError: there are several.
    """
    if len(set(values)) > 1:
        raise click.UsageError(
            f"Option '--environment' (or --env with such a word) is given as {' and as '.join(dict.fromkeys(values))}; "
            "workers run in one environment.",
            ctx,
        )
    return values[0] if values else None


_PARAMETERS = (
    click.option(
        "-n", "--model-name", required=True, metavar="NAME", help="A model's name, .gguf file, folder or hub reference."
    ),
    click.option(
        "-t", "--model-type", default="LLM", show_default=True, metavar="TYPE", help="LLM, embedding, rerank, …"
    ),
    click.option("-en", "--model-engine", metavar="ENGINE", help="Default: the best one that can run here."),
    click.option("-u", "--model-uid", metavar="UID", help="How to call it; default: its name."),
    click.option("-s", "--size-in-billions", "--model-size-in-billions", metavar="SIZE", help="Such as 7, 1.8 or 1_8."),
    click.option("-f", "--model-format", metavar="FORMAT", help="gguf, pytorch, awq, …"),
    click.option("-q", "--quantization", metavar="NAME", help="Q4_K_M, Int4, none, …"),
    click.option(
        "-r", "--replica", type=click.IntRange(min=1), default=1, show_default=True, metavar="N", help="Replicas."
    ),
    click.option(
        "--n-gpu", default="auto", show_default=True, metavar="N", help="A count, auto, or none for the CPU alone."
    ),
    click.option("--gpu-idx", metavar="N[,N]...", help="GPUs to use, by index."),
    click.option("--worker-ip", metavar="ADDRESS", help="Machine to launch it on."),
    click.option("-mp", "--model-path", metavar="PATH", help="The model's file or folder."),
    click.option(
        "-lm", "--lora-modules", nargs=2, multiple=True, metavar="NAME PATH", help="A LoRA adapter; repeatable."
    ),
    click.option(
        "-ev", "--env", "envs", nargs=2, multiple=True, metavar="NAME VALUE", help="Worker's variable; repeatable."
    ),
    click.option(
        "--environment",
        multiple=True,
        callback=_only_environment,
        metavar="server|isolated|PATH",
        help="Python environment of the workers (also: --env server, --env isolated, --env PATH).  "
        "[default: beside the server if the engine can be imported there]",
    ),
    click.option("--request-limits", type=click.IntRange(min=1), metavar="N", help="Concurrent requests per replica."),
    click.option("--download-hub", metavar="HUB", help="huggingface, modelscope, …"),
)


def launch_parameters(function: F) -> F:
    """Add the options that say what is launched; the command must be a `LaunchCommand`."""
    for option in reversed(_PARAMETERS):
        function = option(function)
    return function


class LaunchCommand(EpilogCommand):
    """A command that takes the parameters of a launch, and options of engines beside them.

    `--env` takes a variable's name and value, or one word that says in which environment workers run.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        settings = {**CONTEXT, "ignore_unknown_options": True, "allow_extra_args": True}
        super().__init__(*args, **{"context_settings": settings, **kwargs})

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Tell the two uses of `--env` apart."""
        words = split_env(args)
        options = {name for param in self.params for name in (*param.opts, *param.secondary_opts)}
        for place, word in enumerate(words):
            name, equals, _ = word.partition("=")
            value = words[place + 1 if equals else place + 2 :][:1]
            if name in ("--env", "-ev") and (not value or value[0].partition("=")[0] in options):
                raise click.UsageError(
                    f"Option '{name}' takes a variable's NAME and VALUE, or where workers run: "
                    "isolated, server or ./PATH (a path has a slash).",
                    ctx,
                )
        return super().parse_args(ctx, words)


def split_env(args: list[str]) -> list[str]:
    """Write `--env server`, `--env isolated` and `--env PATH` as `--environment …`; variables stay as they are."""
    words = list(args)
    for place, word in enumerate(words):
        name, equals, value = word.partition("=")
        if name not in ("--env", "-ev"):
            continue
        if equals and _is_environment(value):
            words[place] = f"--environment={value}"
        elif not equals and place + 1 < len(words) and _is_environment(words[place + 1]):
            words[place] = "--environment"
    return words


def _is_environment(word: str) -> bool:
    return word in ("server", "isolated") or "/" in word or word.startswith("~")


@click.command(
    "launch",
    cls=LaunchCommand,
    short_help="Launch a model.",
    epilog="""
Further `--key value` pairs are options of the engine; a bare `--key` is true.
`modelrack engine -n NAME` lists them.

Examples:
  modelrack launch --model-name demo-chat
  modelrack launch --model-name qwen3 --size-in-billions 0.6 --n-ctx 8192
  modelrack launch --model-name ./my-model.gguf --model-uid mine
  modelrack launch --model-name demo-chat --replica 2 --no-wait
  modelrack launch --model-name demo-chat --model-engine vllm --env isolated
""",
)
@launch_parameters
@click.option("--wait/--no-wait", default=True, help="Wait until it can answer.  [default: wait]")
@json_option
@server_options
@click.pass_context
def launch(
    ctx: click.Context, /, wait: bool, as_json: bool, endpoint: str | None, api_key: str | None, **given: Any
) -> None:
    """Launch a model and print its uid."""
    with connect(endpoint, api_key) as client:
        arguments = launch_arguments(client, ctx.args, **given)
        uid = client.launch_model(**arguments, wait_ready=False)
        if wait:
            wait_with_progress(client, uid, quiet=as_json)
        _print_result(client, uid, wait, as_json)


def launch_arguments(
    client: Client,
    extra_args: list[str],
    *,
    n_gpu: str,
    gpu_idx: str | None,
    lora_modules: tuple[tuple[str, str], ...],
    envs: tuple[tuple[str, str], ...],
    size_in_billions: str | None,
    **given: Any,
) -> dict[str, Any]:
    """Return what is handed to `client.launch_model`, from what `launch_parameters` have read.

    Args:
        extra_args: what is left of the command line: options of the engine.

    Raises: click.UsageError, click.BadParameter, click.ClickException: it makes no sense.
    """
    extra = parse_extra(extra_args)
    if extra.keys() & {"wait_ready", "on_progress"}:
        raise click.UsageError("To wait or not is told by --wait and --no-wait.")
    arguments: dict[str, Any] = {
        **given,
        "model_size_in_billions": size_in_billions,
        "n_gpu": _parse_n_gpu(n_gpu),
        "gpu_idx": _parse_gpu_idx(gpu_idx),
        "peft_model_config": _lora_config(lora_modules),
        "envs": dict(envs) or None,
        **extra,
    }
    if is_local(client.base_url):
        _make_paths_absolute(arguments)
    return arguments


def _print_result(client: Client, uid: str, waited: bool, as_json: bool) -> None:
    if not as_json:
        click.echo(f"Model uid: {uid}")
    elif waited:
        print_json({"model_uid": uid, **client.describe_model(uid)})
    else:
        print_json({"model_uid": uid})


def parse_extra(arguments: list[str]) -> dict[str, Any]:
    """Read `--key value`, `--key=value` and bare `--key` into options.

    Values stay text, which the engine's typed options read, unless they are JSON lists or objects.

    Raises: click.UsageError: something stands where a `--key` is expected, or a key comes twice.
    """
    options: dict[str, Any] = {}
    waiting = list(arguments)
    while waiting:
        word = waiting.pop(0)
        if not word.startswith("--") or len(word) == 2:
            raise click.UsageError(f"'{word}' has no option before it; write options of the engine as --key value.")
        key, has_value, value = word[2:].partition("=")
        if not has_value and waiting and not waiting[0].startswith("--"):
            has_value, value = "=", waiting.pop(0)
        name = key.replace("-", "_")
        if name in options:
            raise click.UsageError(f"--{key} is given twice.")
        options[name] = _parse_value(value) if has_value else True
    return options


def _parse_value(value: str) -> Any:
    if value.startswith(JSON_STARTS):
        try:
            return json.loads(value)
        except ValueError:
            return value
    return value


def _parse_n_gpu(value: str) -> int | str | None:
    word = value.lower()
    if word in ("none", "null", "cpu"):
        return None
    if word == "auto":
        return "auto"
    try:
        return int(word)
    except ValueError:
        raise click.BadParameter("write a count, auto, or none", param_hint="'--n-gpu'") from None


def _parse_gpu_idx(value: str | None) -> list[int] | None:
    if value is None:
        return None
    try:
        return [int(part) for part in value.split(",")]
    except ValueError:
        raise click.BadParameter("write indexes with commas, such as 0,1", param_hint="'--gpu-idx'") from None


def _lora_config(modules: tuple[tuple[str, str], ...]) -> dict[str, Any] | None:
    if not modules:
        return None
    return {"lora_list": [{"lora_name": name, "local_path": path} for name, path in modules]}


def _may_be_in_a_hub(name: str) -> bool:
    """Tell `owner/repository/file.gguf` from a path."""
    return name.count("/") >= 2 and not name.startswith(("/", ".", "~"))


def _make_paths_absolute(arguments: dict[str, Any]) -> None:
    """Make paths mean what they mean here: the server's working directory is another one."""
    name = Path(arguments["model_name"]).expanduser()
    looks_like_path = os.sep in arguments["model_name"] or name.suffix == ".gguf"
    if looks_like_path and name.exists():
        arguments["model_name"] = str(name.absolute())
    elif name.suffix == ".gguf" and not _may_be_in_a_hub(arguments["model_name"]):
        raise click.ClickException(f"There is no file {name}.")
    if arguments.get("model_path"):
        arguments["model_path"] = str(Path(arguments["model_path"]).expanduser().absolute())
    place = arguments.get("environment")
    if place and place not in ("server", "isolated"):
        arguments["environment"] = str(Path(place).expanduser().absolute())
    for adapter in (arguments["peft_model_config"] or {}).get("lora_list", ()):
        path = Path(adapter["local_path"]).expanduser()
        if path.exists():
            adapter["local_path"] = str(path.absolute())
