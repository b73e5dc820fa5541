"""The command that shows what a launch would do."""

from typing import Any

import click

from ..catalog.fit import readable as size
from .launch import LaunchCommand, launch_arguments, launch_parameters
from .options import connect, json_option, server_options
from .output import print_json, print_table

_SHOWN = 8
"""Alternatives that a table shows."""

_BASES = {"measured": "measured before", "files": "estimated", "size": "estimated by size", "unknown": "unknown"}


@click.command(
    "plan",
    cls=LaunchCommand,
    short_help="Show what a launch would do, without doing it.",
    epilog="""
Takes the same options as `modelrack launch`. Nothing is downloaded, built,
started or terminated.

Examples:
  modelrack plan --model-name demo-chat
  modelrack plan --model-name qwen3 --n-ctx 8192
  modelrack plan --model-name qwen3 --size-in-billions 8 --json
""",
)
@launch_parameters
@json_option
@server_options
@click.pass_context
def plan(ctx: click.Context, /, as_json: bool, endpoint: str | None, api_key: str | None, **given: Any) -> None:
    """Show what a launch would do: engine, environment, download, memory, and the alternatives."""
    with connect(endpoint, api_key) as client:
        answer = client.plan(**launch_arguments(client, ctx.args, **given))
    if as_json:
        print_json(answer)
    else:
        _print(answer)


def _print(answer: dict[str, Any]) -> None:
    choice = answer["choice"]
    print_table(["What", "Would be"], _facts(answer, choice))
    print()
    print_table(
        ["Device", "Name", "Total", "Free", "Used"],
        (
            [
                device["kind"] if device["index"] is None else f"{device['kind']} {device['index']}",
                device["name"],
                size(device["memory_total_bytes"]),
                size(device["memory_free_bytes"]),
                device["is_used"],
            ]
            for device in answer["devices"]
        ),
    )
    room = answer["room"]
    if choice["fits"] is False:
        print()
        _print_room(room)
    if answer["alternatives"]:
        print()
        print_table(
            ["Instead", "Format", "Size", "Quantization", "Needs", "Fits", "Not preferred, because"],
            (
                [
                    other["model_engine"],
                    other["model_format"],
                    other["model_size_in_billions"],
                    other["quantization"],
                    size(other["memory"]["total_bytes"]) if other["memory"] else None,
                    other["fits"],
                    other["reason"],
                ]
                for other in answer["alternatives"][:_SHOWN]
            ),
        )
    if answer["refused"]:
        print()
        print_table(["Engine", "Cannot run it, because"], answer["refused"].items())


def _facts(answer: dict[str, Any], choice: dict[str, Any]) -> list[list[Any]]:
    memory, download = choice["memory"], choice["download"]
    rows = [
        ["model", f"{answer['model_name']} ({answer['model_type']})"],
        ["engine", choice["model_engine"]],
        ["form", _form(choice)],
        ["reason", choice["reason"]],
        ["environment", _environment(choice["environment"])],
        ["download", _download(download)],
    ]
    if memory:
        parts = [("weights", "weights_bytes"), ("cache", "cache_bytes"), ("overhead", "overhead_bytes")]
        parts += [("host", "host_bytes")] if memory["host_bytes"] else []
        shown = ", ".join(f"{name} {size(memory[key])}" for name, key in parts)
        each = " for each replica" if answer["replica"] > 1 else ""
        rows.append(["memory", f"{size(memory['total_bytes'])}{each}, {_BASES[memory['basis']]}: {shown}"])
    fits = {True: "yes", False: "no", None: "not known"}[choice["fits"]]
    return [*rows, ["fits", f"{fits}: {choice['fit_reason']}"]]


def _form(choice: dict[str, Any]) -> str:
    billions = choice["model_size_in_billions"]
    return f"{choice['model_format']}, {'' if billions is None else f'{billions}B, '}{choice['quantization']}"


def _environment(environment: dict[str, Any]) -> str:
    if environment["where"] == "server":
        return "beside the server"
    if environment["where"] == "path":
        return f"the one at {environment['path']}"
    if environment["is_built"]:
        name, size_bytes = environment.get("name"), environment.get("size_bytes")
        shown = f": {name}" + (f" ({size(size_bytes)})" if size_bytes else "") if name else ""
        return f"its own, which is there already{shown}"
    return f"its own, which has to be built: {', '.join(environment['requirements']) or 'no requirements'}"


def _download(download: dict[str, Any]) -> str:
    if download["bytes"] == 0:
        return f"nothing, it is at {download['path']}" if download["path"] else "nothing"
    amount = "of unknown size" if download["bytes"] is None else size(download["bytes"])
    return f"{amount} from {download['hub']} ({download['repo']})"


def _print_room(room: dict[str, Any]) -> None:
    if room["models"]:
        print_table(
            ["For it to fit, terminate", "Frees"], ([m["model_uid"], size(m["frees_bytes"])] for m in room["models"])
        )
    else:
        print(f"{size(room['lacking_bytes'])} are lacking, and no running models could free that.")
    print("Nothing is terminated by itself.")
