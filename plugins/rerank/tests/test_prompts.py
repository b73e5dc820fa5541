"""Texts that queries and documents are put into; needs no engine."""

import pytest

from modelrack_rerank.prompts import derive, parse


def test_texts_are_put_in_once() -> None:
    """What stands in a query is no place for a document."""
    layout = parse("<{instruction}> Q {query} D {document}!")
    assert layout is not None and layout.takes_instruction
    fields = {"query": "{document} {query}", "instruction": "{query}"}
    assert layout.fill(document="{query}", **fields) == "<{query}> Q {document} {query} D {query}!"
    assert layout.before_document(**fields) == "<{query}> Q {document} {query} D "
    assert layout.after_document(**fields) == "!"


@pytest.mark.parametrize("template", ["", "{query}", "{document}", "{query}{document}{document}", "{{query}} {doc}"])
def test_templates_need_both(template: str) -> None:
    assert parse(template) is None


def test_what_is_behind_the_document_may_be_an_instruction() -> None:
    layout = parse("A: {query}\nB: {document}\n{instruction}")
    assert layout is not None
    assert layout.after_document(query="q", instruction="Yes?") == "\nYes?"


def test_a_rendering_is_found_out() -> None:
    layout = derive(lambda query, document, instruction="": f"s {instruction}\nq {query}\nd {document} a")
    assert layout is not None and layout.takes_instruction
    assert layout.fill(query="1", document="2", instruction="0") == "s 0\nq 1\nd 2 a"
    swapped = derive(lambda query, document, instruction="": f"{document}|{query}")
    assert swapped is not None and not swapped.takes_instruction
    assert swapped.fill(query="1", document="2") == "2|1"


@pytest.mark.parametrize("kind", ["strips", "escapes", "forgets", "repeats", "raises"])
def test_what_does_more_is_refused(kind: str) -> None:
    def render(query: str, document: str, instruction: str = "") -> str:
        return {
            "strips": lambda: f"{query.strip()} {document}",
            "escapes": lambda: f"{query} {document.replace('<b>', '&lt;b&gt;')}",
            "forgets": lambda: query,
            "repeats": lambda: f"{query} {document} {document}",
            "raises": lambda: str(1 // 0),
        }[kind]()

    assert derive(render) is None
