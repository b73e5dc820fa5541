"""From what llama.cpp says went wrong to the errors that clients see."""

import re
from typing import Any

from modelrack.errors import BadRequest, EngineError, ModelrackError, NotReady

__all__ = ["ContextLengthExceeded", "explain_exception", "explain_fault"]

_FIELD = re.compile(r"^Field '([^']+)': (.*)$", re.DOTALL)
_MEDIA = re.compile(r"failed to load image|invalid url|base64|image_url|input_audio", re.IGNORECASE)
_JSON_NOISE = re.compile(r"\[json\.exception\.[\w.]+\] ")
_PUBLIC_NAMES = {
    "n_predict": "max_tokens",
    "repeat_penalty": "repetition_penalty",
    "n_probs": "logprobs",
    "json_schema": "response_format",
    "grammar": "guided_grammar",
    "n_cmpl": "n",
}


class ContextLengthExceeded(BadRequest):
    """The prompt does not fit into the context."""

    code = "context_length_exceeded"


def explain_fault(fault: dict[str, Any]) -> ModelrackError:
    """Make an error of the `error` object in one of llama.cpp's answers."""
    message = _JSON_NOISE.sub("", str(fault.get("message", "the engine gave no reason"))).strip()
    code = fault.get("code")
    if fault.get("type") == "exceed_context_size_error":
        return _too_long(fault)
    if isinstance(code, int) and 400 <= code < 500:
        return _bad_request(message)
    if code == 503:
        return NotReady(_sentence(message), headers={"Retry-After": "1"})
    return EngineError(f"llama.cpp failed: {_sentence(message)}")


def explain_exception(error: BaseException) -> ModelrackError:
    """Make an error of an exception out of one of llama.cpp's calls.

    They are thrown while it reads the request, by its checks and by the chat template (`raise_exception`), so they are
    the client's; anything else is no ValueError or RuntimeError.
    """
    if isinstance(error, ModelrackError):
        return error
    if isinstance(error, (ValueError, RuntimeError)):
        return _bad_request(_JSON_NOISE.sub("", str(error)).strip())
    return EngineError(f"llama.cpp failed: {type(error).__name__}: {error}")


def _too_long(fault: dict[str, Any]) -> ModelrackError:
    tokens, limit = fault.get("n_prompt_tokens"), fault.get("n_ctx")
    return ContextLengthExceeded(
        f"The prompt has {tokens} tokens, and the context of this model holds {limit}.",
        details={"prompt_tokens": tokens, "context_length": limit},
    )


def _bad_request(message: str) -> ModelrackError:
    match = _FIELD.match(message)
    if not match and _MEDIA.search(message):
        return BadRequest(f"'messages': {_sentence(message, capital=False)}", param="messages")
    if not match:
        return BadRequest(_sentence(message))
    name = _PUBLIC_NAMES.get(match[1], match[1])
    return BadRequest(f"'{name}': {_sentence(match[2], capital=False)}", param=name)


def _sentence(text: str, *, capital: bool = True) -> str:
    text = " ".join(text.split()).strip()
    if capital:
        text = text[:1].upper() + text[1:]
    return text if text.endswith((".", "!", "?")) else f"{text}."
