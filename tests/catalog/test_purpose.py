"""Models given by path, as embedding and rerank models: what their files say, and what is refused."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from catalog.gguf_files import TENSORS, gguf_bytes, llama_keys, write_gguf
from catalog.racks import llm_plugins, machine
from modelrack.api.launch import LaunchRequest
from modelrack.catalog import resolve
from modelrack.catalog.catalog import Catalog
from modelrack.errors import BadRequest
from modelrack.hooks import Engine, Family, PythonWorker

ANY = Engine(
    name="any",
    model_types=("LLM", "embedding", "rerank"),
    worker=PythonWorker(loader="nowhere:Loader"),
    accepts=lambda candidate, machine: None,
)
MODULES = "sentence_transformers.models"
BERT: dict[str, Any] = {
    "architectures": ["BertModel"],
    "model_type": "bert",
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "max_position_embeddings": 64,
    "vocab_size": 9,
}
JUDGE = 'Judge whether the document answers the query. The answer can only be "yes" or "no".{{ messages }}'


def family_of(path: Path, model_type: str) -> Family:
    plugins = llm_plugins(engines=(ANY,))
    catalog = Catalog(plugins, path.parent / "custom")
    request = LaunchRequest(model_name=str(path), model_type=model_type)
    return resolve(request, catalog, plugins, machine(), "huggingface", path.parent / "models").family


def write(folder: Path, **files: Any) -> Path:
    """Write JSON files; a name's `__` is a slash."""
    for name, content in files.items():
        file = folder / f"{name.replace('__', '/')}.json"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(content))
    return folder


def modules(*kinds: str, path: str = "") -> list[dict[str, Any]]:
    names = ["Transformer", *kinds]
    return [
        {
            "idx": number,
            "name": str(number),
            "path": f"{number}_{kind}" if number else path,
            "type": f"{MODULES}.{kind}",
        }
        for number, kind in enumerate(names)
    ]


# Folders


def test_a_folder_of_sentence_transformers(tmp_path: Path) -> None:
    """As version 3 writes it: flags for the pooling, and the length in a file of its own."""
    folder = write(
        tmp_path / "bge",
        config=BERT,
        modules=modules("Pooling", "Normalize"),
        **{"1_Pooling__config": {"word_embedding_dimension": 32, "pooling_mode_cls_token": True}},
        sentence_bert_config={"max_seq_length": 48, "do_lower_case": True},
        tokenizer_config={"model_max_length": 60},
    )
    family = family_of(folder, "embedding")
    assert family.abilities == ("embed",) and family.name == "bge" and family.model_type == "embedding"
    assert family.facts == {"dimensions": 32, "max_tokens": 48, "pooling": "cls"}


def test_a_folder_of_sentence_transformers_6(tmp_path: Path) -> None:
    """The pooling by name, a dense layer behind it, and the length from the tokenizer."""
    folder = write(
        tmp_path / "m",
        config=BERT,
        modules=modules("Pooling", "Dense", "Normalize"),
        **{
            "1_Pooling__config": {"embedding_dimension": 32, "pooling_mode": "lasttoken"},
            "2_Dense__config": {"in_features": 32, "out_features": 16},
        },
        config_sentence_transformers={"model_type": "SentenceTransformer"},
        sentence_bert_config={"modality_config": {"text": {}, "image": {}}},
        tokenizer_config={"model_max_length": 50},
    )
    family = family_of(folder, "embedding")
    assert family.abilities == ("embed", "vision")
    assert family.facts == {"dimensions": 16, "max_tokens": 50, "pooling": "last"}


def test_several_poolings_lie_side_by_side(tmp_path: Path) -> None:
    pooling = {"word_embedding_dimension": 32, "pooling_mode_cls_token": True, "pooling_mode_mean_tokens": True}
    folder = write(tmp_path / "m", config=BERT, modules=modules("Pooling"), **{"1_Pooling__config": pooling})
    assert family_of(folder, "embedding").facts == {"dimensions": 64, "max_tokens": 64, "pooling": "cls+mean"}


@pytest.mark.parametrize(("maker", "ability"), [("SparseEncoder", "sparse"), ("MultiVectorEncoder", "multi_vector")])
def test_other_vectors(tmp_path: Path, maker: str, ability: str) -> None:
    folder = write(
        tmp_path / "m", config=BERT, modules=modules("Other"), config_sentence_transformers={"model_type": maker}
    )
    assert family_of(folder, "embedding").abilities == ("embed", ability)


def test_an_encoder_in_a_folder_below(tmp_path: Path) -> None:
    """As version 1 wrote it; the folder itself has no config.json."""
    folder = write(tmp_path / "m", **{"0_Transformer__config": BERT}, modules=modules("Pooling", path="0_Transformer"))
    family = family_of(folder, "embedding")
    assert family.facts["dimensions"] == 32 and family.architectures == ("BertModel",)


def test_static_embeddings_have_no_configuration(tmp_path: Path) -> None:
    kinds = [{"idx": 0, "name": "0", "path": "", "type": f"{MODULES}.StaticEmbedding"}]
    assert family_of(write(tmp_path / "m", modules=kinds), "embedding").abilities == ("embed",)


@pytest.mark.parametrize(
    ("config", "tokenizer", "length"),
    [
        ({"model_type": "xlm-roberta", "max_position_embeddings": 514, "pad_token_id": 1}, None, 512),
        ({"model_type": "bert", "max_position_embeddings": 512}, 10**30, 512),
        ({"model_type": "bert", "max_position_embeddings": 512}, 128, 128),
        ({"model_type": "t5", "max_position_embeddings": None}, 512, 512),
    ],
)
def test_how_much_is_read(tmp_path: Path, config: dict[str, Any], tokenizer: int | None, length: int) -> None:
    folder = write(tmp_path / "m", config={**BERT, **config}, tokenizer_config={"model_max_length": tokenizer})
    assert family_of(folder, "embedding").facts == {"dimensions": 32, "max_tokens": length}


RANKING: list[dict[str, Any]] = [
    {"config": {**BERT, "architectures": ["BertForSequenceClassification"], "id2label": {"0": "LABEL_0"}}},
    {"config": {**BERT, "architectures": ["BertForSequenceClassification"]}},
    {
        "config": {**BERT, "architectures": ["Qwen3ForCausalLM"]},
        "modules": modules("LogitScore"),
        "config_sentence_transformers": {"model_type": "CrossEncoder"},
    },
    {
        "config": {**BERT, "architectures": ["Qwen3ForCausalLM"]},
        "tokenizer_config": {"chat_template": JUDGE},
    },
]


@pytest.mark.parametrize("files", RANKING)
def test_a_folder_that_ranks(tmp_path: Path, files: dict[str, Any]) -> None:
    family = family_of(write(tmp_path / "m", **files), "rerank")
    assert family.abilities == ("rerank",) and family.facts == {"max_tokens": 64, "type": "normal"}


WITH_MODULES: dict[str, Any] = {
    "config": {**BERT, "architectures": ["Qwen3ForCausalLM"]},
    "modules": modules("Pooling"),
}
ONE_LABEL: dict[str, Any] = {
    "config": {**BERT, "architectures": ["BertForSequenceClassification"], "id2label": {"0": "a"}}
}
CAUSAL: dict[str, Any] = {
    "config": {**BERT, "architectures": ["LlamaForCausalLM"]},
    "tokenizer_config": {"chat_template": "{{ 1 }}"},
}
MASKED: dict[str, Any] = {"config": {**BERT, "architectures": ["BertForMaskedLM"]}}


@pytest.mark.parametrize(
    ("files", "model_type", "what", "remedy"),
    [
        (WITH_MODULES, "LLM", "an embedding model", "--model-type embedding"),
        (WITH_MODULES, "rerank", "an embedding model", "--model-type embedding"),
        (MASKED, "LLM", "an embedding model", "--model-type embedding"),
        (ONE_LABEL, "LLM", "a rerank model", "--model-type rerank"),
        (ONE_LABEL, "embedding", "a rerank model", "--model-type rerank"),
        (CAUSAL, "rerank", "a language model", "--model-type LLM.*modelrack register -t rerank"),
        (CAUSAL, "embedding", "a language model", "--model-type LLM.*modelrack register -t embedding"),
    ],
)
def test_folders_of_other_types_are_refused(
    tmp_path: Path, files: dict[str, Any], model_type: str, what: str, remedy: str
) -> None:
    with pytest.raises(BadRequest, match=f"is {what}") as caught:
        family_of(write(tmp_path / "m", **files), model_type)
    assert caught.value.param == "model_type" and re.search(remedy, str(caught.value.remedy))


@pytest.mark.parametrize(
    ("architecture", "types"),
    [
        ("BertModel", ("embedding", "LLM")),
        ("ChatGLMModel", ("LLM", "embedding")),
        ("GPT2LMHeadModel", ("LLM",)),
        ("SomethingForRanking", ("LLM", "embedding", "rerank")),
    ],
)
def test_what_files_leave_open_is_taken(tmp_path: Path, architecture: str, types: tuple[str, ...]) -> None:
    folder = write(tmp_path / "m", config={**BERT, "architectures": [architecture]})
    for model_type in types:
        assert family_of(folder, model_type).abilities
    for model_type in {"LLM", "embedding", "rerank"} - set(types):
        with pytest.raises(BadRequest, match="by what its files say"):
            family_of(folder, model_type)


def test_a_classifier_is_none_of_the_three(tmp_path: Path) -> None:
    """Whether it can be loaded, its engine says: nothing in the files says that it ranks."""
    labels = {"0": "good", "1": "bad"}
    config = {**BERT, "architectures": ["BertForSequenceClassification"], "id2label": labels}
    assert family_of(write(tmp_path / "m", config=config), "rerank").abilities == ("rerank",)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("{}", "no list of modules"),
        ("[]", "no list of modules"),
        ("[1]", "no list of modules"),
        ('[{"path": ""}]', "no list of modules"),
        ('[{"type": "a.B", "path": "../other"}]', "not inside the model's"),
        ('[{"type": "a.B", "path": "/etc"}]', "not inside the model's"),
        ("[" * 100_000, "not valid JSON"),
    ],
)
def test_a_broken_list_of_modules_is_named(tmp_path: Path, content: str, reason: str) -> None:
    folder = write(tmp_path / "m", config=BERT)
    (folder / "modules.json").write_text(content)
    for model_type in ("embedding", "LLM"):
        with pytest.raises(BadRequest, match=rf"modules\.json.*{reason}"):
            family_of(folder, model_type)


@pytest.mark.parametrize(
    "name", ["config_sentence_transformers", "sentence_bert_config", "1_Pooling__config", "tokenizer_config"]
)
def test_other_files_may_be_broken_too(tmp_path: Path, name: str) -> None:
    folder = write(tmp_path / "m", config=BERT, modules=modules("Pooling"), **{name: []})
    with pytest.raises(BadRequest, match=rf"{name.replace('__', '/')}\.json is not a JSON object"):
        family_of(folder, "embedding")


# GGUF files


BERT_KEYS: dict[str, Any] = {
    "general.architecture": "bert",
    "bert.context_length": 512,
    "bert.embedding_length": 384,
    "bert.attention.causal": False,
    "tokenizer.chat_template": None,
}


@pytest.mark.parametrize(
    ("keys", "facts"),
    [
        ({**BERT_KEYS, "bert.pooling_type": 2}, {"dimensions": 384, "max_tokens": 512, "pooling": "cls"}),
        ({**BERT_KEYS, "bert.pooling_type": 1}, {"dimensions": 384, "max_tokens": 512, "pooling": "mean"}),
        (BERT_KEYS, {"dimensions": 384, "max_tokens": 512}),
        ({**BERT_KEYS, "bert.embedding_length_out": 128}, {"dimensions": 128, "max_tokens": 512}),
        (
            {
                "general.architecture": "qwen3",
                "qwen3.pooling_type": 3,
                "qwen3.context_length": 32768,
                "qwen3.embedding_length": 1024,
            },
            {"dimensions": 1024, "max_tokens": 32768, "pooling": "last"},
        ),
    ],
)
def test_a_gguf_file_that_embeds(tmp_path: Path, keys: dict[str, Any], facts: dict[str, Any]) -> None:
    path = write_gguf(tmp_path / "m.gguf", keys)
    family = family_of(path, "embedding")
    assert family.abilities == ("embed",) and family.facts == facts
    for model_type in ("LLM", "rerank"):
        with pytest.raises(BadRequest, match="is an embedding model") as caught:
            family_of(path, model_type)
        assert caught.value.remedy == "Launch it with: --model-type embedding."


@pytest.mark.parametrize(
    "keys",
    [
        {**BERT_KEYS, "bert.pooling_type": 4},
        {"general.architecture": "qwen3", "qwen3.pooling_type": 4, "qwen3.context_length": 512},
        {"general.architecture": "qwen3", "qwen3.context_length": 512, "tokenizer.chat_template": JUDGE},
        {"general.architecture": "qwen3", "qwen3.context_length": 512, "tokenizer.chat_template.rerank": JUDGE},
    ],
)
def test_a_gguf_file_that_ranks(tmp_path: Path, keys: dict[str, Any]) -> None:
    family = family_of(write_gguf(tmp_path / "m.gguf", keys), "rerank")
    assert family.abilities == ("rerank",) and family.facts == {"max_tokens": 512, "type": "normal"}


def test_an_older_gguf_file_that_ranks_says_so_by_its_head_alone(tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    keys = {**llama_keys(), **BERT_KEYS}
    del keys["tokenizer.chat_template"]
    head = {"cls.weight": ((32, 32), 0, 4096), "cls.output.weight": ((32,), 0, 128)}
    path.write_bytes(gguf_bytes(keys, {**TENSORS, **head}))
    assert family_of(path, "rerank").abilities == ("rerank",)
    with pytest.raises(BadRequest, match="is a rerank model"):
        family_of(path, "embedding")


@pytest.mark.parametrize("model_type", ["embedding", "rerank"])
def test_a_gguf_file_that_writes(tmp_path: Path, model_type: str) -> None:
    with pytest.raises(BadRequest, match="is a language model") as caught:
        family_of(write_gguf(tmp_path / "m.gguf"), model_type)
    assert str(caught.value.remedy).startswith("Launch it with: --model-type LLM; if it is a")
    with pytest.raises(BadRequest, match="multimodal projector"):
        family_of(write_gguf(tmp_path / "p.gguf", {"general.architecture": "clip"}), model_type)


def test_what_is_known_of_a_family_goes_before_what_files_say(tmp_path: Path) -> None:
    """So a decoder whose file says nothing of its use can be launched once it is registered."""
    path = write_gguf(tmp_path / "m.gguf")
    plugins = llm_plugins(engines=(ANY,))
    catalog = Catalog(plugins, tmp_path / "custom")
    own = {"model_name": "mine", "dimensions": 64, "max_tokens": 99, "language": ["en"]}
    own |= {"model_specs": [{"model_format": "ggufv2", "model_uri": str(path)}]}
    catalog.register("embedding", own, persist=False)
    for request in ({"model_name": "mine"}, {"model_name": "mine", "model_path": str(path)}):
        launch = LaunchRequest.model_validate({**request, "model_type": "embedding"})
        found = resolve(launch, catalog, plugins, machine(), "huggingface", tmp_path / "models")
        assert found.family.facts == {"dimensions": 64, "max_tokens": 99} and found.family.abilities == ("embed",)
