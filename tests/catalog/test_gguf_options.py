"""Options that engines of GGUF files share."""

import pytest
from pydantic import Field, ValidationError

from modelrack.catalog.gguf_options import GgufOptions


class Shared(GgufOptions):
    n_ctx: int = Field(512, description="Tokens.")


class Own(Shared):
    seed: int = Field(0, description="Seed.")
    warmup: bool = Field(False, description="Off, here.")


def test_an_engine_s_own_options_are_listed_first() -> None:
    listed = list(Own.model_json_schema()["properties"])
    assert listed[:4] == ["seed", "warmup", "n_ctx", "n_threads"]
    assert set(listed) == set(Own.model_fields)
    assert list(GgufOptions.model_json_schema()["properties"]) == list(GgufOptions.model_fields)


def test_what_an_engine_says_anew_holds() -> None:
    assert Own().warmup is False and GgufOptions().warmup is True
    with pytest.raises(ValidationError, match="n_threads"):
        Own.model_validate({"n_threads": 0})
