"""Loads a model's folder as sentence-transformers' `CrossEncoder`, and finds out how it reads pairs."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from sentence_transformers import CrossEncoder
from sentence_transformers.base.modules import Transformer
from sentence_transformers.cross_encoder.modules import LogitScore
from transformers import AutoTokenizer
from transformers.utils import logging

from modelrack.catalog.local import read_json
from modelrack.catalog.weights import folder_weights
from modelrack.encoders import (
    attempt,
    check_weights,
    choose_device,
    choose_dtype,
    keep_freed_memory,
    stored_dtype,
    telling,
)
from modelrack.errors import LaunchFailed
from modelrack.hooks import LoadPlan
from modelrack.worker import Report

from .formats import Format, PairFormat, PromptFormat
from .prompts import Layout, derive, parse

__all__ = ["LIBRARY", "Loaded", "load"]

LIBRARY = "sentence-transformers"
_UNLIMITED = 1 << 24
"""What tokenizers that know no limit say is more than this."""


@dataclass(frozen=True, slots=True)
class Loaded:
    """A model's parts.

    Args:
        encoder: the `CrossEncoder`.
        modality: how its first module calls what `format` makes.
        relevance: turns a score into the one that is answered.
    """

    encoder: Any
    tokenizer: Any
    device: torch.device
    max_tokens: int
    format: Format
    modality: str
    relevance: Callable[[float], float]


def load(plan: LoadPlan, report: Report) -> Loaded:
    """Load a model; blocks as long as it takes.

    Raises: LaunchFailed: it cannot be loaded, or does not score pairs of texts.
    """
    folder, options = Path(plan.files.path), plan.options
    logging.disable_progress_bar()
    report(0.02, "reading the model's configuration")
    check_weights(folder)
    _check_purpose(plan)
    device = choose_device(torch, plan)
    if device.type == "cpu":
        keep_freed_memory()
    weight_bytes = folder_weights(folder) or 0
    dtype = choose_dtype(torch, options["dtype"], stored_dtype(folder), device, weight_bytes)
    taken = (lambda: int(torch.cuda.memory_allocated(device))) if device.type == "cuda" else None
    with telling(report, weight_bytes, taken):
        encoder = attempt(plan, LIBRARY, lambda: _encoder(plan, device, dtype))
    encoder.eval()
    encoder.requires_grad_(False)
    _check(encoder, plan)
    module = encoder[0]
    tokenizer = module.tokenizer
    limit = _max_tokens(encoder, tokenizer, plan)
    form, modality = _format(encoder, tokenizer, limit, plan)
    if module.transformer_task == "sequence-classification" and module.config.pad_token_id is None:
        # Heads that read the last token look for it by the padding.
        module.config.pad_token_id = tokenizer.pad_token_id
    return Loaded(encoder, tokenizer, device, limit, form, modality, _relevance(encoder, options["activation"]))


def _check_purpose(plan: LoadPlan) -> None:
    """Refuse what would be loaded, but was not made to rank, before its weights are read.

    The library gives a model without a head one of random numbers.
    """
    path = Path(plan.files.path)
    if _is_written(plan):
        file = path / "config_sentence_transformers.json"
        kind = (read_json(file) if file.is_file() else {}).get("model_type", "SentenceTransformer")
        if kind != "CrossEncoder":
            raise LaunchFailed(f"{path} is a {kind} of sentence-transformers, which scores no pairs.")
        return
    architecture = _architecture(path)
    if architecture.endswith("ForCausalLM"):
        _check_prompt(plan)
    elif architecture and not architecture.endswith("ForSequenceClassification"):
        raise LaunchFailed(f"{path} ('{architecture}') has no head that scores pairs.")


def _check_prompt(plan: LoadPlan) -> None:
    """Refuse a language model that nothing has made into one that ranks."""
    if "template" in _prompt(plan):
        return
    trusts = plan.options["trust_remote_code"]
    tokenizer = attempt(
        plan,
        LIBRARY,
        lambda: AutoTokenizer.from_pretrained(plan.files.path, local_files_only=True, trust_remote_code=trusts),
    )
    # Templates that write any role say nothing of pairs.
    if "document" not in str(tokenizer.chat_template):
        raise _no_prompt(plan, "nothing says what it reads of a query and a document")


def _architecture(folder: Path) -> str:
    """Return the class that a folder was written by, as `config.json` names it; empty: it does not."""
    file = folder / "config.json"
    names = (read_json(file) if file.is_file() else {}).get("architectures") or [""]
    return str(names[0])


def _encoder(plan: LoadPlan, device: torch.device, dtype: str) -> Any:
    path, options = plan.files.path, plan.options
    model_kwargs: dict[str, Any] = {"dtype": dtype, "use_safetensors": True}
    if options["attn_implementation"] is not None:
        model_kwargs["attn_implementation"] = options["attn_implementation"]
    place: str | None = str(device)
    if options["device_map"] != "single":
        model_kwargs["device_map"], place = options["device_map"], None
    common = {"local_files_only": True, "trust_remote_code": options["trust_remote_code"]}
    if _architecture(Path(path)).endswith("ForCausalLM") and not _is_written(plan):
        module = Transformer(
            path,
            transformer_task="text-generation",
            model_kwargs={**common, **model_kwargs},
            processor_kwargs=dict(common),
            config_kwargs=dict(common),
        )
        return CrossEncoder(modules=[module, _answers(module.tokenizer, plan)], device=place, **common)
    return CrossEncoder(path, device=place, model_kwargs=model_kwargs, **common)


def _prompt(plan: LoadPlan) -> dict[str, Any]:
    """Return how the launch or the family says that pairs are read, as the fact `prompt` has it."""
    options = plan.options
    given = dict(plan.family.facts.get("prompt") or {})
    if options["prompt"] is not None or "template" not in given:
        given |= {"true_token": "yes", "false_token": "no"}
    names = {"prompt": "template"}
    for option in ("prompt", "instruction", "true_token", "false_token"):
        if options[option] is not None:
            given[names.get(option, option)] = options[option]
    return given


def _answers(tokenizer: Any, plan: LoadPlan) -> LogitScore:
    """Return the module that compares the logits of yes and no."""
    prompt = _prompt(plan)
    false = prompt.get("false_token")
    return LogitScore(_token(tokenizer, prompt["true_token"]), _token(tokenizer, false) if false else None)


def _token(tokenizer: Any, text: str) -> int:
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    if not ids or ids[0] == tokenizer.unk_token_id:
        raise LaunchFailed(
            f"The model's tokenizer does not know the answer '{text}'.", remedy="Give another true_token."
        )
    return int(ids[0])


def _check(encoder: Any, plan: LoadPlan) -> None:
    """Refuse what loads, but does not score."""
    module = encoder[0]
    if not isinstance(module, Transformer) or module.tokenizer is None:
        raise LaunchFailed(f"{plan.files.path} does not read texts.")
    if encoder.num_labels != 1:
        raise LaunchFailed(
            f"{plan.files.path} sorts texts into {encoder.num_labels} classes; a rerank model gives one score.",
        )
    if module.tokenizer.pad_token_id is None:
        module.tokenizer.pad_token = module.tokenizer.eos_token or module.tokenizer.unk_token
    if module.tokenizer.pad_token_id is None:
        raise LaunchFailed(f"The tokenizer of {plan.files.path} has no token for padding.")


def _max_tokens(encoder: Any, tokenizer: Any, plan: LoadPlan) -> int:
    """Return the most tokens of a pair: the least of what is known."""
    known = [tokenizer.model_max_length, getattr(encoder[0].config, "max_position_embeddings", None)]
    for part in encoder[0].model.modules():
        table = getattr(part, "position_embeddings", None)
        if isinstance(table, torch.nn.Embedding):
            padding = getattr(part, "padding_idx", None)
            # RoBERTa's positions begin behind that of the padding.
            known.append(table.num_embeddings - (padding + 1 if isinstance(padding, int) else 0))
    able = min((int(one) for one in known if isinstance(one, (int, float)) and 0 < one < _UNLIMITED), default=None)
    wanted = plan.options["max_tokens"]
    if wanted is not None:
        if able is not None and wanted > able:
            raise LaunchFailed(f"The model reads {able} tokens at most, not max_tokens={wanted}.")
        return int(wanted)
    meant = plan.family.facts.get("max_tokens")
    found = min((one for one in (able, meant) if isinstance(one, int)), default=None)
    if found is None:
        raise LaunchFailed("Nothing says how many tokens the model reads.", remedy="Launch it with max_tokens.")
    return found


def _format(encoder: Any, tokenizer: Any, limit: int, plan: LoadPlan) -> tuple[Format, str]:
    """Choose how pairs are read: as the launch says, as files of sentence-transformers do, or as the family does."""
    module, given = encoder[0], _prompt(plan)
    modality = "message" if "text" not in module.modality_config else "text"
    is_told = plan.options["prompt"] is not None
    if "template" in given and (is_told or not _is_written(plan)):
        layout = parse(given["template"])
        if layout is None:
            raise LaunchFailed("The prompt must have {query} and {document} in it.")
        return PromptFormat(tokenizer, limit, layout, instruction=given.get("instruction") or ""), modality
    if "message" in module.modality_config:
        plain, instructed = _own_layouts(encoder, plan)
        instruction = plan.options["instruction"] or ""
        return PromptFormat(tokenizer, limit, (instruction and instructed) or plain, instructed, instruction), "message"
    layouts = [_query_layout(given.get(name)) for name in ("query_template", "instructed_query_template")]
    return PairFormat(tokenizer, limit, *layouts), "text"


def _is_written(plan: LoadPlan) -> bool:
    """Tell whether sentence-transformers has written the folder, so that it says how the model is used."""
    return (Path(plan.files.path) / "modules.json").is_file()


def _no_prompt(plan: LoadPlan, reason: str) -> LaunchFailed:
    return LaunchFailed(
        f"{plan.files.path} is a language model, and {reason}.",
        remedy="Launch it by the name of its family with model_path, or give its prompt (option prompt).",
    )


def _query_layout(template: str | None) -> Layout | None:
    return None if template is None else parse(template + "{document}")


def _own_layouts(encoder: Any, plan: LoadPlan) -> tuple[Layout, Layout | None]:
    """Return what the model's chat template makes of a pair, and of one with an instruction; None: it takes none.

    As `CrossEncoder.predict` does it: a message for the query, one for the document, and a prompt as the system's.

    Raises: LaunchFailed: it was not made for pairs.
    """
    module = encoder[0]
    formatter = module.input_formatter
    options = {
        name: value
        for name, value in module.processing_kwargs.get("chat_template", {}).items()
        if name not in ("restore_suffix", "padding", "truncation", "max_length", "return_tensors")
    }
    failure = formatter.pair_roles_failure(options)
    # Templates that write any role say nothing of pairs, unless the folder does.
    if failure is not None or not (_is_written(plan) or "document" in str(module.processor.chat_template)):
        raise _no_prompt(plan, "its chat template was not made for a query and a document")
    default = (encoder.prompts or {}).get(encoder.default_prompt_name or "", "")

    def render(query: str, document: str, instruction: str = "") -> str:
        messages = [formatter.pair_to_messages((query, document))]
        if instruction:
            messages = formatter.prepend_prompt_to_messages(messages, instruction)
        text = module.processor.apply_chat_template(messages, tokenize=False, **options)
        return str(text[0] if isinstance(text, list) else text)

    plain = derive(lambda query, document, instruction="": render(query, document, default))
    if plain is None:
        raise _no_prompt(plan, "its chat template does more with a query and a document than to put them in")
    instructed = derive(render)
    return plain, instructed if instructed is not None and instructed.takes_instruction else None


def _relevance(encoder: Any, wanted: str) -> Callable[[float], float]:
    function = encoder.activation_fn
    if wanted == "sigmoid" or (wanted == "model" and isinstance(function, torch.nn.Sigmoid)):
        return _sigmoid
    if wanted == "none" or function is None or isinstance(function, torch.nn.Identity):
        return float
    return lambda score: float(function(torch.tensor([score], dtype=torch.float32))[0])


def _sigmoid(score: float) -> float:
    """Return a score's sigmoid, without overflow."""
    if score >= 0:
        return 1 / (1 + math.exp(-score))
    power = math.exp(score)
    return power / (1 + power)
