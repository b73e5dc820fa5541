"""Texts that no training of the demo models saw, with what they must find: for tests that assert on meaning.

`verified` tells whether both forms of the model were right about a text when the weights were made. Wrong ones stay in
the list: they are what the model cannot do.
"""

import json
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Choice", "HeldOut", "Lookup", "load"]

FOLDER = Path(__file__).resolve().parent / "heldout"


@dataclass(frozen=True, slots=True)
class Lookup:
    """A text whose nearest neighbour among all passages must be the passage with this index.

    Args:
        kind: `question`, `variant` and `statement` are phrasings that training leaves out, `wrapper` known questions in
            unknown wrappers; `fresh` ones were written before any model was measured.
    """

    text: str
    passage: int
    kind: str
    verified: bool


@dataclass(frozen=True, slots=True)
class Choice:
    """A query with its documents, of which the one with the index `right` must come first."""

    query: str
    documents: tuple[str, ...]
    right: int
    kind: str
    verified: bool


@dataclass(frozen=True, slots=True)
class HeldOut:
    """All passages that demo-embedding knows, and the held-out texts of demo-embedding and demo-rerank."""

    passages: tuple[str, ...]
    lookups: tuple[Lookup, ...]
    choices: tuple[Choice, ...]


def load() -> HeldOut:
    """Read the held-out texts."""
    embedding = json.loads((FOLDER / "embedding.json").read_text(encoding="utf-8"))
    rerank = json.loads((FOLDER / "rerank.json").read_text(encoding="utf-8"))
    passages = tuple(embedding["passages"])
    choices = tuple(
        Choice(
            query=row["query"],
            documents=tuple(passages[number] for number in row["documents"]),
            right=row["right"],
            kind=row["kind"],
            verified=row["verified"],
        )
        for row in rerank["choices"]
    )
    return HeldOut(passages, tuple(Lookup(**row) for row in embedding["lookups"]), choices)
