"""Errors of queries and documents, which name the field and the limit."""

from ..embedding.errors import InputTooLong

__all__ = ["document_too_long", "query_too_long"]


def document_too_long(index: int, tokens: int | None, max_tokens: int) -> InputTooLong:
    """Return the error for a document that does not fit beside its query.

    Args:
        tokens: how many both have, the model's own among them; None if that was not worth counting.
    """
    has = f"makes {tokens} tokens with the query" if tokens is not None else "is far too long"
    return InputTooLong(
        f"'documents.{index}' {has}, and this model reads {max_tokens}.",
        param=f"documents.{index}",
        remedy="Shorten it, or send truncate: true to have it cut.",
        details={"max_tokens": max_tokens} | ({"tokens": tokens} if tokens is not None else {}),
    )


def query_too_long(tokens: int | None, max_tokens: int) -> InputTooLong:
    """Return the error for a query that leaves no room for any document.

    Args:
        tokens: how many it has, the model's own among them; None if that was not worth counting.
    """
    has = f"has {tokens} tokens" if tokens is not None else "is far too long"
    return InputTooLong(
        f"'query' {has}, and this model reads {max_tokens} of query and document together.",
        param="query",
        remedy="Shorten it.",
        details={"max_tokens": max_tokens} | ({"tokens": tokens} if tokens is not None else {}),
    )
