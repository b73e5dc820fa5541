"""How far the making of an environment is."""

import json
import re
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from packaging.utils import canonicalize_name

from .lock import Locked

__all__ = ["Progress", "Report", "Tracker"]

_STARTED = re.compile(r"^\s*(?:Downloading|Building) (\S+)")
_DONE = re.compile(r"^\s*(?:Downloaded|Built) (\S+)")

_SHARE_S = 0.3
_UNPACKED = 3.0
"""How much larger files are than the wheel they come from, roughly: uv unpacks while it fetches."""

_RESOLVED = 0.05
_FETCHED = 0.85
_INSTALLED = 0.95


@dataclass(frozen=True, slots=True)
class Progress:
    """How far it is.

    Args:
        fraction: 0 to 1; never less than before.
        detail: what is done at the moment, as a clause.
        done_bytes, total_bytes: of the files that are fetched; 0 as long as that is not known. What is done is never
            less than before either: it is a guess while uv unpacks, and the guess may have been too high.
    """

    fraction: float
    detail: str
    done_bytes: int = 0
    total_bytes: int = 0
    stage: str = "environment"


Report = Callable[[Progress], None]


class Tracker:
    """Turn what uv writes into reports."""

    def __init__(self, report: Report | None) -> None:
        self._report = report
        self._share: Callable[[bytes], None] | None = None
        self._shared = ("", 0.0)
        self._sizes: dict[str, int] = {}
        self._fetching: list[str] = []
        self._done_bytes = 0
        self._unpacked_bytes = 0
        self._seen_bytes = 0
        self._total_bytes = 0
        self._fraction = 0.0

    def share(self, write: Callable[[bytes], None]) -> None:
        """Tell those who wait for the same environment too: what is new at once, how far it is not too often."""
        self._share = write

    def follow(self, said: bytes) -> None:
        """Report what the process says that makes the environment."""
        try:
            fraction, detail, done_bytes, total_bytes = json.loads(said)
            self._seen_bytes, self._total_bytes = max(self._seen_bytes, int(done_bytes)), int(total_bytes)
            self.tell(str(detail), float(fraction))
        except (ValueError, TypeError):
            self.tell("waiting for another process that makes the same environment")

    def tell(self, detail: str, fraction: float = 0.0) -> None:
        """Report what is done now."""
        self._fraction = max(self._fraction, fraction)
        told, at = self._shared
        if self._share is not None and (detail != told or time.monotonic() - at >= _SHARE_S):
            self._shared = (detail, time.monotonic())
            self._share(json.dumps([self._fraction, detail, *self._bytes()]).encode())
        if self._report is not None:
            self._report(Progress(self._fraction, detail, *self._bytes()))

    def _bytes(self) -> tuple[int, int]:
        """Return how much has been fetched, as far as that can be seen, and how much there is to fetch."""
        fetching = sum(self._sizes.get(name, 0) for name in self._fetching)
        seen = min(self._unpacked_bytes / _UNPACKED, 0.95 * fetching)
        self._seen_bytes = min(max(self._seen_bytes, self._done_bytes + int(seen)), self._total_bytes)
        return self._seen_bytes, self._total_bytes

    def resolved(self, locked: Iterable[Locked]) -> None:
        """Take the sizes of what is going to be fetched."""
        self._sizes = {item.name: item.size_bytes for item in locked}
        self._total_bytes = sum(self._sizes.values())
        self.tell(f"installing {len(self._sizes)} packages", _RESOLVED)

    def on_line(self, line: str) -> None:
        """Read a line of uv's while it installs; large downloads are told by name."""
        if found := _STARTED.match(line):
            self._fetching.append(canonicalize_name(found[1].partition("==")[0]))
        elif found := _DONE.match(line):
            name = canonicalize_name(found[1].partition("==")[0])
            self._fetching = [other for other in self._fetching if other != name]
            self._done_bytes += self._sizes.pop(name, 0)
            self._unpacked_bytes = 0
        elif line.startswith("Prepared "):
            self._done_bytes = self._total_bytes
            self._fetching = []
            self.tell("installing", _FETCHED)
            return
        elif line.startswith("Installed "):
            self._done_bytes = self._total_bytes
            self.tell("checking", _INSTALLED)
            return
        else:
            return
        self.tell(self._what(), self._fetched())

    def unpacked(self, size_bytes: int) -> None:
        """Take how much of what is being fetched lies on the disk already: a large file takes long."""
        if self._fetching and size_bytes != self._unpacked_bytes:
            self._unpacked_bytes = size_bytes
            self.tell(self._what(), self._fetched())

    def _what(self) -> str:
        if not self._fetching:
            return "installing"
        shown = ", ".join(self._fetching[:3])
        return f"fetching {shown}{' …' if len(self._fetching) > 3 else ''}"

    def _fetched(self) -> float:
        done, total = self._bytes()
        return _RESOLVED + (_FETCHED - _RESOLVED) * min(1.0, done / total) if total else 0.0
