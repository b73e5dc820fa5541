"""Hook implementations: the families of `families.jsonl`, one a line."""

from pathlib import Path

from modelrack.hooks import Family, hookimpl, read_families

MODELRACK_API = 1

_FILE = Path(__file__).with_name("families.jsonl")


@hookimpl
def register_families() -> list[Family]:
    """Read all families; takes some milliseconds."""
    return read_families(_FILE, "LLM")
