"""Arguments of vLLM's server that are no typed options: checked against vLLM's own parser before it is started.

What the parser takes is asked once for each environment, of a process in it, and kept in the home folder.
"""

import hashlib
import json
import os
import subprocess
from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import orjson

from modelrack.errors import BadRequest, LaunchFailed
from modelrack.settings import get_settings

from .options import VllmOptions

__all__ = ["REFUSED", "cache_folder", "check_arguments", "known_arguments", "render"]

_OWN = "modelrack sets it itself"
_HTTP = "the worker is reached through modelrack's server alone"
_CODE = "it would run code that comes with a model or a request"
REFUSED: Mapping[str, str] = {
    **dict.fromkeys(("model", "model_tag", "served_model_name", "uds", "middleware", "lora_modules"), _OWN),
    **dict.fromkeys(("enable_lora", "config", "headless", "disable_fastapi_docs", "enable_auto_tool_choice"), _OWN),
    **dict.fromkeys(
        ("enable_prompt_tokens_details", "max_logprobs", "logprobs_mode", "structured_outputs_config"), _OWN
    ),
    **dict.fromkeys(("return_tokens_as_token_ids", "enable_force_include_usage", "response_role", "device_ids"), _OWN),
    **dict.fromkeys(("host", "port", "grpc", "grpc_port", "root_path", "api_key", "allowed_origins"), _HTTP),
    **dict.fromkeys(("allowed_methods", "allowed_headers", "allow_credentials", "enable_request_id_headers"), _HTTP),
    **dict.fromkeys(("ssl_keyfile", "ssl_certfile", "ssl_ca_certs", "ssl_cert_reqs", "ssl_ciphers"), _HTTP),
    **dict.fromkeys(("enable_ssl_refresh", "api_server_count", "enable_offline_docs", "tool_server"), _HTTP),
    **dict.fromkeys(("sse_keep_alive_interval", "tokens_only", "skip_tokenizer_init", "h11_max_header_count"), _HTTP),
    **dict.fromkeys(("trust_remote_code", "trust_request_chat_template", "trust_request_mm_kwargs"), _CODE),
    **dict.fromkeys(("tool_parser_plugin", "reasoning_parser_plugin", "logits_processors", "worker_cls"), _CODE),
    **dict.fromkeys(("worker_extension_cls", "scheduler_cls", "io_processor_plugin", "model_class_overrides"), _CODE),
    "allowed_local_media_path": "files of this machine are no part of a request",
    "hf_token": "nothing is fetched by the worker",
    "runner": "only text is generated",
    "convert": "only text is generated",
}
"""Arguments of vLLM that no launch may give, with the reason."""

_ASK_S = 180.0
_DUMP = """
import json, sys
from vllm.entrypoints.launchers.cli_args import make_arg_parser
from vllm.utils.argparse_utils import FlexibleArgumentParser
found = {}
for action in make_arg_parser(FlexibleArgumentParser())._actions:
    if action.option_strings and action.dest != "help":
        negated = any(flag.startswith("--no-") for flag in action.option_strings)
        kind = {0: "flag", "+": "list", "*": "list"}.get(action.nargs, "value")
        choices = [str(one) for one in action.choices if one is not None] if action.choices else []
        number = getattr(action.type, "__name__", "") if action.type in (int, float) else ""
        flag = next(flag for flag in action.option_strings if flag.startswith("--"))
        found[action.dest] = {"flag": flag, "kind": "switch" if negated else kind, "choices": choices, "number": number}
print(json.dumps(found))
"""


def check_arguments(python: str, given: Mapping[str, Any]) -> list[str]:
    """Return further arguments of vLLM as its command line takes them.

    Args:
        python: the interpreter of the environment that vLLM is in.

    Raises: BadRequest: names one that vLLM does not know or that may not be given, or a value that it does not take.
        LaunchFailed: vLLM's parser cannot be asked.
    """
    for name in given:
        if name in REFUSED:
            raise BadRequest(f"vLLM's argument '{name}' cannot be given: {REFUSED[name]}.", param=name)
    return list(render(known_arguments(python), given))


def render(known: Mapping[str, Mapping[str, Any]], given: Mapping[str, Any]) -> Iterator[str]:
    """Yield arguments, checked against what vLLM's parser is known to take.

    Args:
        known: by name: `flag`, `kind` (`switch`, `flag`, `list` or `value`), `choices`, and `number` (`int`, `float`).

    Raises: BadRequest.
    """
    for name, value in given.items():
        if value is None:
            continue
        argument = known.get(name)
        if argument is None:
            raise _unknown(name, known)
        kind, flag = argument["kind"], argument["flag"]
        if kind in ("switch", "flag"):
            yield from _switch(name, flag, kind, value)
            continue
        values = [_text(one) for one in (value if isinstance(value, list) and kind == "list" else [value])]
        for text in values:
            _check_value(name, text, argument)
        # One word, so that a value that begins with a dash is no flag.
        yield from ([f"{flag}={values[0]}"] if len(values) == 1 else [flag, *values])


def _switch(name: str, flag: str, kind: str, value: Any) -> Iterator[str]:
    words = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}
    is_on = value if isinstance(value, bool) else words.get(str(value).lower())
    if is_on is None:
        raise BadRequest(f"vLLM's argument '{name}' is true or false, not {value!r}.", param=name)
    if is_on:
        yield flag
    elif kind == "switch":
        yield f"--no-{flag.removeprefix('--')}"


def _text(value: Any) -> str:
    return value if isinstance(value, str) else orjson.dumps(value).decode()


def _check_value(name: str, text: str, argument: Mapping[str, Any]) -> None:
    choices = argument["choices"]
    if choices and text not in choices:
        close = get_close_matches(text, choices, n=1)
        hint = f" Did you mean '{close[0]}'?" if close else ""
        raise BadRequest(f"vLLM's argument '{name}' is one of {', '.join(choices)}, not '{text}'.{hint}", param=name)
    if argument["number"]:
        try:
            (int if argument["number"] == "int" else float)(text)
        except ValueError:
            kind = "a whole number" if argument["number"] == "int" else "a number"
            raise BadRequest(f"vLLM's argument '{name}' is {kind}, not '{text}'.", param=name) from None


def _unknown(name: str, known: Mapping[str, Any]) -> BadRequest:
    allowed = [*VllmOptions.model_fields, *(one for one in known if one not in REFUSED)]
    close = get_close_matches(name, allowed, n=1)
    hint = f" Did you mean '{close[0]}'?" if close else ""
    return BadRequest(
        f"Neither the engine 'vLLM' nor vLLM itself has an option '{name[:100]}'.{hint}",
        param=name,
        details={"options": list(VllmOptions.model_fields)},
    )


def known_arguments(python: str) -> dict[str, dict[str, Any]]:
    """Return what vLLM's parser takes; blocks for some seconds the first time.

    Raises: LaunchFailed: it cannot be asked.
    """
    path = _cache_file(python)
    try:
        known: dict[str, dict[str, Any]] = json.loads(path.read_bytes())
        return known
    except (OSError, ValueError):
        pass
    done = _ask(python)
    try:
        known = json.loads(done.splitlines()[-1])
    except (ValueError, IndexError) as error:
        raise LaunchFailed("vLLM's parser of arguments could not be asked: it wrote nothing.") from error
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    draft.write_text(json.dumps(known))
    draft.replace(path)
    return known


def _ask(python: str) -> bytes:
    try:
        done = subprocess.run([python, "-P", "-c", _DUMP], capture_output=True, timeout=_ASK_S, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise LaunchFailed(f"vLLM's parser of arguments could not be asked: {error}") from error
    if done.returncode:
        lines = done.stderr.decode(errors="replace").strip().splitlines()
        raise LaunchFailed(f"vLLM's parser of arguments could not be asked: {lines[-1] if lines else 'it ended'}")
    return done.stdout


def cache_folder(python: str) -> Path:
    """Return a folder for what is kept: below the home that the interpreter's environment lies in, or the user's."""
    envs = Path(python).parents[2]
    home = envs.parent if envs.name == "envs" else get_settings().home
    return home / "cache" / "vllm"


def _cache_file(python: str) -> Path:
    """Return where the answer is kept: another interpreter, or another installation in its place, has another."""
    path = Path(python)
    changed = [path.parent.parent.stat().st_mtime_ns, *(one.stat().st_mtime_ns for one in _packages(path))]
    name = hashlib.sha256(repr((str(path), changed)).encode()).hexdigest()[:24]
    return cache_folder(python) / f"{name}.json"


def _packages(python: Path) -> Iterator[Path]:
    yield from sorted(python.parent.parent.glob("lib/python3*/site-packages/vllm*.dist-info"))
