"""The command that runs vLLM's server, from a launch plan."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import orjson

from modelrack.errors import BadRequest, LaunchFailed
from modelrack.hooks import Command, LoadPlan

from .adapters import lora_rank, write_null_adapter
from .arguments import cache_folder, check_arguments
from .memory import cache_space
from .options import VllmOptions
from .readers import Readers, choose_readers
from .settings import LORA_PREFIX, NULL_LORA, VARIABLE, Settings
from .templates import folder_template, read_template, wrap_template

__all__ = ["READY_PATH", "build_command"]

READY_PATH = "/_worker/ready"

_MOST_ALTERNATIVES = 21
"""Log probabilities of tokens: the 20 that a request may ask for, and the one that was chosen."""
_MOST_LORAS = 8
_BITSANDBYTES = "bitsandbytes"
_TYPICAL = "modelrack_llm_vllm.typical:TypicalP"
_GUIDANCE = '{"backend":"guidance"}'
_QUIET = {
    # Nothing here is fetched while a model is served, nor told to anybody.
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "DO_NOT_TRACK": "1",
    "VLLM_CONFIGURE_LOGGING": "1",
}


def build_command(plan: LoadPlan, socket: str) -> Command:
    """Return the command for a replica. Runs in the server's process, in a thread.

    Raises: BadRequest: an option is none of vLLM's, or does not fit the launch. LaunchFailed: a file cannot be read.
    """
    options = dict(plan.options)
    extra = {name: options.pop(name) for name in list(options) if name not in VllmOptions.model_fields}
    if options["quantization"] == _BITSANDBYTES and not plan.accelerators:
        raise BadRequest("vLLM runs 'bitsandbytes' on CUDA and ROCm only.", param="quantization")
    template = _template(options, plan)
    source = template or folder_template(Path(plan.files.path))
    readers = choose_readers(plan, source)
    argv = [
        *(plan.python, "-P", "-m", "vllm.entrypoints.openai.api_server"),
        *("--model", plan.files.path, "--served-model-name", plan.model_uid, "--uds", socket),
        *("--middleware", "modelrack_llm_vllm.middleware.PublicApi", "--max-logprobs", str(_MOST_ALTERNATIVES)),
        *("--enable-prompt-tokens-details", "--disable-fastapi-docs", "--disable-uvicorn-access-log"),
        *("--uvicorn-log-level", "warning", "--structured-outputs-config", _GUIDANCE),
        *_plain_arguments(options),
        *_cache_arguments(plan),
        *_parallel_arguments(options, len(plan.accelerators)),
        *_speculation_arguments(options),
        *_lora_arguments(plan),
        *_reader_arguments(readers),
    ]
    if source is not None and not readers.writes_prompts:
        argv += ["--chat-template", wrap_template(source)]
    if extra:
        argv += check_arguments(plan.python, extra)
    settings = _settings(plan, options, template, readers)
    env = {**_QUIET, VARIABLE: settings.dump()}
    if options["enable_sleep_mode"]:
        env["VLLM_SERVER_DEV_MODE"] = "1"  # without it there are no paths to put weights aside
    if plan.accelerators:
        env["CUDA_DEVICE_ORDER"] = "PCI_BUS_ID"
    return Command(argv=tuple(argv), env=env, ready_path=READY_PATH)


def _settings(plan: LoadPlan, options: Mapping[str, Any], template: str | None, readers: Readers) -> Settings:
    family = plan.family
    return Settings(
        model_uid=plan.model_uid,
        lora=tuple(name for name, _ in plan.lora),
        null_lora=bool(plan.lora) and not plan.accelerators,
        stop=family.stop,
        template=template,
        tool_format=family.tool_format,
        reasoning_tags=family.reasoning_tags,
        output_formats=plan.output_formats,
        request_defaults=plan.request_defaults,
        feature_engines=plan.feature_engines,
        own_tools=readers.tools is not None,
        own_reasoning=readers.reasoning is not None,
        own_prompts=readers.writes_prompts,
        sleeps=options["enable_sleep_mode"],
        drafts=bool(_drafter(options)),
        fetch_hosts=plan.fetch_hosts,
    )


_SAME = (
    *("max_model_len", "dtype", "quantization", "gpu_memory_utilization", "kv_cache_dtype", "max_num_seqs"),
    *("max_num_batched_tokens", "max_num_queued_reqs", "enable_prefix_caching", "enforce_eager"),
    *("limit_mm_per_prompt", "generation_config", "seed", "enable_sleep_mode"),
)
"""Options that vLLM has under the same names."""


def _plain_arguments(options: Mapping[str, Any]) -> Iterator[str]:
    for name in _SAME:
        value = options[name]
        if value is None or (value is False and name != "enable_prefix_caching"):
            continue
        flag = name.replace("_", "-")
        if isinstance(value, bool):
            yield f"--{flag}" if value else f"--no-{flag}"
        else:
            yield f"--{flag}"
            yield orjson.dumps(value).decode() if isinstance(value, dict) else str(value)


def _cache_arguments(plan: LoadPlan) -> list[str]:
    size = cache_space(plan)
    return [] if size is None else ["--kv-cache-memory-bytes", str(size)]


def _parallel_arguments(options: Mapping[str, Any], devices: int) -> list[str]:
    """Spread the model over all devices of the replica.

    Raises: BadRequest: the options ask for another number of devices.
    """
    stages = options["pipeline_parallel_size"]
    shares = options["tensor_parallel_size"]
    if devices and shares is None:
        shares = devices // stages
    shares = shares or 1
    if devices and shares * stages != devices:
        raise BadRequest(
            f"tensor_parallel_size {shares} by pipeline_parallel_size {stages} makes {shares * stages} devices, and "
            f"the replica has {devices}.",
            param="tensor_parallel_size",
            remedy="n_gpu gives it more or fewer.",
        )
    return ["--tensor-parallel-size", str(shares), "--pipeline-parallel-size", str(stages)]


def _speculation_arguments(options: Mapping[str, Any]) -> list[str]:
    config = _drafter(options)
    if config is None:
        return ["--logits-processors", _TYPICAL]  # vLLM takes none where tokens are drafted ahead
    return [
        "--speculative-config",
        orjson.dumps({"num_speculative_tokens": options["draft_tokens"], **config}).decode(),
    ]


def _drafter(options: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return what drafts tokens ahead, in vLLM's terms."""
    config: dict[str, Any] | None = options["speculative_config"]
    if options["draft_model"]:
        config = {"model": options["draft_model"], "method": "draft_model"}
    elif options["prompt_lookup"]:
        config = {"method": "ngram", "prompt_lookup_max": options["prompt_lookup"], "prompt_lookup_min": 1}
    return config or None


def _lora_arguments(plan: LoadPlan) -> list[str]:
    if not plan.lora:
        return []
    options = plan.options
    named = {f"{LORA_PREFIX}{name}": path for name, path in plan.lora}
    if not plan.accelerators:
        # Requests for no adapter: see `Settings.null_lora`.
        named[NULL_LORA] = str(write_null_adapter(Path(plan.lora[0][1]), cache_folder(plan.python)))
    modules = [orjson.dumps({"name": name, "path": path}).decode() for name, path in named.items()]
    rank = options["max_lora_rank"] or lora_rank(list(named.values()))
    at_once = options["max_loras"] or min(len(named), _MOST_LORAS)
    return ["--enable-lora", "--max-lora-rank", str(rank), "--max-loras", str(at_once), "--lora-modules", *modules]


def _reader_arguments(readers: Readers) -> Iterator[str]:
    if readers.tools is not None:
        yield from ("--enable-auto-tool-choice", "--tool-call-parser", readers.tools)
    if readers.reasoning is not None:
        yield from ("--reasoning-parser", readers.reasoning)


def _template(options: Mapping[str, Any], plan: LoadPlan) -> str | None:
    """Return the chat template's source that the launch or the family names; None: that of the model's files.

    Raises: LaunchFailed: the file that the launch names cannot be read.
    """
    given: str | None = options["chat_template"]
    if given is None:
        return plan.family.chat_template
    if "{" in given:
        return given
    try:
        return read_template(Path(given).expanduser())
    except (OSError, ValueError) as error:
        raise LaunchFailed(f"the chat template {given} cannot be read: {error}") from error
