"""Which text is put before inputs, and which task they are computed for."""

from collections.abc import Mapping

from ..api.embeddings import EmbeddingRequest
from ..errors import BadRequest, UnsupportedParameter
from .contract import EmbeddingTraits

__all__ = ["CHARACTERS_PER_TOKEN", "Prompts"]

CHARACTERS_PER_TOKEN = 64
"""No text has fewer tokens than its characters divided by this, but for texts that no model is meant for."""

_ROLES: Mapping[str, tuple[str, ...]] = {
    "query": ("query", "search_query", "retrieval.query", "s2p_query", "web_search_query", "search"),
    "document": ("document", "passage", "search_document", "retrieval.passage", "retrieval.document", "corpus", "text"),
}
"""The two sides of a search, and the names that models and clients have for them."""


class Prompts:
    """Chooses for one model."""

    def __init__(self, traits: EmbeddingTraits) -> None:
        self._prompts = traits.prompts
        self._default = traits.prompts.get(traits.default_prompt or "", "")
        self._tasks = traits.tasks
        self._template = traits.instruction_template
        self._max_tokens = traits.max_tokens
        self._most = None if traits.max_tokens is None else traits.max_tokens * CHARACTERS_PER_TOKEN

    def choose(self, request: EmbeddingRequest, *, are_ids: bool) -> tuple[str, str | None]:
        """Return the prompt and the task of a request.

        Raises: BadRequest: the model has no such prompt or task, the prompt is far too long, or inputs are token ids,
            which take none.
        """
        prompt, task = self._by_use(request)
        field = None
        if request.prompt is not None:
            prompt, field = request.prompt, "prompt"
        elif request.prompt_name is not None:
            prompt, field = self._named(request.prompt_name), "prompt_name"
        elif request.instruction is not None and self._template is not None:
            prompt, field = self._template.replace("{instruction}", request.instruction), "instruction"
        if field and prompt and self._most is not None and len(prompt) > self._most:
            raise BadRequest(
                f"'{field}' is far too long: this model reads {self._max_tokens} tokens, the text among them.",
                param=field,
            )
        if not are_ids:
            return (self._default if prompt is None else prompt), task
        if prompt and field:
            raise UnsupportedParameter(f"'{field}' cannot be put before token ids; send texts.", param=field)
        return "", task

    def _named(self, name: str) -> str:
        if name not in self._prompts:
            known = ", ".join(f"'{one}'" for one in self._prompts)
            has = f"it has {known}" if known else "it has none"
            raise BadRequest(f"'prompt_name': this model has no prompt '{name[:100]}'; {has}.", param="prompt_name")
        return self._prompts[name]

    def _by_use(self, request: EmbeddingRequest) -> tuple[str | None, str | None]:
        """Return what `task` or `input_type` stand for; (None, None): neither is given."""
        field = "task" if request.task is not None else "input_type"
        name = request.task if request.task is not None else request.input_type
        if name is None:
            return None, None
        role = next((role for role, names in _ROLES.items() if name in names), None)
        names = (name, *_ROLES[role]) if role else (name,)
        prompt = next((self._prompts[one] for one in names if self._prompts.get(one)), None)
        task = next((one for one in names if one in self._tasks), None)
        if prompt is None and task is None and role is None and name not in self._prompts:
            known = ", ".join(f"'{one}'" for one in dict.fromkeys((*_ROLES, *self._prompts, *self._tasks)))
            raise BadRequest(f"'{field}': '{name[:100]}' is none that this model knows: {known}.", param=field)
        return prompt or "", task
