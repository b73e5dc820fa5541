"""What GGUF files say of how they pool, and which are refused, with the reason."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from catalog.racks import machine
from modelrack.catalog.gguf_memory import read_model
from modelrack.errors import LaunchFailed
from modelrack.hooks import Candidate, Family, LoadPlan, ModelFiles, Variant
from modelrack.pooling import POOLED_OPTIONS, accepts_gguf
from modelrack.pooling.facts import PooledFacts, read_facts
from modelrack.testing.gguf import write_random_model
from modelrack.testing.gguf_bert import RERANK_TEMPLATE, write_bert_model, write_decoder_model


def plan_of(path: Path, model_type: str, facts: Mapping[str, Any] | None = None, **options: Any) -> LoadPlan:
    return LoadPlan(
        model_uid="u",
        family=Family(name="f", model_type=model_type, facts=facts or {}),
        variant=Variant(format="gguf"),
        quantization="none",
        files=ModelFiles(path=str(path), format="gguf"),
        options=POOLED_OPTIONS[model_type].model_validate(options).model_dump(),
    )


def facts_of(path: Path, model_type: str, facts: Mapping[str, Any] | None = None, **options: Any) -> PooledFacts:
    return read_facts(plan_of(path, model_type, facts, **options), read_model(str(path)))


def refusal(path: Path | None, model_type: str, *, format: str = "gguf") -> str | None:
    metadata = read_model(str(path)).keys if path is not None else {}
    family = Family(name="f", model_type=model_type)
    return accepts_gguf(
        Candidate(family=family, variant=Variant(format=format), quantization="none", metadata=metadata), machine()
    )


def test_an_encoder_reads_a_text_at_once(tmp_path: Path) -> None:
    found = facts_of(write_bert_model(tmp_path / "m.gguf", pooling="cls"), "embedding")
    assert found == PooledFacts(pooling="cls", is_causal=False, is_whole=True, dimensions=64, trained_tokens=128)


def test_a_decoder_reads_a_text_in_parts_unless_all_tokens_count(tmp_path: Path) -> None:
    path = write_decoder_model(tmp_path / "m.gguf")
    assert facts_of(path, "embedding").is_causal and not facts_of(path, "embedding").is_whole
    assert facts_of(path, "embedding", pooling="mean").is_whole


def test_a_decoder_that_ranks_has_a_template_and_gives_probabilities(tmp_path: Path) -> None:
    found = facts_of(write_decoder_model(tmp_path / "m.gguf", pooling="rank"), "rerank")
    assert (found.gives_probability, found.template, found.is_whole) == (True, RERANK_TEMPLATE, False)


def test_an_old_file_that_ranks_is_known_by_its_head(tmp_path: Path) -> None:
    """Files of bge-reranker-v2-m3 say nothing of their pooling: llama.cpp's server was told by an argument."""
    path = write_bert_model(tmp_path / "m.gguf", pooling=None, head=True)
    assert refusal(path, "rerank") is None
    found = facts_of(path, "rerank")
    assert (found.pooling, found.gives_probability) == ("rank", False)


def test_pooling_can_be_said_by_the_family_or_the_launch(tmp_path: Path) -> None:
    path = write_bert_model(tmp_path / "m.gguf", pooling=None)
    assert facts_of(path, "embedding", {"pooling": "cls"}).pooling == "cls"
    assert facts_of(path, "embedding", {"pooling": "cls"}, pooling="mean").pooling == "mean"
    with pytest.raises(LaunchFailed, match="does not say how its tokens become one embedding") as caught:
        facts_of(path, "embedding")
    assert "pooling set to mean, cls or last" in str(caught.value.remedy)
    chat = write_random_model(tmp_path / "c.gguf")
    with pytest.raises(LaunchFailed, match="does not say"):
        facts_of(chat, "embedding")
    assert facts_of(chat, "embedding", pooling="last").pooling == "last"


def test_files_for_something_else_are_refused(tmp_path: Path) -> None:
    mean, rank = write_bert_model(tmp_path / "m.gguf"), write_bert_model(tmp_path / "r.gguf", pooling="rank")
    chat = write_random_model(tmp_path / "c.gguf")
    assert refusal(mean, "embedding") is None and refusal(rank, "rerank") is None and refusal(chat, "LLM") is None
    assert "it ranks" in str(refusal(rank, "embedding"))
    assert "its pooling is 'mean'" in str(refusal(mean, "rerank"))
    assert "no head" in str(refusal(chat, "rerank"))
    assert "not the format 'pytorch'" in str(refusal(None, "embedding", format="pytorch"))


@pytest.mark.parametrize("model_type", ["embedding", "rerank"])
def test_before_a_download_nothing_is_refused(model_type: str) -> None:
    assert refusal(None, model_type) is None


def test_what_cannot_be_done_is_said_at_the_launch(tmp_path: Path) -> None:
    mean, rank = write_bert_model(tmp_path / "m.gguf"), write_bert_model(tmp_path / "r.gguf", pooling="rank")
    headless = write_bert_model(tmp_path / "h.gguf", pooling="rank", head=False)
    with pytest.raises(LaunchFailed, match="gives scores, no embeddings"):
        facts_of(rank, "embedding")
    for path in (mean, headless):
        with pytest.raises(LaunchFailed, match="has no head that gives scores"):
            facts_of(path, "rerank")
    plan = plan_of(mean, "embedding")
    adapted = LoadPlan(
        model_uid="u",
        family=plan.family,
        variant=plan.variant,
        quantization="none",
        files=plan.files,
        options=plan.options,
        lora=(("a", "/a.gguf"),),
    )
    with pytest.raises(LaunchFailed, match="LoRA"):
        read_facts(adapted, read_model(str(mean)))


def test_one_that_tells_classes_apart_ranks_nothing(tmp_path: Path) -> None:
    path = write_bert_model(tmp_path / "m.gguf", pooling="rank", labels=3)
    with pytest.raises(LaunchFailed, match="tells 3 classes apart"):
        facts_of(path, "rerank")


def test_a_text_is_as_long_as_file_and_family_agree(tmp_path: Path) -> None:
    path = write_bert_model(tmp_path / "m.gguf")
    assert facts_of(path, "embedding", {"max_tokens": 100}).trained_tokens == 100
    assert facts_of(path, "embedding", {"max_tokens": 1000}).trained_tokens == 128
