"""Rerank requests as the clients of Xinference, Jina and Cohere send them, and what is refused by which name."""

import inspect
from typing import Any

import cohere
import orjson
import pytest

from modelrack.api.rerank import MAX_CHARACTERS, MAX_DOCUMENTS, RerankRequest
from modelrack.errors import BadRequest
from modelrack.worker.validation import make_check, make_parser

PARSE = make_parser(RerankRequest)
BASE: dict[str, Any] = {"model": "m", "query": "which?", "documents": ["this", "that"]}


class Plain:
    """A handler that honours nothing beyond the plainest request."""


class Told:
    """A handler that is told the task, and does not cut."""

    def __init__(self) -> None:
        self.supported = ("instruction",)
        self.unsupported = {"max_tokens_per_doc": "it cuts nothing"}


def parse(**fields: Any) -> RerankRequest:
    found: RerankRequest = PARSE(orjson.dumps({**BASE, **fields}))
    make_check(RerankRequest, Plain())(found)
    return found


def refused(handler: object = None, **fields: Any) -> BadRequest:
    with pytest.raises(BadRequest) as caught:
        request = PARSE(orjson.dumps({**BASE, **fields}))
        make_check(RerankRequest, handler or Plain())(request)
    return caught.value


@pytest.mark.parametrize("client", [cohere.Client, cohere.ClientV2])
def test_every_field_of_coheres_sdk_is_known(client: Any) -> None:
    names = set(inspect.signature(client.rerank).parameters) - {"self", "request_options"}
    assert names - set(RerankRequest.model_fields) == set()


@pytest.mark.parametrize(
    "fields",
    [
        # Xinference's client 1.16: every field, null where it is not set, and options twice.
        {
            "top_n": None,
            "max_chunks_per_doc": None,
            "return_documents": None,
            "return_len": None,
            "kwargs": "{}",
        },
        {"top_n": 1, "kwargs": '{"raw_scores": true}', "raw_scores": True},
        # Jina's: objects with a text, whatever else they have.
        {"query": {"text": "which?"}, "documents": [{"text": "this"}, {"text": "that", "id": 5}], "top_n": 2},
        {"truncation": True, "return_documents": True, "return_embeddings": False},
        # Cohere's v1 and v2.
        {"documents": [{"title": "this"}, "that"], "rank_fields": ["title"], "max_chunks_per_doc": 1},
        {"max_tokens_per_doc": 4096, "priority": 0, "top_n": 10, "relevant_spans": {"mode": "disabled"}},
    ],
)
def test_released_clients_are_understood(fields: dict[str, Any]) -> None:
    request = parse(**fields)
    assert request.query == "which?" and len(request.documents) == 2


def test_options_in_kwargs_are_fields() -> None:
    """Xinference's client sends what it does not know as a JSON string."""
    request = parse(kwargs='{"top_n": 1, "truncate": false, "return_len": null}')
    assert (request.top_n, request.truncate, request.return_len) == (1, False, None)
    assert refused(kwargs='{"top_n": 0}').param == "top_n"
    assert refused(kwargs='{"instruction": "do"}').param == "instruction"


@pytest.mark.parametrize(
    ("kwargs", "fields", "param"),
    [
        ("{", {}, "kwargs"),
        ("[]", {}, "kwargs"),
        ('"text"', {}, "kwargs"),
        ('{"no_such": 1}', {}, "kwargs.no_such"),
        ('{"kwargs": "{}"}', {}, "kwargs.kwargs"),
        ('{"top_n": 2}', {"top_n": 1}, "kwargs.top_n"),
        (5, {}, "kwargs"),
        ({}, {}, "kwargs"),
    ],
)
def test_kwargs_that_say_nothing_clear_are_refused(kwargs: Any, fields: dict[str, Any], param: str) -> None:
    assert refused(kwargs=kwargs, **fields).param == param


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"query": None}, "query"),
        ({"query": ""}, "query"),
        ({"query": " \n"}, "query"),
        ({"query": 5}, "query"),
        ({"query": {"image": "x"}}, "query"),
        ({"query": {"text": "a", "image": "x"}}, "query"),
        ({"query": {"text": 5}}, "query"),
        ({"query": "a" * (MAX_CHARACTERS + 1)}, "query"),
        ({"documents": None}, "documents"),
        ({"documents": []}, "documents"),
        ({"documents": "this"}, "documents"),
        ({"documents": {"text": "this"}}, "documents"),
        ({"documents": ["this"] * (MAX_DOCUMENTS + 1)}, "documents"),
        ({"documents": ["this", 5]}, "documents.1"),
        ({"documents": ["this", None, 5]}, "documents.1"),
        ({"documents": [["this"]]}, "documents.0"),
        ({"top_n": 0}, "top_n"),
        ({"top_n": "all"}, "top_n"),
        ({"top_n": 1.5}, "top_n"),
        ({"max_tokens_per_doc": 0}, "max_tokens_per_doc"),
        ({"max_chunks_per_doc": 10}, "max_chunks_per_doc"),
        ({"rank_fields": []}, "rank_fields"),
        ({"rank_fields": "text"}, "rank_fields"),
        ({"rank_fields": [""]}, "rank_fields.0"),
        ({"return_documents": "perhaps"}, "return_documents"),
        ({"return_embeddings": True}, "return_embeddings"),
        ({"instruction": "do"}, "instruction"),
        ({"relevant_spans": {"mode": "enabled", "threshold": 0.1, "max_spans": 3}}, "relevant_spans"),
        ({"relevant_spans": {"mode": "perhaps"}}, "relevant_spans.mode"),
        ({"relevant_spans": True}, "relevant_spans"),
        ({"priority": 5}, "priority"),
        ({"priority": 1000}, "priority"),
        ({"rank_field": ["a"]}, "rank_field"),
        ({"model": ""}, "model"),
    ],
)
def test_what_is_wrong_is_named(fields: dict[str, Any], param: str) -> None:
    error = refused(**fields)
    assert error.status == 400 and error.param == param
    assert len(error.message) < 300


def test_truncate_and_truncation_are_one() -> None:
    assert parse(truncation=False).truncate is False
    assert parse(truncate=True, truncation=True).truncate is True
    assert "contradict" in refused(truncate=True, truncation=False).message


def test_a_handler_may_honour_more_or_less() -> None:
    told = make_check(RerankRequest, Told())
    told(PARSE(orjson.dumps({**BASE, "instruction": "do"})))
    assert "it cuts nothing" in refused(Told(), max_tokens_per_doc=5).message
