"""The engine's typed options: validation, `modelrack engine` and the docs from one declaration."""

from pydantic import Field

from modelrack.encoders import EncoderOptions

__all__ = ["SentenceTransformersOptions"]


class SentenceTransformersOptions(EncoderOptions):
    """Options of sentence-transformers."""

    matryoshka: bool | None = Field(
        None,
        description="Let requests cut embeddings short (`dimensions`). Default: as the model's files or its family "
        "say. One that was not trained for it loses much by that.",
    )
    default_prompt: str | None = Field(
        None, description="Name of the prompt that is put before texts where a request names none."
    )
