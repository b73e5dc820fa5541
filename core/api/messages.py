"""Messages, tools and formats of chats, as typed dictionaries: engines and chat templates want them as they came."""

from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Literal, NotRequired, TypeAlias

from pydantic import ConfigDict, Field, with_config
from typing_extensions import TypedDict

from ..errors import UnsupportedParameter

__all__ = ["Message", "NamedTool", "ReasoningEffort", "ResponseFormat", "Tool", "text_messages", "text_of"]

_STRICT = ConfigDict(extra="forbid")


@with_config(_STRICT)
class TextPart(TypedDict):
    """Text."""

    type: Literal["text"]
    text: str


@with_config(_STRICT)
class ImageUrl(TypedDict):
    """An image, as a `data:` or `http(s)` URL."""

    url: str
    detail: NotRequired[Literal["auto", "low", "high"] | None]


@with_config(_STRICT)
class ImagePart(TypedDict):
    """An image."""

    type: Literal["image_url"]
    image_url: ImageUrl


@with_config(_STRICT)
class MediaUrl(TypedDict):
    """Audio or video, as a `data:` or `http(s)` URL."""

    url: str


@with_config(_STRICT)
class VideoPart(TypedDict):
    """A video."""

    type: Literal["video_url"]
    video_url: MediaUrl


@with_config(_STRICT)
class AudioUrlPart(TypedDict):
    """Audio by its URL."""

    type: Literal["audio_url"]
    audio_url: MediaUrl


@with_config(_STRICT)
class InputAudio(TypedDict):
    """Audio in base64."""

    data: str
    format: str


@with_config(_STRICT)
class AudioPart(TypedDict):
    """Audio."""

    type: Literal["input_audio"]
    input_audio: InputAudio


@with_config(_STRICT)
class FilePart(TypedDict):
    """A file."""

    type: Literal["file"]
    file: dict[str, Any]


@with_config(_STRICT)
class RefusalPart(TypedDict):
    """A refusal, in an assistant's message."""

    type: Literal["refusal"]
    refusal: str


Part: TypeAlias = Annotated[
    TextPart | ImagePart | VideoPart | AudioPart | AudioUrlPart | FilePart | RefusalPart, Field(discriminator="type")
]
Content: TypeAlias = str | list[Part]


@with_config(_STRICT)
class FunctionCall(TypedDict):
    """A call of a function; `arguments` is JSON as a string."""

    name: str
    arguments: str


@with_config(_STRICT)
class ToolCall(TypedDict):
    """A call of a tool, in an assistant's message."""

    id: NotRequired[str | None]
    type: NotRequired[Literal["function"] | None]
    function: FunctionCall
    index: NotRequired[int | None]


@with_config(_STRICT)
class InstructionMessage(TypedDict):
    """What the application says."""

    role: Literal["system", "developer"]
    content: Content
    name: NotRequired[str | None]


@with_config(_STRICT)
class UserMessage(TypedDict):
    """What the user says."""

    role: Literal["user"]
    content: Content
    name: NotRequired[str | None]


@with_config(_STRICT)
class AssistantMessage(TypedDict):
    """What the model said, as it was answered."""

    role: Literal["assistant"]
    content: NotRequired[Content | None]
    name: NotRequired[str | None]
    tool_calls: NotRequired[list[ToolCall] | None]
    function_call: NotRequired[FunctionCall | None]
    reasoning_content: NotRequired[str | None]
    reasoning: NotRequired[str | None]
    refusal: NotRequired[str | None]
    annotations: NotRequired[list[Any] | None]
    audio: NotRequired[dict[str, Any] | None]


@with_config(_STRICT)
class ToolMessage(TypedDict):
    """What a tool gave back."""

    role: Literal["tool"]
    content: Content
    tool_call_id: NotRequired[str | None]
    name: NotRequired[str | None]


@with_config(_STRICT)
class FunctionMessage(TypedDict):
    """What a function gave back, in the form before tools."""

    role: Literal["function"]
    content: str | None
    name: str


Message: TypeAlias = Annotated[
    InstructionMessage | UserMessage | AssistantMessage | ToolMessage | FunctionMessage, Field(discriminator="role")
]


@with_config(_STRICT)
class FunctionDefinition(TypedDict):
    """A function that the model may call; `parameters` is a JSON schema."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9_.:/-]{1,128}$")]
    description: NotRequired[str | None]
    parameters: NotRequired[dict[str, Any] | None]
    strict: NotRequired[bool | None]


@with_config(_STRICT)
class Tool(TypedDict):
    """A tool that the model may call."""

    type: Literal["function"]
    function: FunctionDefinition


@with_config(_STRICT)
class FunctionName(TypedDict):
    """A function by name."""

    name: str


@with_config(_STRICT)
class NamedTool(TypedDict):
    """The tool that must be called."""

    type: Literal["function"]
    function: FunctionName


@with_config(_STRICT)
class JsonSchema(TypedDict):
    """A schema that the answer must satisfy."""

    name: NotRequired[str | None]
    description: NotRequired[str | None]
    schema: NotRequired[dict[str, Any] | None]
    strict: NotRequired[bool | None]


@with_config(_STRICT)
class TextFormat(TypedDict):
    """Any text."""

    type: Literal["text"]


@with_config(_STRICT)
class JsonObjectFormat(TypedDict):
    """Any JSON object; a `schema` beside it is llama.cpp's way to name one."""

    type: Literal["json_object"]
    schema: NotRequired[dict[str, Any] | None]


@with_config(_STRICT)
class JsonSchemaFormat(TypedDict):
    """JSON by a schema."""

    type: Literal["json_schema"]
    json_schema: JsonSchema


ResponseFormat: TypeAlias = Annotated[TextFormat | JsonObjectFormat | JsonSchemaFormat, Field(discriminator="type")]

ReasoningEffort: TypeAlias = Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"]


def text_of(content: Any, where: str) -> str:
    """Return the text of a message's content.

    Args:
        where: path of the message, for the error (`messages.0`).

    Raises: UnsupportedParameter: it has a part that is no text.
    """
    if isinstance(content, str):
        return content
    if content is None:
        return ""
    pieces = []
    for index, part in enumerate(content):
        if part["type"] not in ("text", "refusal"):
            raise UnsupportedParameter(
                f"This model reads text only, but {where} has a part of type '{part['type']}'.",
                param=f"{where}.content.{index}",
            )
        pieces.append(part[part["type"]])
    return "".join(pieces)


def text_messages(messages: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return the messages with text as content and without fields that are null, as text models' templates want them.

    Raises: UnsupportedParameter: a message has a part that is no text.
    """
    return [
        {key: value for key, value in message.items() if value is not None}
        | {"content": text_of(message.get("content"), f"messages.{index}")}
        for index, message in enumerate(messages)
    ]
