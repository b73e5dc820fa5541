"""The real server with the subject's language models, and the requests that tests send to it."""

from collections.abc import Mapping
from typing import Any

from .answers import Answer, read_answer, read_events, read_stream
from .served import BaseRig, BaseTarget, together
from .subject import Subject

__all__ = ["CHAT", "COMPLETIONS", "Rig", "Target", "together"]

CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"


class Target(BaseTarget):
    """A language model that runs."""

    subject: Subject

    def cue(self, script: str) -> str:
        """Return the message after which a reciter writes a script."""
        assert self._cue is not None
        return self._cue(script)

    def ask(self, path: str, body: Mapping[str, Any]) -> Answer:
        """Send a request that must be answered, greedily if it does not say how; `body` may ask for a stream."""
        body = {"temperature": 0, **body}
        response = self.post(path, body)
        assert response.status_code == 200, f"{response.status_code}: {response.text}"
        if not body.get("stream"):
            return read_answer(response.json(), self.uid)
        assert response.headers["content-type"].startswith("text/event-stream"), response.headers["content-type"]
        usage = bool((body.get("stream_options") or {}).get("include_usage"))
        return read_stream(read_events(response.text), self.uid, usage=usage)

    def chat(self, content: str | list[dict[str, Any]], **fields: Any) -> Answer:
        """Chat: the user's message, or all messages."""
        messages = [{"role": "user", "content": content}] if isinstance(content, str) else content
        return self.ask(CHAT, {"messages": messages, **fields})

    def complete(self, prompt: Any, **fields: Any) -> Answer:
        """Complete a prompt."""
        return self.ask(COMPLETIONS, {"prompt": prompt, **fields})

    def either(self, path: str, text: str, **fields: Any) -> Answer:
        """Chat or complete, by the path."""
        return self.chat(text, **fields) if path == CHAT else self.complete(text, **fields)

    def both(self, path: str, text: str, **fields: Any) -> Answer:
        """Chat or complete, whole and streamed; return the whole answer once both have said the same."""
        return self.same(path, _body(path, text, fields))

    def same(self, path: str, body: Mapping[str, Any]) -> Answer:
        """Ask for an answer whole and streamed, and return the whole one once both have said the same."""
        whole = self.ask(path, body)
        stream = self.ask(path, {**body, "stream": True, "stream_options": {"include_usage": True}})
        assert stream.said == whole.said, "the streamed answer is another one"
        assert stream.counts == whole.counts, "the streamed answer has other counts"
        return whole

    def tokens(self, text: str, **fields: Any) -> list[int]:
        """Return the ids of a text's tokens, without those that a model puts around texts."""
        response = self.post("/v1/tokenize", {"prompt": text, "add_special_tokens": False, **fields})
        assert response.status_code == 200, response.text
        ids: list[int] = response.json()["tokens"]
        return ids

    def context_length(self) -> int:
        """Return how many tokens its context holds, as its description says."""
        response = self.http.get(f"/v1/models/{self.uid}")
        assert response.status_code == 200, response.text
        length = response.json().get("context_length")
        assert isinstance(length, int), (
            "its description has no context_length: the family or `Loader.describe` tells it"
        )
        return length


class Rig(BaseRig):
    """A server, the subject, and the subject's models as they are needed."""

    subject: Subject
    target_class = Target

    def target(self, role: str) -> Target:
        """Return the model for a role, launched if it does not run yet."""
        found: Target = super().target(role)
        return found

    def named(self, name: str) -> Target:
        """Return a model that is launched by its name."""
        found: Target = super().named(name)
        return found


def _body(path: str, text: str, fields: Mapping[str, Any]) -> dict[str, Any]:
    if path == CHAT:
        return {"messages": [{"role": "user", "content": text}], **fields}
    return {"prompt": text, **fields}
