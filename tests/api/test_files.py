"""Files in request models, and fields packed in `kwargs`."""

import base64
from typing import Annotated, Any

import orjson
import pytest
from pydantic import AliasChoices, BaseModel, Field, ValidationError

from modelrack.api.chat import ChatRequest
from modelrack.api.common import InferenceRequest
from modelrack.api.files import FieldShape, Upload, field_shapes, has_uploads
from modelrack.api.kwargs import KwargsRequest
from modelrack.errors import BadRequest
from modelrack.worker.validation import make_parser

CONTENT = bytes(range(256))
BASE64 = base64.b64encode(CONTENT).decode()


class Edit(KwargsRequest):
    images: list[Upload] = Field(validation_alias=AliasChoices("image", "images"))
    mask: Upload | None = None
    sizes: Annotated[list[int], Field(max_length=3)] | None = None
    prompt: str | list[str] = ""
    steps: int | None = Field(None, ge=1, le=50)


def edit(**fields: Any) -> Edit:
    parsed: Edit = make_parser(Edit)(orjson.dumps({"model": "m", "image": [BASE64], **fields}))
    return parsed


@pytest.mark.parametrize(
    ("text", "media_type"),
    [
        (BASE64, "application/octet-stream"),
        (BASE64[:100] + "\n" + BASE64[100:] + "\r\n", "application/octet-stream"),
        (f"data:image/PNG;name=x;base64,{BASE64}", "image/png"),
        (f"DATA:;base64,{BASE64}", "application/octet-stream"),
    ],
)
def test_json_has_files_as_text(text: str, media_type: str) -> None:
    upload = edit(mask=text).mask
    assert upload == Upload(CONTENT, "", media_type)
    assert "content" not in repr(upload)


@pytest.mark.parametrize(
    "value", ["", "not base64!", "ÿÿÿÿ", "data:image/png,abc", "http://x.org/a.png", 5, {}, ["AA=="]]
)
def test_what_is_no_file_is_refused_by_name(value: Any) -> None:
    with pytest.raises(BadRequest) as caught:
        edit(mask=value)
    assert caught.value.param == "mask"
    with pytest.raises(BadRequest) as caught:
        edit(image=[BASE64, value])
    assert caught.value.param == "image.1"


def test_files_are_written_back_as_base64() -> None:
    assert orjson.loads(edit(mask=BASE64).model_dump_json())["mask"] == BASE64


def test_shapes() -> None:
    shapes = field_shapes(Edit)
    assert shapes["image"] == shapes["images"] == FieldShape(True, False, True, False)
    assert shapes["mask"] == FieldShape(False, True, True, True)
    assert shapes["sizes"] == FieldShape(True, False, False, True)
    assert shapes["prompt"] == FieldShape(True, True, False, True)
    assert has_uploads(Edit) and not has_uploads(ChatRequest)


def test_openapi_has_them_as_binary() -> None:
    schema = Edit.model_json_schema()["properties"]
    assert schema["image"]["items"] == {"type": "string", "format": "binary"}
    assert {"type": "string", "format": "binary"} in schema["mask"]["anyOf"]


class TestKwargs:
    @pytest.mark.parametrize("packed", ['{"steps": 7, "mask": null}', {"steps": 7}])
    def test_they_are_fields(self, packed: Any) -> None:
        assert edit(kwargs=packed).steps == 7
        assert edit(kwargs=packed, steps=None).steps == 7
        assert edit(kwargs=packed, steps=7).steps == 7
        assert edit(kwargs=packed, steps="7").steps == 7
        assert edit(kwargs=None).steps is None

    @pytest.mark.parametrize(
        ("packed", "param"),
        [
            ("", "kwargs"),
            ("{", "kwargs"),
            ("[]", "kwargs"),
            ("null", "kwargs"),
            ('{"stepz": 1}', "kwargs.stepz"),
            ('{"kwargs": "{}"}', "kwargs.kwargs"),
            ('{"model": "other"}', "kwargs.model"),
            ('{"prompt": "other"}', "kwargs.prompt"),
            ('{"steps": 99}', "steps"),
        ],
    )
    def test_what_is_wrong_is_named(self, packed: str, param: str) -> None:
        with pytest.raises(BadRequest) as caught:
            edit(kwargs=packed, prompt="this")
        assert caught.value.param == param

    def test_they_do_not_hide_other_errors(self) -> None:
        with pytest.raises(BadRequest, match="Unknown field 'more'"):
            edit(kwargs="{}", more=1)
        with pytest.raises(ValidationError):
            Edit.model_validate(5)


def test_aliases_by_themselves() -> None:
    class Named(InferenceRequest):
        file: Annotated[Upload, Field(alias="input_file")]

    class Both(BaseModel):
        model_config = {"populate_by_name": True}
        file: Upload = Field(alias="input_file")

    assert set(field_shapes(Named)) == {"model", "input_file"}
    assert set(field_shapes(Both)) == {"file", "input_file"}
