"""Make small rerank models as sentence-transformers writes them, with random weights; needs the package `numpy`."""

import json
from pathlib import Path

from .encoders import SMALL, EncoderShape, write_bert, write_qwen3, write_roberta
from .hf_files import write_json
from .st import Part, write_modules

__all__ = ["PAIR_TEMPLATE", "write_cross_encoder", "write_yes_no", "yes_no"]

PAIR_TEMPLATE = (
    "{%- set ns = namespace(task='Find what answers the query', query='', document='') -%}"
    "{%- for message in messages -%}"
    "{%- if message.role == 'system' -%}{%- set ns.task = message.content -%}"
    "{%- elif message.role == 'query' -%}{%- set ns.query = message.content -%}"
    "{%- elif message.role == 'document' -%}{%- set ns.document = message.content -%}{%- endif -%}"
    "{%- endfor -%}"
    "{{ '<|im_start|>user\n<Instruct>: ' + ns.task + '\n<Query>: ' + ns.query + '\n<Document>: ' + ns.document "
    "+ '<|im_end|>\n<|im_start|>assistant\n' }}"
)
"""Chat template of a decoder that ranks: the task, the query and the document of a pair."""

PAIR_PROMPT = (
    "<|im_start|>user\n<Instruct>: {instruction}\n<Query>: {query}\n<Document>: {document}<|im_end|>\n"
    "<|im_start|>assistant\n"
)
"""The same, as the fact `prompt` of a family has it."""


def yes_no(true_token_id: int, false_token_id: int | None) -> Part:
    """Return the module that makes a score of the logits of two tokens."""
    config = {"true_token_id": true_token_id, "false_token_id": false_token_id, "module_input_name": "causal_logits"}
    return Part("sentence_transformers.cross_encoder.modules.logit_score.LogitScore", config)


def write_cross_encoder(
    folder: Path, shape: EncoderShape = SMALL, *, kind: str = "bert", activation: str | None = None, seed: int = 0
) -> Path:
    """Write a model that scores pairs with a head, as Transformers has them, and return its folder.

    Args:
        kind: `bert`, `roberta` or `qwen3`.
        activation: dotted path of a class of PyTorch that scores go through; None: the folder does not say.
    """
    write = {"bert": write_bert, "roberta": write_roberta, "qwen3": write_qwen3}[kind]
    write(folder, shape, head="classification", seed=seed)  # type: ignore[operator]
    if activation is not None:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        write_json(folder / "config.json", {**config, "sentence_transformers": {"activation_fn": activation}})
    return folder


def write_yes_no(
    folder: Path,
    shape: EncoderShape = SMALL,
    *,
    true_token_id: int = 90,
    false_token_id: int | None = 80,
    seed: int = 0,
) -> Path:
    """Write a decoder whose next token says whether a document is relevant, and return its folder.

    It reads pairs by a chat template (`PAIR_TEMPLATE`), and is told the task.
    """
    write_qwen3(folder, shape, head="causal", ends_texts=False, chat_template=PAIR_TEMPLATE, seed=seed)
    output = {"method": "forward", "method_output_name": "logits"}
    return write_modules(
        folder,
        yes_no(true_token_id, false_token_id),
        model_type="CrossEncoder",
        task="text-generation",
        transformer={
            "modality_config": {"text": output, "message": {**output, "format": "flat"}},
            "module_output_name": "causal_logits",
        },
    )
