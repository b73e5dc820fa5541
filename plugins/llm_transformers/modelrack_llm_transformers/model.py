"""Loads a model with all that belongs to it, and chooses how its requests are computed together."""

import gc
import logging
import os
from collections.abc import Callable
from dataclasses import replace
from typing import Any, TypeAlias

import torch

from modelrack.hooks import LoadPlan
from modelrack.llm.contract import ModelTraits
from modelrack.llm.decoding import DecodingModel
from modelrack.llm.guided import Constraints, missing
from modelrack.llm.guided import Vocabulary as GuidedVocabulary
from modelrack.pytorch import use_threads
from modelrack.worker import Report

from .choosing import Chooser
from .loading import Loaded, load
from .loop import Runner
from .runners import Extras, make_runner
from .sizes import choose_sizes
from .vocabulary import Vocabulary

__all__ = ["TransformersModel", "load_model"]

log = logging.getLogger(__name__)

TransformersModel: TypeAlias = DecodingModel[Runner]


def load_model(plan: LoadPlan, report: Report, on_broken: Callable[[], None] | None = None) -> TransformersModel:
    """Load a model; blocks as long as it takes.

    Args:
        on_broken: called when the engine has failed several times in a row, in the decode loop's thread.

    Raises: LaunchFailed: it does not fit, or Transformers refuses it.
    """
    # Tokenizers are called from one thread; a pool of theirs would only compete for the cores.
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    use_threads(torch, plan.options["n_threads"])
    loaded = load(plan, report)
    model = loaded.model
    config = model.config.get_text_config()
    vocabulary = Vocabulary(loaded.tokenizer, _columns(model), loaded.ends)
    report(0.87, "preparing constraints")
    guided, constraints = _make_constraints(loaded, vocabulary)
    chooser = Chooser(vocabulary.end_ids, loaded.device, guided, plan.options["seed"])
    sizes = choose_sizes(plan.options, config, loaded.device, model.dtype)
    template = plan.options["chat_template"] or plan.family.chat_template or vocabulary.chat_template
    extras = Extras.load(plan, loaded, template)
    report(0.92, "making the cache")
    runner, facts = make_runner(plan, loaded, chooser, sizes, extras, on_broken)
    n_ctx = int(facts["context_length"])
    runner.start()
    report(1.0, "ready")
    return DecodingModel(
        loop=runner,
        vocabulary=vocabulary,
        constraints=constraints,
        read_media=extras.vision.read if extras.vision is not None else None,
        traits=replace(
            _traits(loaded, vocabulary, constraints, extras, n_ctx, template),
            max_sequences=sizes.most + plan.options["max_queue"],
            encodes_in_threads=vocabulary.encodes_in_threads,
        ),
        most=sizes.most,
        max_queue=plan.options["max_queue"],
        facts=facts,
        free=lambda: _free(loaded, runner),
    )


def _columns(model: Any) -> int:
    """Return the number of tokens that the model's logits have."""
    head = model.get_output_embeddings()
    size = getattr(head, "out_features", None) or model.config.get_text_config().vocab_size
    return int(size)


def _make_constraints(loaded: Loaded, vocabulary: Vocabulary) -> tuple[GuidedVocabulary | None, Constraints | None]:
    if missing():
        return None, None
    guided = GuidedVocabulary.of_tokens(
        vocabulary.pieces(),
        specials=sorted(vocabulary.specials),
        ends=sorted(vocabulary.end_ids),
        encode=vocabulary.encode_plainly,
        size=vocabulary.size,
    )
    return guided, Constraints(guided)


def _traits(
    loaded: Loaded,
    vocabulary: Vocabulary,
    constraints: Constraints | None,
    extras: Extras,
    n_ctx: int,
    template: str | None,
) -> ModelTraits:
    return ModelTraits(
        n_ctx=n_ctx,
        n_vocab=vocabulary.size,
        bos_id=vocabulary.bos_id,
        adds_bos=vocabulary.adds_bos,
        begins_with_space=vocabulary.begins_with_space,
        end_ids=vocabulary.end_ids,
        fill_in=vocabulary.fill_in,
        chat_template=template,
        template_variables=vocabulary.template_variables,
        lora=tuple(extras.adapters.names) if extras.adapters is not None else (),
        media_mark=extras.vision.mark if extras.vision is not None else "",
        constraints=constraints.kinds if constraints is not None else frozenset(),
        no_constraints=missing(),
        defaults=loaded.recommended,
    )


def _free(loaded: Loaded, runner: Runner) -> None:
    del runner
    device = loaded.device
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
