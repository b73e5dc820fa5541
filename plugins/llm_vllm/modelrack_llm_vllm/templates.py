"""Chat templates: where they are found, and how vLLM is given prompts that have been written already."""

from pathlib import Path

import orjson

__all__ = ["PROMPT", "folder_template", "read_template", "wrap_template"]

PROMPT = "modelrack_prompt"
"""The variable by which a chat template is given a prompt that has been written already."""

_MOST_BYTES = 1 << 20


def wrap_template(source: str) -> str:
    """Return a chat template that passes a prompt on that has been written already, and else is the given one."""
    return f"{{%- if {PROMPT} is defined %}}{{{{ {PROMPT} }}}}{{%- else %}}{source}{{%- endif %}}"


def folder_template(folder: Path) -> str | None:
    """Return the chat template in a model's folder, or None."""
    try:
        return read_template(folder / "chat_template.jinja")
    except (OSError, ValueError):
        pass
    try:
        value = orjson.loads((folder / "tokenizer_config.json").read_bytes()).get("chat_template")
    except (OSError, ValueError, AttributeError):
        return None
    if isinstance(value, list):  # several, by name
        named = {one.get("name"): one.get("template") for one in value if isinstance(one, dict)}
        value = named.get("default") or next(iter(named.values()), None)
    return value if isinstance(value, str) else None


def read_template(path: Path) -> str:
    """Return a template in a file of its own.

    Raises: OSError, ValueError: it cannot be read, or is no text of such a size.
    """
    if path.stat().st_size > _MOST_BYTES:
        raise ValueError("it is too large for a template")
    return path.read_text(encoding="utf-8")
