"""Make small GGUF models that write given texts, token for token; needs the packages `gguf` and `numpy`.

Such a model has no attention and no feed-forward part: its embeddings are one-hot, and its output matrix leads from
each token to the one that follows it. So a real engine that decodes it greedily recites: which text it begins is told
by the last token of the prompt, its cue. What an engine makes of an answer (tool calls, reasoning, stop strings,
characters that span tokens) can then be compared with what the model is known to have written.

Each token has one successor only, so no token comes twice: the texts are cut into pieces that all differ, and that keep
to no border of words or characters.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from .gguf import CONTROL, NORMAL, byte_alphabet

__all__ = ["CHAT_TEMPLATE", "HEAD", "USER_DEFINED", "Vocabulary", "cut", "write_recital"]

CHAT_TEMPLATE = """\
{%- if tools %}
{{- '<|im_start|>system\\n' }}
{%- if messages[0].role == 'system' %}{{- messages[0].content + '\\n\\n' }}{%- endif %}
{{- '# Tools\\n\\nYou may call functions. Their signatures are within <tools></tools>:\\n<tools>' }}
{%- for tool in tools %}{{- '\\n' }}{{- tool | tojson }}{%- endfor %}
{{- '\\n</tools>\\n\\nFor each call, return a JSON object with name and arguments within <tool_call></tool_call>:\\n' }}
{{- '<tool_call>\\n{"name": <function-name>, "arguments": <args-json-object>}\\n</tool_call><|im_end|>\\n' }}
{%- elif messages[0].role == 'system' %}
{{- '<|im_start|>system\\n' + messages[0].content + '<|im_end|>\\n' }}
{%- endif %}
{%- for message in messages %}
{%- if message.role == 'user' or (message.role == 'system' and not loop.first) %}
{{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}
{%- elif message.role == 'assistant' %}
{{- '<|im_start|>assistant\\n' }}
{%- if message.reasoning_content %}{{- '<think>\\n' + message.reasoning_content + '\\n</think>\\n\\n' }}{%- endif %}
{%- if message.content %}{{- message.content }}{%- endif %}
{%- for tool_call in message.tool_calls or [] %}
{%- if tool_call.function %}{%- set tool_call = tool_call.function %}{%- endif %}
{{- '\\n<tool_call>\\n{"name": "' + tool_call.name + '", "arguments": ' }}
{%- if tool_call.arguments is string %}{{- tool_call.arguments }}
{%- else %}{{- tool_call.arguments | tojson }}{%- endif %}
{{- '}\\n</tool_call>' }}
{%- endfor %}
{{- '<|im_end|>\\n' }}
{%- elif message.role == 'tool' %}
{{- '<|im_start|>user\\n<tool_response>\\n' + message.content + '\\n</tool_response><|im_end|>\\n' }}
{%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
{{- '<|im_start|>assistant\\n' }}
{%- if enable_thinking is defined and enable_thinking is false %}{{- '<think>\\n\\n</think>\\n\\n' }}{%- endif %}
{{- cue | default(messages[-1].content) }}
{%- endif %}
"""
"""A template in the manner of Hermes and Qwen; it ends with the cue: the variable `cue`, or the last message."""

USER_DEFINED = 4
"""Type of tokens, in a GGUF file, that are found in prompts as they are."""

HEAD = 64
"""Width of an attention head, and of the feed-forward part."""

_SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
_LONGEST = 12
_CHOSEN, _SPREAD = 20.0, 0.5
"""Logit of a token's successor, and the deviation of the others', whose mean is zero."""


def cut(texts: Iterable[str], controls: Sequence[str] = ()) -> list[list[bytes]]:
    """Cut texts into pieces of a few bytes, all of them different; return the pieces of each text.

    Args:
        controls: names of special tokens in the texts; each is a piece of its own, and may come once.

    Raises: ValueError: it cannot be done; a text repeats itself too much.
    """
    used: set[bytes] = set()
    names = [name.encode() for name in controls]
    return [_cut(text.encode(), names, used) for text in texts]


def _cut(data: bytes, controls: Sequence[bytes], used: set[bytes]) -> list[bytes]:
    """Return pieces that are not used yet, and add them to these; a dead end is left by taking other lengths before."""
    pieces: list[bytes] = []
    tries: list[Iterator[int]] = [iter(_lengths(data, 0, controls))]
    at = 0
    while at < len(data):
        length = next(tries[-1], None)
        if length is None:
            tries.pop()
            if not pieces:
                raise ValueError(f"{data.decode()!r} cannot be cut into pieces that all differ")
            last = pieces.pop()
            used.discard(last)
            at -= len(last)
        elif (piece := data[at : at + length]) not in used:
            used.add(piece)
            pieces.append(piece)
            at += length
            tries.append(iter(_lengths(data, at, controls)))
    return pieces


def _lengths(data: bytes, at: int, controls: Sequence[bytes]) -> list[int]:
    """Return the lengths that a piece may have, the preferred first."""
    name = next((name for name in controls if data.startswith(name, at)), None)
    if name is not None:
        return [len(name)]
    room = min([found for name in controls if (found := data.find(name, at)) >= 0], default=len(data)) - at
    # A single byte of ASCII would also end prompts that are no cue.
    first = 1 if at < len(data) and data[at] >= 0x80 else 2 + at % 3
    order = [*range(first, _LONGEST + 1), *range(2, first)]
    return [length for length in order if length <= room]


def write_recital(
    path: Path,
    scripts: Mapping[str, str],
    *,
    controls: Sequence[str] = (),
    chat_template: str = CHAT_TEMPLATE,
    context: int = 2048,
) -> Path:
    """Write a model that says a text when a prompt ends with its cue, and nothing to any other; return its path.

    Args:
        scripts: the texts by their cues. A cue must not be part of a text, nor of what prompts say otherwise.
        controls: names of special tokens that stand in the texts.
        context: tokens of prompt and answer together.

    Raises: ValueError: a text cannot be cut into pieces that all differ.
    """
    import gguf  # type: ignore[import-untyped, unused-ignore]

    vocabulary = Vocabulary(scripts, controls)
    width = vocabulary.width
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name("recital")
    writer.add_context_length(context)
    writer.add_embedding_length(width)
    writer.add_block_count(1)
    writer.add_feed_forward_length(HEAD)
    writer.add_head_count(width // HEAD)
    writer.add_head_count_kv(1)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(HEAD)
    writer.add_file_type(1)
    vocabulary.write(writer)
    writer.add_chat_template(chat_template)
    for name, weights in vocabulary.weights():
        writer.add_tensor(f"{name}.weight", weights.astype("float16") if weights.ndim > 1 else weights)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


class Vocabulary:
    """The 256 bytes, the special tokens, the cues and the pieces, and what follows what.

    Args: as of `write_recital`.
    """

    def __init__(self, scripts: Mapping[str, str], controls: Sequence[str] = ()) -> None:
        alphabet = byte_alphabet()
        texts = cut(scripts.values(), controls)
        self.names = list(alphabet)
        self.types = [NORMAL] * len(alphabet)
        self.ids = {bytes([value]): value for value in range(256)}
        for name in (*_SPECIAL, *controls):
            self._add(name.encode(), name, CONTROL)
        self.end = self.ids[b"<|im_end|>"]
        for data in (*(cue.encode() for cue in scripts), *(piece for text in texts for piece in text)):
            if data in self.ids:
                continue
            # ASCII is found in prompts as it is; other pieces only ever come out. Raw, they could have a byte's name.
            if data.isascii():
                self._add(data, data.decode(), USER_DEFINED)
            else:
                self._add(data, "".join(alphabet[value] for value in data), NORMAL)
        self._successors: dict[int, int] = {}
        for cue, pieces in zip(scripts, texts, strict=True):
            ids = [self.ids[cue.encode()], *(self.ids[piece] for piece in pieces), self.end]
            self._successors.update(pairwise(ids))
        self.width = -(-len(self.names) // HEAD) * HEAD

    def _add(self, data: bytes, name: str, kind: int) -> None:
        self.ids[data] = len(self.names)
        self.names.append(name)
        self.types.append(kind)

    def write(self, writer: Any) -> None:
        """Add the tokenizer to a file."""
        writer.add_tokenizer_model("gpt2")
        writer.add_tokenizer_pre("gpt-2")
        writer.add_token_list(self.names)
        writer.add_token_types(self.types)
        writer.add_token_merges(["Ġ Ġ"])
        writer.add_bos_token_id(self.ids[b"<|endoftext|>"])
        writer.add_eos_token_id(self.end)
        writer.add_add_bos_token(False)

    def weights(self) -> Iterator[tuple[str, Any]]:
        """Yield the weights of the model: GGUF's name without `.weight`, and a float32 array."""
        import numpy as np

        tokens, width = len(self.names), self.width
        # The norm makes sqrt(width) of a one-hot vector's one.
        scale = width**-0.5
        output = np.random.default_rng(0).standard_normal((tokens, width)).astype(np.float32) * (_SPREAD * scale)
        for token in range(tokens):
            output[self._successors.get(token, self.end), token] = _CHOSEN * scale
        yield "token_embd", np.eye(tokens, width, dtype=np.float32)
        sizes = {
            "attn_q": (width, width),
            "attn_k": (HEAD, width),
            "attn_v": (HEAD, width),
            "attn_output": (width, width),
            "ffn_gate": (HEAD, width),
            "ffn_up": (HEAD, width),
            "ffn_down": (width, HEAD),
        }
        for name, size in sizes.items():
            yield f"blk.0.{name}", np.zeros(size, dtype=np.float32)
        yield "output", output
        for name in ("blk.0.attn_norm", "blk.0.ffn_norm", "output_norm"):
            yield name, np.ones(width, dtype=np.float32)
