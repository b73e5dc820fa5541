"""Loads a GGUF model into llama.cpp, with all that belongs to it."""

from collections.abc import Callable
from typing import Any, TypeAlias

from modelrack.catalog.gguf import GgufMetadata
from modelrack.catalog.gguf_memory import free_memory, read_model
from modelrack.errors import LaunchFailed
from modelrack.hooks import LoadPlan
from modelrack.llm.contract import ModelTraits
from modelrack.llm.decoding import DecodingModel
from modelrack.llm.guided import Constraints, missing
from modelrack.machine import probe
from modelrack.worker import Report

from . import bindings
from .bindings import Handle
from .cache import Cells, PrefixCache
from .choosing import Chooser
from .constraints import open_constraints
from .context import Context
from .extras import Extras, load_extras
from .logs import Reasons, set_verbosity
from .memory import Sizes, choose_sizes, extra_weights
from .params import build_context_params, init_numa
from .scheduler import Scheduler
from .vocabulary import Vocabulary
from .weights import load_weights, refused

__all__ = ["GgufModel", "load_model"]

GgufModel: TypeAlias = DecodingModel[Scheduler]

_OUTPUTS = 64
"""Rows of logits that a step can bring beside those of the running sequences."""
_MOST_OUTPUTS = 256
"""The same, where tokens are drafted ahead: each takes as much memory as the vocabulary is large."""
_IDLE = 16
"""Idle sequences that are kept, beside as many as run at once."""
_NUMBERS = 256
"""llama.cpp tells apart no more sequences than this."""
_SUPPORTED = ("dry_multiplier", "dry_base", "dry_allowed_length", "dry_penalty_last_n", "dry_sequence_breakers")
_RECOMMENDED = {
    "general.sampling.temp": "temperature",
    "general.sampling.top_p": "top_p",
    "general.sampling.top_k": "top_k",
    "general.sampling.min_p": "min_p",
    "general.sampling.penalty_repeat": "repetition_penalty",
}


def load_model(plan: LoadPlan, report: Report, on_broken: Callable[[], None] | None = None) -> GgufModel:
    """Load a model; blocks as long as it takes.

    Args:
        on_broken: called when the engine has failed several times in a row, in the decode loop's thread.

    Raises: BadRequest: the file is no sound GGUF. LaunchFailed: it does not fit, or llama.cpp refuses it.
    """
    options = plan.options
    report(0.02, "reading the model's header")
    metadata = read_model(plan.files.path)
    machine = probe()
    sizes = choose_sizes(
        options,
        metadata,
        free_memory(machine, plan.accelerators),
        on_accelerator=bool(plan.accelerators),
        extra_bytes=extra_weights(plan),
    )
    if sizes.n_batch < sizes.n_parallel:
        raise LaunchFailed(
            f"n_batch is {sizes.n_batch} and n_parallel {sizes.n_parallel}, but a step computes a token of every "
            "sequence.",
            remedy="Launch it with a larger n_batch or a smaller n_parallel.",
        )
    set_verbosity(options["verbosity"])
    bindings.init_backend()
    init_numa(options)
    report(0.1, "loading the model")
    model = load_weights(plan, report)
    try:
        report(0.9, "making the context")
        return _assemble(plan, metadata, sizes, machine.cores, model, on_broken)
    except BaseException:
        bindings.free_model(model)
        raise


def _assemble(
    plan: LoadPlan,
    metadata: GgufMetadata,
    sizes: Sizes,
    cores: int,
    model: Handle,
    on_broken: Callable[[], None] | None,
) -> GgufModel:
    if bindings.model_is_diffusion(model) or not bindings.model_has_decoder(model):
        raise LaunchFailed(f"{plan.files.path} is no model that writes text token by token.")
    options = plan.options
    whole = bool(bindings.model_is_recurrent(model) or bindings.model_is_hybrid(model))
    numbers = min(_NUMBERS, 2 * sizes.n_parallel + (0 if whole else _IDLE))
    outputs = _count_outputs(plan, sizes)
    params = build_context_params(plan, sizes, cores, numbers=numbers, outputs=outputs)
    vocabulary = Vocabulary(bindings.model_vocab(model))
    extras = load_extras(plan, metadata, sizes, model, vocabulary, params, whole=whole)
    context = None
    try:
        context = _make_context(plan, sizes, model, params, vocabulary, whole=whole)
        if options["warmup"]:
            _warm_up(context, vocabulary)
        constraints = _make_constraints(vocabulary)
        scheduler = Scheduler(
            context,
            Chooser(context, vocabulary.handle, sizes.n_ctx, vocabulary.end_ids, options["seed"]),
            most=sizes.n_parallel,
            n_batch=sizes.n_batch,
            n_outputs=outputs,
            cells=Cells(sizes.cells),
            prefixes=PrefixCache(sizes.prefix_cells, numbers - sizes.n_parallel),
            numbers=numbers,
            adapters=extras.adapters,
            speculator=extras.speculator,
            vision=extras.vision,
            on_broken=on_broken,
        )
    except BaseException:
        extras.close()
        if context is not None:
            context.close()
        raise
    scheduler.start()

    def free() -> None:
        vocabulary.close()
        extras.close()
        context.close()
        bindings.free_model(model)

    return DecodingModel(
        loop=scheduler,
        vocabulary=vocabulary,
        constraints=constraints,
        read_media=extras.vision.read if extras.vision is not None else None,
        traits=_traits(plan, metadata, sizes, model, vocabulary, constraints, extras),
        most=sizes.n_parallel,
        max_queue=options["max_queue"],
        facts={
            "context_length": sizes.n_ctx,
            "n_parallel": sizes.n_parallel,
            "kv_cells": sizes.cells,
            "prefix_cells": sizes.prefix_cells,
            "n_threads": params.n_threads,
            "llama_cpp_python": bindings.package_version(),
        },
        free=free,
    )


def _count_outputs(plan: LoadPlan, sizes: Sizes) -> int:
    options = plan.options
    drafted = options["draft_max"] * sizes.n_parallel if options["draft_model"] or options["prompt_lookup"] else 0
    return min(sizes.n_batch, sizes.n_parallel + max(_OUTPUTS, min(drafted, _MOST_OUTPUTS)))


def _make_context(
    plan: LoadPlan, sizes: Sizes, model: Handle, params: Any, vocabulary: Vocabulary, *, whole: bool
) -> Context:
    with Reasons() as reasons:
        handle: Handle | None = bindings.init_context(model, params)
    if not handle:
        raise refused(plan, reasons.text("the context could not be made"))
    window = 0 if plan.options["swa_full"] else bindings.model_window(model)
    return Context(handle, vocabulary.size, sizes.n_batch, whole=whole, window=window)


def _make_constraints(vocabulary: Vocabulary) -> Constraints | None:
    return None if missing() else open_constraints(vocabulary.handle, vocabulary.end_ids)


def _warm_up(context: Context, vocabulary: Vocabulary) -> None:
    """Compute one token, so that weights are in memory before the first request."""
    batch = context.batch
    token = vocabulary.bos_id if vocabulary.bos_id is not None else vocabulary.eos_id
    batch.token[0], batch.position[0], batch.sequence[0], batch.wanted[0] = token or 0, 0, 0, 1
    bindings.set_warmup(context.handle, True)
    status = context.decode(1)
    bindings.set_warmup(context.handle, False)
    bindings.memory_clear(context.memory, True)
    if status != 0:
        raise LaunchFailed(f"llama.cpp could not compute a first token (status {status}).")


def _traits(
    plan: LoadPlan,
    metadata: GgufMetadata,
    sizes: Sizes,
    model: Handle,
    vocabulary: Vocabulary,
    constraints: Constraints | None,
    extras: Extras,
) -> ModelTraits:
    defaults = {
        field: metadata.keys[key]
        for key, field in _RECOMMENDED.items()
        if isinstance(metadata.keys.get(key), (int, float))
    }
    return ModelTraits(
        n_ctx=sizes.n_ctx,
        n_vocab=vocabulary.size,
        max_sequences=sizes.n_parallel + plan.options["max_queue"],
        bos_id=vocabulary.bos_id,
        adds_bos=vocabulary.adds_bos,
        end_ids=vocabulary.end_ids,
        fill_in=vocabulary.fill_in,
        chat_template=plan.options["chat_template"] or plan.family.chat_template or _template(model),
        template_variables=vocabulary.template_variables,
        lora=extras.adapters.names if extras.adapters is not None else (),
        media_mark=extras.vision.mark if extras.vision is not None else "",
        constraints=constraints.kinds if constraints is not None else frozenset(),
        no_constraints=missing(),
        defaults=defaults,
        begins_with_space=_begins_with_space(metadata),
        supported=_SUPPORTED,
        encodes_in_threads=True,
    )


def _begins_with_space(metadata: GgufMetadata) -> bool:
    """Tell whether texts get a space before them; of vocabularies that can, those do that do not say otherwise."""
    asked = metadata.keys.get("tokenizer.ggml.add_space_prefix")
    return bool(asked) if asked is not None else metadata.text("tokenizer.ggml.model") in ("llama", "t5")


def _template(model: Handle) -> str | None:
    found: bytes | None = bindings.model_template(model, None)
    return found.decode("utf-8", "replace") if found else None
