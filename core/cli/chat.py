"""The command that chats: one question, or a conversation."""

from typing import Any

import click

from .help import EpilogCommand
from .options import CONTEXT, connect, json_option, server_options
from .output import print_json
from .talk import Answer, choose_model, read_text, show_stream


@click.command(
    "chat",
    cls=EpilogCommand,
    context_settings=CONTEXT,
    short_help="Chat with a model.",
    epilog="""
Without a question it is a conversation: /help lists its commands, Ctrl-C stops
an answer, Ctrl-D leaves. A line that ends with \\ goes on in the next; so does
everything from \"\"\" to \"\"\".

Examples:
  modelrack chat
  modelrack chat --model-name demo-chat
  modelrack chat --model-uid demo-chat "What is the largest animal?"
  git diff | modelrack chat -u qwen3 --system "Write a commit message."
""",
)
@click.argument("question", nargs=-1)
@click.option("-u", "--model-uid", metavar="UID", help="The model; default: the only one that can chat.")
@click.option("-n", "--model-name", metavar="NAME", help="A model by name; launched if it is not running.")
@click.option("--system", metavar="TEXT", help="The system message.")
@click.option("--max-tokens", type=click.IntRange(min=1), metavar="N", help="Tokens of an answer at most.")
@click.option("--temperature", type=float, metavar="T", help="0 is greedy.")
@click.option("--top-p", type=float, metavar="P", help="Nucleus to sample from.")
@click.option("--thinking/--no-thinking", "enable_thinking", default=None, help="Switch a hybrid model's reasoning.")
@click.option("--stream", type=bool, default=True, show_default=True, help="Show the answer as it comes.")
@click.option("-v", "--verbose", is_flag=True, help="Show tokens per second.")
@json_option
@server_options
def chat(
    question: tuple[str, ...],
    model_uid: str | None,
    model_name: str | None,
    system: str | None,
    enable_thinking: bool | None,
    stream: bool,
    verbose: bool,
    as_json: bool,
    endpoint: str | None,
    api_key: str | None,
    **given: Any,
) -> None:
    """Chat with a model: one question from the command line or stdin, else a conversation."""
    text = read_text(question)
    if text is None and as_json:
        raise click.UsageError("--json wants a question.")
    config = {key: value for key, value in given.items() if value is not None}
    with connect(endpoint, api_key) as client:
        uid = choose_model(client, model_uid, model_name, "chat", "chat")
        model = client.get_model(uid)
        if not hasattr(model, "chat"):
            raise click.ClickException(f"Model '{uid}' cannot chat.\nIf it is an LLM, try: modelrack generate -u {uid}")
        if text is None:
            from .session import Session

            Session(model, config, system=system, enable_thinking=enable_thinking, verbose=verbose).run()
            return
        messages = [{"role": "system", "content": system}] if system else []
        messages.append({"role": "user", "content": text})
        if as_json:
            print_json(model.chat(messages, enable_thinking=enable_thinking, generate_config=config))
            return
        answer = Answer()
        if stream:
            config |= {"stream": True, "stream_options": {"include_usage": True}}
            with model.chat(messages, enable_thinking=enable_thinking, generate_config=config) as chunks:
                show_stream(chunks, answer)
        else:
            whole = model.chat(messages, enable_thinking=enable_thinking, generate_config=config)
            show_stream([_as_chunk(whole)], answer)
        click.echo()
        if verbose:
            click.secho(answer.figures(), dim=True, err=True)


def _as_chunk(answer: dict[str, Any]) -> dict[str, Any]:
    """Return a whole answer in the form of one chunk of a stream."""
    choices = [{**choice, "delta": choice["message"]} for choice in answer["choices"]]
    return {**answer, "choices": choices}
