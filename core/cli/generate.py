"""The command that completes a text."""

from typing import Any

import click

from .help import EpilogCommand
from .options import CONTEXT, connect, json_option, server_options
from .output import print_json
from .talk import Answer, choose_model, read_text, show_stream


@click.command(
    "generate",
    cls=EpilogCommand,
    context_settings=CONTEXT,
    short_help="Complete a text with a model.",
    epilog="""
Examples:
  modelrack generate --model-uid demo-chat "The largest animal is"
  modelrack generate -u demo-chat --max-tokens 32 --json "Once upon a time"
  cat story.txt | modelrack generate -u demo-chat
""",
)
@click.argument("prompt", nargs=-1)
@click.option("-u", "--model-uid", metavar="UID", help="The model; default: the only one that can generate.")
@click.option("-n", "--model-name", metavar="NAME", help="A model by name; launched if it is not running.")
@click.option(
    "--max-tokens", type=click.IntRange(min=1), default=512, show_default=True, metavar="N", help="Limit of tokens."
)
@click.option("--temperature", type=float, metavar="T", help="0 is greedy.")
@click.option("--top-p", type=float, metavar="P", help="Nucleus to sample from.")
@click.option("--stop", multiple=True, metavar="TEXT", help="End at this text; repeatable.")
@click.option("--stream", type=bool, default=True, show_default=True, help="Show the text as it comes.")
@click.option("-v", "--verbose", is_flag=True, help="Show tokens per second.")
@json_option
@server_options
def generate(
    prompt: tuple[str, ...],
    model_uid: str | None,
    model_name: str | None,
    stop: tuple[str, ...],
    stream: bool,
    verbose: bool,
    as_json: bool,
    endpoint: str | None,
    api_key: str | None,
    **given: Any,
) -> None:
    """Complete a text, from the command line or from stdin."""
    text = read_text(prompt)
    if text is None:
        raise click.UsageError("Missing argument 'PROMPT'; give the text to complete, or pipe it in.")
    config = {key: value for key, value in given.items() if value is not None}
    if stop:
        config["stop"] = list(stop)
    with connect(endpoint, api_key) as client:
        uid = choose_model(client, model_uid, model_name, "generate", "generate")
        model = client.get_model(uid)
        if not hasattr(model, "generate"):
            raise click.ClickException(f"Model '{uid}' is no LLM; it cannot generate.")
        if as_json:
            print_json(model.generate(text, config))
            return
        answer = Answer()
        if stream:
            config |= {"stream": True, "stream_options": {"include_usage": True}}
            with model.generate(text, config) as chunks:
                show_stream(chunks, answer)
        else:
            show_stream([model.generate(text, config)], answer)
        click.echo()
        if verbose:
            click.secho(answer.figures(), dim=True, err=True)
