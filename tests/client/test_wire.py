"""What the handles of the media types send: a server that keeps each request stands in for models yet to come."""

import asyncio
import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from email.parser import BytesParser
from email.policy import HTTP
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, cast

import pytest

from modelrack.client import AsyncClient, Client, RequestTimeout, ServerUnreachable, handles

TYPES = {
    "Rerank": "rerank",
    "Embedding": "embedding",
    "Image": "image",
    "Video": "video",
    "Audio": "audio",
    "Chat": "LLM",
}


@dataclass
class Recorder:
    """A server that answers everything, and keeps what it was sent."""

    url: str = ""
    requests: list[dict[str, Any]] = field(default_factory=list)
    answer: tuple[str, bytes] = ("application/json", b'{"ok": true}')


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def do_GET(self) -> None:
        model_type = self.path.rpartition("/")[2]
        self._reply("application/json", json.dumps({"model_type": model_type, "model_ability": ["chat"]}).encode())

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        recorder = cast(Any, self.server).recorder
        kind = self.headers["content-type"]
        form = _read_multipart(kind, body) if kind.startswith("multipart/") else json.loads(body)
        recorder.requests.append({"path": self.path, "body": form, "multipart": kind.startswith("multipart/")})
        self._reply(*recorder.answer)

    def _reply(self, kind: str, content: bytes) -> None:
        self.send_response(200)
        self.send_header("content-type", kind)
        self.send_header("content-length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)


def _read_multipart(kind: str, body: bytes) -> list[tuple[str, str | None, bytes]]:
    message = BytesParser(policy=HTTP).parsebytes(b"content-type: " + kind.encode() + b"\r\n\r\n" + body)
    parts = []
    for part in message.iter_parts():
        name, content = part.get_param("name", header="content-disposition"), part.get_payload(decode=True)
        assert isinstance(name, str)
        assert isinstance(content, bytes)
        parts.append((name, part.get_filename(), content))
    return parts


@pytest.fixture
def recorder() -> Iterator[Recorder]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    server.daemon_threads = True
    recorder = Recorder(url=f"http://127.0.0.1:{server.server_port}")
    server.recorder = recorder  # type: ignore[attr-defined]
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield recorder
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def call(recorder: Recorder, kind: str, method: str, *args: Any, **kwargs: Any) -> dict[str, Any]:
    """Make a call with both clients; return the request, which must be the same."""

    async def with_async() -> Any:
        async with AsyncClient(recorder.url) as client:
            handle = await client.get_model(TYPES[kind])
            assert type(handle) is getattr(handles, f"Async{kind}Handle")
            return await getattr(handle, method)(*args, **kwargs)

    recorder.requests.clear()
    with Client(recorder.url) as client:
        handle = client.get_model(TYPES[kind])
        assert type(handle) is getattr(handles, f"{kind}Handle")
        result = getattr(handle, method)(*args, **kwargs)
    assert asyncio.run(with_async()) == result
    first, second = recorder.requests
    assert first == second
    return {**first, "result": result}


def test_rerank(recorder: Recorder) -> None:
    sent = call(recorder, "Rerank", "rerank", ["a", "b"], "q", top_n=1)
    assert sent["path"] == "/v1/rerank"
    assert sent["body"] == {"model": "rerank", "documents": ["a", "b"], "query": "q", "top_n": 1}


def test_embedding(recorder: Recorder) -> None:
    sent = call(recorder, "Embedding", "create_embedding", ["a"], dimensions=3)
    assert sent["path"] == "/v1/embeddings"
    assert sent["body"] == {"model": "embedding", "input": ["a"], "dimensions": 3}


def test_text_to_image(recorder: Recorder) -> None:
    sent = call(recorder, "Image", "text_to_image", "a cat", size="64*64", seed=3)
    assert sent["path"] == "/v1/images/generations"
    assert sent["body"] == {
        "model": "image",
        "prompt": "a cat",
        "n": 1,
        "size": "64*64",
        "response_format": "url",
        "kwargs": '{"seed": 3}',
    }


@pytest.mark.parametrize(
    ("method", "path", "args", "files"),
    [
        ("image_to_image", "/v1/images/variations", [b"I", "a cat"], [("image", b"I")]),
        ("image_to_image", "/v1/images/variations", [[b"I", b"J"], "a cat"], [("image", b"I"), ("image", b"J")]),
        ("image_edit", "/v1/images/edits", [b"I", "a cat", b"M"], [("images", b"I"), ("mask", b"M")]),
        ("image_edit", "/v1/images/edits", [[b"I", b"J"], "a cat"], [("images[]", b"I"), ("images[]", b"J")]),
        ("inpainting", "/v1/images/inpainting", [b"I", b"M", "a cat"], [("image", b"I"), ("mask_image", b"M")]),
    ],
)
def test_images(recorder: Recorder, method: str, path: str, args: list[Any], files: list[tuple[str, bytes]]) -> None:
    sent = call(recorder, "Image", method, *args, seed=3)
    assert sent["path"] == path
    fields = {name: content for name, filename, content in sent["body"] if filename is None}
    assert fields == {
        "model": b"image",
        "prompt": b"a cat",
        "n": b"1",
        "response_format": b"url",
        "kwargs": b'{"seed": 3}',
    }
    assert [(name, content) for name, filename, content in sent["body"] if filename is not None] == files


def test_file_by_path_and_open_file(recorder: Recorder, tmp_path: Path) -> None:
    path = tmp_path / "page.png"
    path.write_bytes(b"P")
    assert ("image", "page.png", b"P") in call(recorder, "Image", "ocr", str(path))["body"]
    with path.open("rb") as file, Client(recorder.url) as client:
        client.get_model("image").ocr(file)
    assert ("image", "image", b"P") in recorder.requests[-1]["body"]
    with Client(recorder.url) as client, pytest.raises(FileNotFoundError):
        client.get_model("image").ocr(str(tmp_path / "missing.png"))


@pytest.mark.parametrize(
    ("method", "path", "args", "names"),
    [
        ("image_to_video", "/v1/video/generations/image", [b"I", "run"], ["image"]),
        ("flf_to_video", "/v1/video/generations/flf", [b"I", b"J", "run"], ["first_frame", "last_frame"]),
    ],
)
def test_videos(recorder: Recorder, method: str, path: str, args: list[Any], names: list[str]) -> None:
    sent = call(recorder, "Video", method, *args)
    assert sent["path"] == path
    assert [name for name, filename, _ in sent["body"] if filename is not None] == names


def test_text_to_video(recorder: Recorder) -> None:
    sent = call(recorder, "Video", "text_to_video", "run", fps=8)
    assert sent["body"] == {"model": "video", "prompt": "run", "n": 1, "kwargs": '{"fps": 8}'}


def test_transcription(recorder: Recorder) -> None:
    sent = call(
        recorder,
        "Audio",
        "transcriptions",
        b"RIFF",
        language="de",
        response_format="verbose_json",
        timestamp_granularities=["word", "segment"],
    )
    assert sent["path"] == "/v1/audio/transcriptions"
    assert sent["result"] == {"ok": True}
    assert sent["body"] == [
        ("model", None, b"audio"),
        ("language", None, b"de"),
        ("response_format", None, b"verbose_json"),
        ("temperature", None, b"0"),
        ("timestamp_granularities[]", None, b"word"),
        ("timestamp_granularities[]", None, b"segment"),
        ("file", "file", b"RIFF"),
    ]


def test_transcription_as_text(recorder: Recorder) -> None:
    recorder.answer = ("text/plain; charset=utf-8", "1\n00:00 → Grüße".encode())
    assert call(recorder, "Audio", "translations", b"RIFF", response_format="srt")["result"] == "1\n00:00 → Grüße"


def test_speech(recorder: Recorder) -> None:
    recorder.answer = ("audio/mpeg", b"\xff\xfb\x00")
    sent = call(recorder, "Audio", "speech", "hello", voice="x")
    assert sent["result"] == b"\xff\xfb\x00"
    assert not sent["multipart"]
    assert sent["body"]["input"] == "hello"
    sent = call(recorder, "Audio", "speech", "hello", prompt_speech=b"R")
    assert ("prompt_speech", "prompt_speech", b"R") in sent["body"]
    with Client(recorder.url) as client:
        assert b"".join(client.get_model("audio").speech("hello", stream=True)) == b"\xff\xfb\x00"


def test_chat_options_go_as_they_are(recorder: Recorder) -> None:
    messages = [{"role": "user", "content": "hi"}]
    sent = call(recorder, "Chat", "chat", messages, enable_thinking=False, generate_config={"seed": 1})
    assert sent["body"] == {"model": "LLM", "messages": messages, "seed": 1, "enable_thinking": False}


def test_answer_that_is_no_json(recorder: Recorder) -> None:
    recorder.answer = ("text/html", b"<html>")
    with Client(recorder.url) as client, pytest.raises(ServerUnreachable, match="is no JSON"):
        client.get_model("LLM").generate("hi")


def test_timeout() -> None:
    """A server that takes the connection and never answers."""
    import socket

    with socket.create_server(("127.0.0.1", 0)) as listening:
        url = f"http://127.0.0.1:{listening.getsockname()[1]}"
        with Client(url, timeout=0.2) as client, pytest.raises(RequestTimeout) as caught:
            client.list_models()
    assert caught.value.code == "timeout"
    assert "longer time-out" in str(caught.value)
