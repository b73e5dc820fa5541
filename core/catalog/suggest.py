"""Guess what a mistyped name was meant to be."""

from collections.abc import Iterable
from difflib import get_close_matches

__all__ = ["did_you_mean", "listing", "suggestions"]

_LONGEST = 100


def suggestions(name: str, known: Iterable[str], limit: int = 3) -> list[str]:
    """Return the known names closest to `name`.

    Best first: those that differ in case and punctuation, those that contain it, those that are similar.
    """
    folded: dict[str, list[str]] = {}
    for candidate in known:
        folded.setdefault(_fold(candidate), []).append(candidate)
    wanted = _fold(name[:_LONGEST])
    if not wanted:
        return []
    found = dict.fromkeys(folded.get(wanted, ()))
    if len(wanted) >= 3:
        inside = sorted(
            (key for key in folded if wanted in key), key=lambda key: (not key.startswith(wanted), len(key), key)
        )
        found.update(dict.fromkeys(candidate for key in inside[:limit] for candidate in folded[key]))
    for key in get_close_matches(wanted, folded, n=limit, cutoff=0.6):
        found.update(dict.fromkeys(folded[key]))
    return list(found)[:limit]


def did_you_mean(name: str, known: Iterable[str], limit: int = 3) -> str:
    """Return ` Did you mean 'a' or 'b'?`, with its leading blank, or an empty string if nothing is close."""
    close = [f"'{candidate}'" for candidate in suggestions(name, known, limit)]
    if not close:
        return ""
    return f" Did you mean {' or '.join(filter(None, (', '.join(close[:-1]), close[-1])))}?"


def listing(names: Iterable[str], limit: int = 20) -> str:
    """Join names for a message, cutting a long list; `nothing` if there are none."""
    unique = list(dict.fromkeys(names))
    if not unique:
        return "nothing"
    more = len(unique) - limit
    return ", ".join(unique[:limit]) + (f" and {more} more" if more > 0 else "")


def _fold(name: str) -> str:
    return "".join(character for character in name.lower() if character.isalnum())
