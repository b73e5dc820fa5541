"""Texts that a query and a document are put into: what a decoder reads of a pair."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

__all__ = ["Layout", "derive", "parse"]

_FIELD = re.compile(r"\{(instruction|query|document)\}")
_NAMES = ("instruction", "query", "document")


@dataclass(frozen=True, slots=True)
class Layout:
    """A text with places for a query, a document and maybe an instruction.

    Args:
        pieces: texts, and names of fields at the odd places between them.
    """

    pieces: tuple[str, ...]

    @property
    def takes_instruction(self) -> bool:
        """Tell whether it has a place for an instruction."""
        return "instruction" in self.pieces[1::2]

    def fill(self, **fields: str) -> str:
        """Return the text of a pair."""
        return _fill(self.pieces, fields)

    def before_document(self, **fields: str) -> str:
        """Return the text up to the document."""
        return _fill(self.pieces[: self._document], fields)

    def after_document(self, **fields: str) -> str:
        """Return the text behind the document."""
        return _fill(("", "", *self.pieces[self._document + 1 :]), fields)

    @property
    def _document(self) -> int:
        return 2 * self.pieces[1::2].index("document") + 1


def _fill(pieces: Sequence[str], fields: Mapping[str, str]) -> str:
    return "".join(fields.get(piece, "") if index % 2 else piece for index, piece in enumerate(pieces))


def parse(template: str) -> Layout | None:
    """Read a template with `{query}`, `{document}` and maybe `{instruction}`; None: it lacks one of the first two."""
    pieces = tuple(_FIELD.split(template))
    fields = pieces[1::2]
    return Layout(pieces) if fields.count("document") == 1 and "query" in fields else None


def derive(render: Any) -> Layout | None:
    """Find out what a function puts where, by what it makes of marks.

    Rendering is done here once instead of for each pair: templates come with models, and may take their time.

    Args:
        render: makes a text of keyword arguments `query`, `document` and maybe `instruction`; may raise anything.

    Returns: None: it does more than putting them in, as a trial shows, or fails.
    """
    marks = {name: f"<<{name}-7f3a91c6>>" for name in _NAMES}
    try:
        text = render(**marks)
        pieces = tuple(re.split("|".join(f"({re.escape(mark)})" for mark in marks.values()), text))
        found = [piece for piece in pieces if piece is not None]
        layout = Layout(tuple(next((n for n, m in marks.items() if m == piece), piece) for piece in found))
        fields = layout.pieces[1::2]
        if fields.count("document") != 1 or "query" not in fields:
            return None
        trial = {"query": " 1\n{x} ", "document": "\n a <b>&amp; 'c' \"d\"  \n", "instruction": "do it. "}
        return layout if render(**trial) == layout.fill(**trial) else None
    except Exception:  # whatever a template does
        return None
