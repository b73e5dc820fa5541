"""Chat templates that only put texts around messages, and the prompts that they make without being run.

llama.cpp runs the template and makes a parser for every chat, and reads the answer so far again at every token: for a
small model that is a tenth of the time. Where a template never looks at what a message says, it is run once for each
sequence of roles, and a chat with these roles is a completion of the texts in between, with the contents put in.
"""

import asyncio
import re
import secrets
from collections.abc import Mapping, Sequence
from typing import Any

from modelrack.errors import ModelrackError

from .embedded import Embedded

__all__ = ["PlainTemplate", "is_plain"]

_KEEP = 256
_MOST_MESSAGES = 64
_BLOCK = re.compile(
    r"\{%-?\s*(?P<statement>.*?)\s*-?%\}|\{\{-?\s*(?P<expression>.*?)\s*-?\}\}|(?P<other>\{#|\{%|\{\{)", re.DOTALL
)
_STRING = re.compile(r"'(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\"")
_LOOP = re.compile(r"for (\w+) in messages")
_WORD = re.compile(r"[A-Za-z_]\w*|==|!=|\S")
_STATEMENT = frozenset(
    ("if", "elif", "else", "endif", "endfor", "not", "and", "or", "==", "!=", ".", "[", "]", "(", ")", "_")
)
_STATEMENT |= frozenset(("loop", "first", "last", "index0", "0", "1", "messages", "role", "add_generation_prompt"))
_EXPRESSION = frozenset(("role", "content", "bos_token", "eos_token", "+", ".", "[", "]", "(", ")", "_"))


def is_plain(template: str) -> bool:
    """Tell whether what a template writes around messages depends on nothing but their roles.

    It may loop over the messages, ask for roles and positions, and write texts, roles and contents one after the other.
    Anything else (a filter, a call, a variable, a look at a content) makes it no plain one.
    """
    variables: set[str] = set()
    found_loop = False
    for block in _BLOCK.finditer(template):
        if block["other"] is not None:
            return False
        statement = block["statement"]
        loop = _LOOP.fullmatch(statement) if statement is not None else None
        if loop and loop[1] not in _STATEMENT | _EXPRESSION:
            variables.add(loop[1])
            found_loop = True
            continue
        allowed = (_STATEMENT if statement is not None else _EXPRESSION) | variables
        text: str = statement if statement is not None else block["expression"]
        # The name of a field stands as a string in brackets; other strings are text.
        fields = re.sub(r"\[\s*(['\"])(\w+)\1\s*\]", r"[\2]", text)
        words = _WORD.findall(_STRING.sub("_", fields))
        if not all(word in allowed for word in words):
            return False
    return found_loop


class PlainTemplate:
    """Makes prompts of chats for a plain template."""

    def __init__(self, embedded: Embedded) -> None:
        self._embedded = embedded
        self._texts: dict[tuple[str, ...], list[str]] = {}
        self._tasks: dict[tuple[str, ...], asyncio.Task[None]] = {}

    def write(self, messages: Sequence[Mapping[str, Any]]) -> str | None:
        """Return a chat's prompt; None if it is left to the engine, as it is the first time for a sequence of roles."""
        if len(messages) > _MOST_MESSAGES:
            return None
        roles = tuple([message["role"] for message in messages])
        texts = self._texts.get(roles)
        if texts is None:
            if roles not in self._tasks and len(self._tasks) < _KEEP:
                self._tasks[roles] = asyncio.get_running_loop().create_task(self._learn(roles))
            return None
        if not texts:
            return None
        pieces = [texts[0]]
        for message, text in zip(messages, texts[1:], strict=True):
            content = message["content"]
            if type(content) is not str or len(message) != 2:
                return None
            pieces.append(content)
            pieces.append(text)
        return "".join(pieces)

    async def _learn(self, roles: tuple[str, ...]) -> None:
        """Have the engine write a chat with these roles, and take it apart at its contents."""
        marks = [secrets.token_hex(12) for _ in roles]
        messages = [{"role": role, "content": mark} for role, mark in zip(roles, marks, strict=True)]
        try:
            rest = await self._embedded.apply_template({"messages": messages})
        except (ModelrackError, OSError):
            self._texts[roles] = []
            return
        texts = []
        for mark in marks:
            text, found, rest = rest.partition(mark)
            if not found:
                self._texts[roles] = []
                return
            texts.append(text)
        self._texts[roles] = [*texts, rest]
