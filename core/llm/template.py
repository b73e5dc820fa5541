"""Chat templates: compiled once, rendered in a sandbox."""

from collections.abc import Mapping
from threading import Lock
from typing import Any

from jinja2 import TemplateError, TemplateSyntaxError, meta, nodes
from jinja2.exceptions import UndefinedError

from ..errors import BadRequest, LaunchFailed
from .sandbox import Sandbox
from .template_budget import Budget, TooExpensive

__all__ = ["ChatTemplate", "TemplateFailed"]

_LONGEST = 1_000_000
"""Characters of a template; the longest of known models' have some fifty thousand."""
_GIVEN = frozenset(("messages", "tools", "add_generation_prompt"))
_FAULTS = (
    *(TemplateError, TypeError, ValueError, LookupError, ArithmeticError, AttributeError),
    *(AssertionError, RuntimeError, MemoryError),
)
"""What a template can bring about by itself."""


class TemplateFailed(BadRequest):
    """The chat template refuses the request, or breaks on it."""

    code = "chat_template_failed"


def _read_first(tree: nodes.Node) -> set[str]:
    """Return the names that a template reads before it sets them: others are its own, even if set in a branch only."""
    is_read: dict[str, bool] = {}
    waiting: list[nodes.Node] = [tree]
    while waiting:
        node = waiting.pop()
        if isinstance(node, nodes.Name):
            is_read.setdefault(node.name, node.ctx == "load")
        children = list(node.iter_child_nodes())
        if isinstance(node, nodes.Assign):
            # What is assigned is computed before.
            children.reverse()
        waiting.extend(reversed(children))
    return {name for name, first in is_read.items() if first}


class ChatTemplate:
    """A model's chat template.

    Args:
        source: Jinja, as Transformers reads it.
        variables: what every rendering has (`bos_token`, …).

    Raises: LaunchFailed: it cannot be compiled.
    """

    def __init__(self, source: str, variables: Mapping[str, Any]) -> None:
        if len(source) > _LONGEST:
            raise LaunchFailed(f"The chat template is too long: {len(source)} characters, of at most {_LONGEST}.")
        self.source = source
        self._given = dict(variables)
        self._sandbox = Sandbox()
        self._lock = Lock()
        try:
            self._template = self._sandbox.from_string(source)
            tree = self._sandbox.parse(source)
            found = meta.find_undeclared_variables(tree) & _read_first(tree)
        except TemplateSyntaxError as error:
            reason = f"line {error.lineno}: {(error.message or '').rstrip('.')}"
            raise LaunchFailed(f"The chat template cannot be compiled: {reason}.") from error
        except (RecursionError, SyntaxError, MemoryError, ValueError) as error:
            raise LaunchFailed(f"The chat template cannot be compiled: it is nested too deeply ({error}).") from error
        self.reads = frozenset(found) - self._sandbox.globals.keys()
        """Names of the variables that it looks at."""
        self.variables = self.reads - _GIVEN - variables.keys()
        """Of these, those that a request may set."""

    def render(self, values: Mapping[str, Any]) -> str:
        """Return the prompt.

        Raises: TemplateFailed: with the template's message.
        """
        with self._lock:
            self._sandbox.budget = Budget(len(values.get("messages", ())))
            try:
                return self._template.render({**self._given, **values})
            except UndefinedError as error:
                reason = f"The chat template cannot be used with this request: {error.message}."
                raise TemplateFailed(reason, param="messages") from error
            except TooExpensive as error:
                text = f"The chat template of this model is not run to its end: {error.message}."
                raise TemplateFailed(text, param="messages") from error
            except _FAULTS as error:
                raise TemplateFailed(f"The chat template refuses this request: {error}", param="messages") from error
