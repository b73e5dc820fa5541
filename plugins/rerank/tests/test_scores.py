"""Scores and counts, against the library run bare on the same weights."""

from pathlib import Path
from typing import Any

import pytest
from rerank_rig import DOCUMENTS, QUERY, library, opened, pairs, rank, works

from modelrack.testing.st_rerank import PAIR_TEMPLATE, write_cross_encoder, write_yes_no

NEAR = 1e-5

WRITERS: dict[str, Any] = {
    "bert": write_cross_encoder,
    "roberta": lambda folder: write_cross_encoder(folder, kind="roberta"),
    "qwen3": lambda folder: write_cross_encoder(folder, kind="qwen3"),
    "yes or no": write_yes_no,
    "yes alone": lambda folder: write_yes_no(folder, false_token_id=None),
    "identity": lambda folder: write_cross_encoder(folder, activation="torch.nn.modules.linear.Identity"),
    "tanh": lambda folder: write_cross_encoder(folder, activation="torch.nn.modules.activation.Tanh"),
}


@pytest.fixture(scope="module", params=WRITERS)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    found: Path = WRITERS[request.param](tmp_path_factory.mktemp("models") / "model")
    return found


def predict(encoder: Any, documents: tuple[str, ...], query: str = QUERY, **arguments: Any) -> list[float]:
    found: list[float] = encoder.predict([(query, document) for document in documents], **arguments).tolist()
    return found


def test_scores_are_those_of_the_library(folder: Path) -> None:
    """Whatever else is in the batch: the library is asked in batches of three."""
    model, encoder = opened(folder), library(folder)
    expected = predict(encoder, DOCUMENTS, batch_size=3)
    assert rank(model, works()) == pytest.approx(expected, abs=NEAR)
    alone = [rank(model, works()[index : index + 1])[0] for index in range(len(DOCUMENTS))]
    assert alone == pytest.approx(expected, abs=NEAR)
    assert len({round(score, 5) for score in expected}) > len(DOCUMENTS) // 2


def test_raw_scores_are_the_logits(folder: Path) -> None:
    from torch import nn

    model, encoder = opened(folder), library(folder)
    found = model.run([one.payload for one in pairs(model, works())])
    assert found == pytest.approx(predict(encoder, DOCUMENTS, activation_fn=nn.Identity()), abs=NEAR)


def test_what_is_too_long_is_cut_as_the_library_cuts_it(folder: Path) -> None:
    """Documents far too long and just too long, beside queries short and so long that both texts are cut."""
    model, encoder = opened(folder), library(folder)
    long = tuple(f"{number} " + "the whale sings, " * number for number in (10, 24, 25, 26, 60, 300))
    for query in (QUERY, "what is it?"):
        prepared = pairs(model, works(long, query))
        features = encoder.preprocess([(query, document) for document in long])
        assert [one.tokens for one in prepared] == features["attention_mask"].sum(1).tolist()
        assert max(one.tokens for one in prepared) == model.traits.max_tokens
        assert rank(model, works(long, query)) == pytest.approx(predict(encoder, long, query), abs=NEAR)


@pytest.mark.parametrize("word", ["whale ", "wh", "incomprehensibilities ", "\n \t" * 20 + "a ", "\u2003blue, "])
def test_huge_documents_have_the_tokens_of_the_whole(folder: Path, word: str) -> None:
    """They are not read to their end; what is read of them is what would be read of all."""
    model, encoder = opened(folder, warmup=False), library(folder)
    huge = word * (20_000 // len(word))
    (prepared,) = pairs(model, works([huge]))
    assert prepared.payload.ids == encoder.preprocess([(QUERY, huge)])["input_ids"][0].tolist()
    begin = word * 100
    (few,) = pairs(model, works([huge], max_document_tokens=20))
    assert few.payload.ids == pairs(model, works([begin], max_document_tokens=20))[0].payload.ids


@pytest.mark.parametrize("kind", ["bert", "roberta", "qwen3"])
def test_the_longer_text_is_cut_first(tmp_path: Path, kind: str) -> None:
    folder = write_cross_encoder(tmp_path / "model", kind=kind)
    model, encoder = opened(folder), library(folder)
    room = model.traits.max_tokens
    for query_words in (1, 20, 28, 30, 32):
        query = "a " * query_words
        for words in (1, 20, 60, 64, 65, 70, 500):
            document = "b " * words
            (prepared,) = pairs(model, works([document], query))
            ids = encoder.preprocess([(query, document)])["input_ids"][0].tolist()
            assert prepared.payload.ids == ids, f"{query_words} and {words} words of {room} tokens"


@pytest.mark.parametrize(
    ("options", "near"),
    [
        ({"dtype": "bfloat16"}, 0.1),
        ({"dtype": "float16"}, 0.02),
        ({"attn_implementation": "eager"}, NEAR),
        ({"device_map": "auto"}, NEAR),
    ],
)
def test_options_of_loading_change_little(folder: Path, options: dict[str, Any], near: float) -> None:
    changed, plain = (opened(folder, activation="sigmoid", **given) for given in (options, {}))
    assert rank(changed, works(DOCUMENTS[:5])) == pytest.approx(rank(plain, works(DOCUMENTS[:5])), abs=near)


def test_an_activation_can_be_chosen(tmp_path: Path) -> None:
    folder = write_cross_encoder(tmp_path / "model", activation="torch.nn.modules.linear.Identity")
    plain = rank(opened(folder), works())
    assert rank(opened(folder, activation="none"), works()) == plain
    between = rank(opened(folder, activation="sigmoid"), works())
    assert all(0 < score < 1 for score in between)
    order = sorted(range(len(plain)), key=plain.__getitem__)
    assert order == sorted(range(len(plain)), key=between.__getitem__)


def test_instructions_are_the_prompts_of_the_library(tmp_path: Path) -> None:
    folder = write_yes_no(tmp_path / "model")
    model, encoder = opened(folder), library(folder)
    told = "Find what contradicts it"
    asked = works(DOCUMENTS[:4], instruction=told)
    assert rank(model, asked) == pytest.approx(predict(encoder, DOCUMENTS[:4], prompt=told), abs=NEAR)
    assert rank(model, asked) != pytest.approx(rank(model, works(DOCUMENTS[:4])), abs=1e-4)
    default = opened(folder, instruction=told)
    assert rank(default, works(DOCUMENTS[:4])) == rank(model, asked)


def test_a_family_says_what_a_decoder_reads(tmp_path: Path) -> None:
    """A bare language model gives the scores that the library gives once it has been told the same by hand."""
    from sentence_transformers import CrossEncoder
    from sentence_transformers.base.modules import Transformer
    from sentence_transformers.cross_encoder.modules import LogitScore

    from modelrack.testing.encoders import write_qwen3
    from modelrack.testing.st_rerank import PAIR_PROMPT

    folder = write_qwen3(tmp_path / "model", head="causal", ends_texts=False)
    prompt = {
        "template": PAIR_PROMPT,
        "instruction": "Find what answers the query",
        "true_token": "y",
        "false_token": "n",
    }
    model = opened(folder, {"prompt": prompt})
    arguments: Any = {"local_files_only": True}
    module = Transformer(
        str(folder),
        transformer_task="text-generation",
        model_kwargs=arguments,
        processor_kwargs={**arguments, "chat_template": PAIR_TEMPLATE},
        config_kwargs=arguments,
    )
    yes, no = (module.tokenizer.convert_tokens_to_ids(one) for one in ("y", "n"))
    encoder = CrossEncoder(modules=[module, LogitScore(yes, no)], device="cpu")
    documents = (*DOCUMENTS[:5], "the whale sings " * 60)
    assert rank(model, works(documents)) == pytest.approx(predict(encoder, documents), abs=NEAR)
    other = works(documents, instruction="Find lies")
    assert rank(model, other) == pytest.approx(predict(encoder, documents, prompt="Find lies"), abs=NEAR)
    options: dict[str, Any] = {
        "prompt": PAIR_PROMPT,
        "instruction": prompt["instruction"],
        "true_token": "y",
        "false_token": "n",
    }
    assert rank(opened(folder, **options), works(documents)) == rank(model, works(documents))
    alone = opened(folder, {"prompt": prompt}, false_token="")
    assert rank(alone, works(documents)) != pytest.approx(rank(model, works(documents)), abs=1e-3)


def test_a_family_says_what_is_put_around_queries(tmp_path: Path) -> None:
    folder = write_cross_encoder(tmp_path / "model")
    prompt = {"query_template": "query: {query}", "instructed_query_template": "task: {instruction} query: {query}"}
    model, encoder = opened(folder, {"prompt": prompt}), library(folder)
    assert rank(model, works()) == pytest.approx(predict(encoder, DOCUMENTS, f"query: {QUERY}"), abs=NEAR)
    told = rank(model, works(instruction="lie"))
    assert told == pytest.approx(predict(encoder, DOCUMENTS, f"task: lie query: {QUERY}"), abs=NEAR)
