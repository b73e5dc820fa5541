"""The inference calls on JSON: what each sends and how its answer is read. Nothing here does I/O."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from .call import Call, Reply

Json = dict[str, Any]


def _reply(config: Mapping[str, Any]) -> Reply:
    return Reply.EVENTS if config.get("stream") else Reply.JSON


def generate(self: Any, /, prompt: str | list[Any], generate_config: Mapping[str, Any] | None = None) -> Call[Any]:
    """Complete a prompt.

    Args:
        prompt: text, several texts, or token ids.
        generate_config: further fields of the request (`max_tokens`, `temperature`, `stream`, …).

    Returns: the completion; with `stream` an iterator over its chunks, which raises if the stream tells of an error
        and, when it is closed, ends the work on the answer.
    """
    config = dict(generate_config or {})
    return Call(
        method="POST",
        path="/v1/completions",
        body={"model": self.model_uid, "prompt": prompt, **config},
        reply=_reply(config),
        action="generate",
    )


def chat(
    self: Any,
    /,
    messages: Sequence[Mapping[str, Any]],
    tools: list[Json] | None = None,
    enable_thinking: bool | None = None,
    generate_config: Mapping[str, Any] | None = None,
) -> Call[Any]:
    """Answer a conversation.

    Args:
        messages: the conversation so far, oldest first.
        tools: functions that the model may call.
        enable_thinking: switch a hybrid model's reasoning on or off for this request.
        generate_config: further fields of the request (`max_tokens`, `temperature`, `stream`, …).

    Returns: the answer; with `stream` an iterator over its chunks, which raises if the stream tells of an error and,
        when it is closed, ends the work on the answer.
    """
    config = dict(generate_config or {})
    body: Json = {"model": self.model_uid, "messages": list(messages), **config}
    if tools is not None:
        body["tools"] = tools
    if enable_thinking is not None:
        body["enable_thinking"] = enable_thinking
    return Call(method="POST", path="/v1/chat/completions", body=body, reply=_reply(config), action="chat")


def create_embedding(self: Any, /, input: Any, **kwargs: Any) -> Call[Json]:
    """Embed a text, a list of texts or token ids.

    Args:
        **kwargs: further fields of the request (`dimensions`, `encoding_format`, …).
    """
    return Call(
        method="POST",
        path="/v1/embeddings",
        body={"model": self.model_uid, "input": input, **kwargs},
        action="create the embeddings",
    )


def convert_ids_to_tokens(self: Any, /, input: list[Any], **kwargs: Any) -> Call[list[Any]]:
    """Return the tokens of a list of token ids, or of several lists."""
    return Call(
        method="POST",
        path="/v1/convert_ids_to_tokens",
        body={"model": self.model_uid, "input": input, **kwargs},
        action="convert the ids",
    )


def tokenize(self: Any, /, text: str, **kwargs: Any) -> Call[Json]:
    """Return the token ids of a text."""
    return Call(
        method="POST",
        path="/v1/tokenize",
        body={"model": self.model_uid, "prompt": text, **kwargs},
        action="tokenize the text",
    )


def detokenize(self: Any, /, tokens: list[int], **kwargs: Any) -> Call[Json]:
    """Return the text of token ids."""
    return Call(
        method="POST",
        path="/v1/detokenize",
        body={"model": self.model_uid, "tokens": tokens, **kwargs},
        action="detokenize the ids",
    )


def rerank(
    self: Any,
    /,
    documents: list[str | Json],
    query: str | Json,
    top_n: int | None = None,
    max_chunks_per_doc: int | None = None,
    return_documents: bool | None = None,
    return_len: bool | None = None,
    **kwargs: Any,
) -> Call[Json]:
    """Order documents by their relevance to a query, best first."""
    given = {
        "top_n": top_n,
        "max_chunks_per_doc": max_chunks_per_doc,
        "return_documents": return_documents,
        "return_len": return_len,
        **kwargs,
    }
    body: Json = {"model": self.model_uid, "documents": documents, "query": query}
    body.update((key, value) for key, value in given.items() if value is not None)
    return Call(method="POST", path="/v1/rerank", body=body, action="rerank the documents")


def text_to_image(
    self: Any, /, prompt: str, n: int = 1, size: str = "1024*1024", response_format: str = "url", **kwargs: Any
) -> Call[Json]:
    """Make images from a text.

    Args:
        size: width and height in pixels, `512*512` or `512x512`.
        response_format: `url` or `b64_json`.
        **kwargs: further parameters of the model.
    """
    body = {
        "model": self.model_uid,
        "prompt": prompt,
        "n": n,
        "size": size,
        "response_format": response_format,
        "kwargs": json.dumps(kwargs),
    }
    return Call(method="POST", path="/v1/images/generations", body=body, action="create the images")


def text_to_video(self: Any, /, prompt: str, n: int = 1, **kwargs: Any) -> Call[Json]:
    """Make videos from a text.

    Args:
        **kwargs: further parameters of the model.
    """
    body = {"model": self.model_uid, "prompt": prompt, "n": n, "kwargs": json.dumps(kwargs)}
    return Call(method="POST", path="/v1/video/generations", body=body, action="create the video", waits=True)
