"""Folders that are not for this engine, and how a launch tells why."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from rerank_rig import assert_refused, opened, rank, works

from modelrack.settings import get_settings
from modelrack.testing.encoders import EncoderShape, write_bert, write_qwen3
from modelrack.testing.hf_files import write_json
from modelrack.testing.st import write_embedder, write_sparse
from modelrack.testing.st_rerank import write_cross_encoder, write_yes_no

CHATML = "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"


def test_a_model_that_tells_classes_apart_is_refused(tmp_path: Path) -> None:
    folder = write_cross_encoder(tmp_path / "model", EncoderShape(labels=3))
    assert_refused(folder, "sorts texts into 3 classes")


@pytest.mark.parametrize("template", [None, CHATML, "{{ messages[0].content }}"])
def test_a_language_model_needs_a_prompt(tmp_path: Path, template: str | None) -> None:
    """One that passes any role through says nothing of pairs either."""
    folder = write_qwen3(tmp_path / "model", head="causal", chat_template=template)
    prompt = "Q: {query}\nD: {document}\nA:"
    assert_refused(folder, "is a language model, and", "option prompt")
    assert len(rank(opened(folder, prompt=prompt, true_token="y", false_token="n"), works())) > 1


def test_a_chat_template_that_changes_documents_is_refused(tmp_path: Path) -> None:
    folder = write_yes_no(tmp_path / "model")
    file = folder / "tokenizer_config.json"
    settings = json.loads(file.read_text())
    settings["chat_template"] = settings["chat_template"].replace("ns.document +", "ns.document | upper +")
    settings["chat_template"] = settings["chat_template"].replace("+ ns.document ", "+ (ns.document | upper) ")
    file.write_text(json.dumps(settings))
    assert_refused(folder, "does more with a query and a document", "option prompt")


def test_an_answer_that_is_no_token_is_refused(tmp_path: Path) -> None:
    folder = write_qwen3(tmp_path / "model", head="causal")
    assert_refused(folder, "does not know the answer", prompt="{query}{document}", true_token="")


def test_weights_in_pickles_are_refused(tmp_path: Path) -> None:
    folder = write_cross_encoder(tmp_path / "model")
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    assert_refused(folder, "pickle", "safetensors")


def test_a_context_that_the_model_has_not_is_refused(tmp_path: Path) -> None:
    assert_refused(write_cross_encoder(tmp_path / "model"), "reads 128 tokens at most", max_tokens=129)


def _write_own(folder: Path) -> Path:
    """Write a model that comes with Python code: a BERT under another name."""
    write_cross_encoder(folder)
    config = json.loads((folder / "config.json").read_text())
    kind = "AutoModelForSequenceClassification"
    config |= {"model_type": "its_own", "auto_map": {"AutoConfig": "own.OwnConfig", kind: "own.OwnModel"}}
    write_json(folder / "config.json", config)
    (folder / "own.py").write_text(
        "from transformers import BertConfig, BertForSequenceClassification\n\n\n"
        "class OwnConfig(BertConfig):\n    model_type = 'its_own'\n\n\n"
        "class OwnModel(BertForSequenceClassification):\n    config_class = OwnConfig\n"
    )
    return folder


def test_code_that_comes_with_a_model_is_not_run(tmp_path: Path) -> None:
    folder = _write_own(tmp_path / "model")
    (folder / "own.py").write_text("raise SystemExit('it was run')\n")
    assert_refused(folder, "it comes with Python code of its own", "trust_remote_code")


def test_code_that_comes_with_a_model_is_run_where_the_operator_allows_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers import dynamic_module_utils

    monkeypatch.setattr(dynamic_module_utils, "HF_MODULES_CACHE", str(tmp_path / "code"))
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setenv("MODELRACK_TRUST_REMOTE_CODE", "1")
    get_settings.cache_clear()
    try:
        own = rank(opened(_write_own(tmp_path / "model"), trust_remote_code=True), works())
    finally:
        get_settings.cache_clear()
    assert own == rank(opened(write_cross_encoder(tmp_path / "plain")), works())


def test_a_broken_folder_is_told_in_one_line(tmp_path: Path) -> None:
    folder = write_cross_encoder(tmp_path / "model")
    (folder / "tokenizer.json").write_text("{")
    assert_refused(folder, r"^sentence-transformers could not load .*model: [^\n]+\.$")


def test_scores_that_are_no_numbers_fail_the_launch(tmp_path: Path) -> None:
    import numpy as np

    from modelrack.testing import encoders

    folder = write_cross_encoder(tmp_path / "model")
    width = encoders.SMALL.width
    names = [("bert.embeddings.LayerNorm.weight", np.full(width, np.nan, np.float32))]
    _replace(folder, dict(names))
    assert_refused(folder, "gives no numbers", "float32")


@pytest.mark.parametrize("head", ["none", "masked"])
def test_a_model_without_a_head_is_refused(tmp_path: Path, head: Any) -> None:
    """The library would give it one of random numbers, and scores that mean nothing would be answered."""
    assert_refused(write_bert(tmp_path / "model", head=head), "has no head that scores pairs")


def test_a_model_of_another_kind_is_refused(tmp_path: Path) -> None:
    assert_refused(write_embedder(tmp_path / "model"), "is a SentenceTransformer of sentence-transformers")
    assert_refused(write_sparse(tmp_path / "sparse"), "is a SparseEncoder of sentence-transformers")


def test_a_batch_that_nobody_waits_for_ends(tmp_path: Path) -> None:
    """An interrupt ends the batch that is computed, and no later one."""
    from rerank_rig import pairs

    model = opened(write_cross_encoder(tmp_path / "model"))
    batch = [one.payload for one in pairs(model, works())]
    layers = max((part for part in model._loaded.encoder.modules() if hasattr(part, "append")), key=len)
    handle = layers[0].register_forward_hook(lambda *_: model.interrupt())
    with pytest.raises(Exception, match=r"^$"):
        model.run(batch)
    handle.remove()
    assert len(model.run(batch)) == len(batch)


def _replace(folder: Path, changed: dict[str, object]) -> None:
    from safetensors.numpy import load_file, save_file

    weights = load_file(folder / "model.safetensors")
    assert set(changed) <= set(weights)
    save_file({**weights, **changed}, folder / "model.safetensors", metadata={"format": "pt"})
