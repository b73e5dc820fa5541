import pytest

from modelrack.errors import BadRequest
from modelrack.server.multipart import find_fields

TYPE = b"multipart/form-data; charset=utf-8; boundary=AaB03x"


def find_field(content_type: bytes, body: bytes, name: bytes) -> str | None:
    return find_fields(content_type, body, {name: 1024}).get(name)


def form(*parts: tuple[bytes, bytes], end: bytes = b"--AaB03x--\r\n") -> bytes:
    return b"".join(b"--AaB03x\r\n%b\r\n\r\n%b\r\n" % part for part in parts) + end


def part(name: bytes, value: bytes) -> tuple[bytes, bytes]:
    return b'Content-Disposition: form-data; name="%b"' % name, value


@pytest.mark.parametrize(
    "head",
    [
        b'Content-Disposition: form-data; name="model"',
        b"content-disposition: form-data; name=model",
        b'Content-Type: text/plain\r\nContent-Disposition: form-data; NAME="model"; other="a;b"',
    ],
)
def test_the_field_is_found_wherever_it_is(head: bytes) -> None:
    file = (b'Content-Disposition: form-data; name="file"; filename="a;name=model"', b"\r\n--AaB0\r\n" * 50)
    assert find_field(TYPE, form(file, (head, "m-é".encode())), b"model") == "m-é"
    assert find_field(TYPE, form((head, b"first"), file, part(b"model", b"second")), b"model") == "first"
    assert find_field(TYPE, b"\r\n" + form((head, b"")), b"model") == ""


def test_other_names_are_not_taken_for_it() -> None:
    body = form(
        (b'Content-Disposition: form-data; name="x"; filename="; name=model"', b"a"),
        (b'Content-Disposition: form-data; filename="model"', b"b"),
        (b'X-Other: form-data; name="model"', b"c"),
        part(b"models", b"d"),
    )
    assert find_field(TYPE, body, b"model") is None


def test_a_quoted_boundary() -> None:
    body = b'--a b\r\nContent-Disposition: form-data; name="model"\r\n\r\nm\r\n--a b--\r\n'
    assert find_field(b'multipart/form-data; boundary="a b"', body, b"model") == "m"


@pytest.mark.parametrize(
    ("content_type", "body"),
    [
        (b"multipart/form-data", form(part(b"model", b"m"))),
        (b"multipart/form-data; boundary=", form(part(b"model", b"m"))),
        (b"multipart/form-data; boundary=" + b"b" * 71, form(part(b"model", b"m"))),
        (TYPE, b""),
        (TYPE, b"nothing"),
        (TYPE, b"--AaB03x\r\n"),
        (TYPE, b"--AaB03x\r\nno head"),
        (TYPE, form(part(b"file", b"x"), end=b"")[:-4]),
        (TYPE, form(part(b"model", b"m" * 1025))),
        (TYPE, form(part(b"model", b"\xff"))),
        (TYPE, form(*[part(b"x", b"y")] * 300)),
        (TYPE, form((b"a: " + b"b" * 9000, b""))),
    ],
)
def test_what_is_malformed_is_refused(content_type: bytes, body: bytes) -> None:
    with pytest.raises(BadRequest):
        find_field(content_type, body, b"model")


def test_several_fields_are_found_at_once() -> None:
    body = form(part(b"kwargs", b"{}" * 600), part(b"model", b"m"), part(b"file", b"\xff"), part(b"kwargs", b"2"))
    found = find_fields(TYPE, body, {b"model": 1024, b"kwargs": 4096, b"request_id": 1024})
    assert found == {b"model": "m", b"kwargs": "{}" * 600}
