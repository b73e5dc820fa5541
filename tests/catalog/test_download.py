"""Downloads with the hub's real client, from a hub on loopback."""

import asyncio
import json
import os
import shutil
import socket
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from catalog.gguf_files import gguf_bytes, llama_keys, write_gguf
from catalog.hub_server import COMMIT, Hub, digest, serving
from catalog.racks import LLAMA, llm_plugins, machine
from modelrack.api.launch import LaunchRequest
from modelrack.catalog import (
    FetchProgress,
    Resolved,
    cached_files,
    complete,
    fetch,
    list_cached,
    remove_cached,
    resolve,
)
from modelrack.catalog.catalog import Catalog
from modelrack.catalog.download import measure
from modelrack.errors import EngineUnavailable, LaunchFailed
from modelrack.hooks import Family, ModelFiles, Source, Variant
from modelrack.hooks import Hub as HubType
from modelrack.hooks.loader import Plugins

BIG = os.urandom(1 << 20) * 6


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    for name in ("HF_TOKEN", "HF_HUB_OFFLINE", "HUGGING_FACE_HUB_TOKEN", "HTTP_PROXY", "http_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf-home"))
    with serving(Hub()) as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.endpoint)
        yield hub


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "models"


def gguf_family(repo: str = "owner/tiny-GGUF", **source: object) -> Family:
    place = Source(
        hub="huggingface",
        repo=repo,
        quantizations=("Q4_K_M", "Q8_0"),
        file="tiny-{quantization}.gguf",
        **source,  # type: ignore[arg-type]
    )
    return Family(
        name="tiny",
        model_type="LLM",
        abilities=("chat",),
        variants=(Variant(format="gguf", size_b=1, sources=(place,)),),
    )


def resolved(family: Family, quantization: str = "Q4_K_M", *, place: int = 0) -> Resolved:
    variant = family.variants[place]
    return Resolved(
        family=family, variant=variant, quantization=quantization, engine=LLAMA, source=variant.sources[0], files=None
    )


def launch(plugins: Plugins, cache: Path, **parameters: object) -> Resolved:
    request = LaunchRequest.model_validate(parameters)
    return resolve(request, Catalog(plugins, cache / "custom"), plugins, machine(), "huggingface", cache)


async def get(
    what: Resolved, cache: Path, report: Callable[[FetchProgress], None] = lambda progress: None
) -> ModelFiles:
    return await asyncio.wait_for(fetch(what, llm_plugins().hubs, cache, report), 60)


def model(name: str = "Tiny") -> bytes:
    return gguf_bytes(llama_keys(**{"general.name": name}))


async def test_downloads_one_file_with_progress_and_records_it(hub: Hub, cache: Path) -> None:
    hub.repos["owner/tiny-GGUF"] = {"tiny-Q4_K_M.gguf": BIG, "tiny-Q8_0.gguf": b"other", "README.md": b"hi"}
    seen: list[FetchProgress] = []
    files = await get(resolved(gguf_family()), cache, seen.append)
    assert Path(files.path).read_bytes() == BIG
    assert (files.format, files.projector) == ("gguf", None)
    assert files.path.endswith(f"huggingface/models--owner--tiny-GGUF/snapshots/{COMMIT}/tiny-Q4_K_M.gguf")
    assert seen[0].downloaded_bytes == 0 and seen[-1].downloaded_bytes == seen[-1].total_bytes == len(BIG)
    assert [progress.downloaded_bytes for progress in seen] == sorted(progress.downloaded_bytes for progress in seen)
    assert seen[-1].fraction == 1.0
    assert {path.rsplit("/", 1)[-1] for path in hub.sent()} == {"tiny-Q4_K_M.gguf"}

    (row,) = list_cached(cache)
    assert row["model_version"] == "tiny--1B--gguf--Q4_K_M" and row["size_bytes"] == len(BIG)
    assert list_cached(cache, "other") == []
    assert files.path in cached_files(cache, "tiny--1B--gguf--Q4_K_M")
    assert remove_cached(cache, "tiny--1B--gguf--Q4_K_M") is True
    assert remove_cached(cache, "tiny--1B--gguf--Q4_K_M") is False
    assert list_cached(cache) == [] and not Path(files.path).exists()
    assert [path for path in cache.rglob("*") if path.is_file() and path.stat().st_size > 1 << 20] == []


async def test_the_size_of_a_download_is_known_before_it(hub: Hub, cache: Path) -> None:
    hub.repos["owner/tiny-GGUF"] = {"tiny-Q4_K_M.gguf": BIG, "tiny-Q8_0.gguf": b"other", "mmproj-F16.gguf": b"12345"}
    hubs = llm_plugins().hubs
    assert await measure(resolved(gguf_family()), hubs, cache, 30) == len(BIG) + 5
    assert hub.sent() == [] and not cache.exists()
    there = replace(resolved(gguf_family()), files=ModelFiles(path="/x.gguf", format="gguf"))
    assert await measure(there, hubs, cache, 30) == 0
    assert await measure(resolved(gguf_family(), "Q2_K"), hubs, cache, 30) is None
    assert await measure(resolved(gguf_family(repo="owner/none")), hubs, cache, 30) is None
    absent = replace(hubs["huggingface"], requires=("no_such_hub_library",))
    assert await measure(resolved(gguf_family()), {"huggingface": absent}, cache, 30) is None
    assert await measure(resolved(gguf_family()), {}, cache, 30) is None


async def test_a_hub_that_is_silent_is_not_waited_for(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{silent.getsockname()[1]}")
        asking = measure(resolved(gguf_family()), llm_plugins().hubs, cache, 0.5)
        assert await asyncio.wait_for(asking, 30) is None


async def test_what_is_here_is_not_downloaded_again(hub: Hub, cache: Path) -> None:
    hub.repos["owner/tiny-GGUF"] = {"tiny-Q4_K_M.gguf": model()}
    plugins = llm_plugins(gguf_family())
    first = launch(plugins, cache, model_name="tiny", quantization="Q4_K_M")
    assert first.files is None
    files = await get(first, cache)
    hub.requests.clear()
    again = launch(plugins, cache, model_name="tiny")  # Q8_0 is not here, so Q4_K_M is taken
    assert again.files == files and again.quantization == "Q4_K_M"
    assert await get(again, cache) == files
    os.truncate(os.path.realpath(files.path), 5)
    assert launch(plugins, cache, model_name="tiny").files is None
    assert hub.requests == []


async def test_continues_after_a_kill_in_the_middle(hub: Hub, cache: Path) -> None:
    hub.repos["owner/tiny-GGUF"] = {"tiny-Q4_K_M.gguf": BIG}
    hub.stop_after = 4 << 20
    task = asyncio.create_task(get(resolved(gguf_family()), cache))
    await until(hub.stopped.is_set)
    await until(lambda: partial_bytes(cache) >= 3 << 20)
    start = time.monotonic()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert time.monotonic() - start < 5
    had = partial_bytes(cache)
    assert had >= 3 << 20 and list_cached(cache) == []

    hub.go_on.set()
    hub.stop_after = None
    hub.requests.clear()
    seen: list[FetchProgress] = []
    files = await get(resolved(gguf_family()), cache, seen.append)
    assert Path(files.path).read_bytes() == BIG
    assert hub.ranges() == [f"bytes={had}-"]
    assert seen[-1].downloaded_bytes == len(BIG)
    assert partial_bytes(cache) == 0


async def test_a_connection_that_breaks_is_taken_up_again(hub: Hub, cache: Path) -> None:
    hub.repos["owner/tiny-GGUF"] = {"tiny-Q4_K_M.gguf": BIG}
    hub.cut_after = 2 << 20
    hub.busy = 1
    files = await get(resolved(gguf_family()), cache)
    assert Path(files.path).read_bytes() == BIG
    assert hub.ranges() and all(value != "bytes=0-" for value in hub.ranges())


async def test_contents_that_are_not_what_was_announced_are_refused(hub: Hub, cache: Path) -> None:
    hub.repos["owner/tiny-GGUF"] = {"tiny-Q4_K_M.gguf": BIG}
    hub.corrupt = True
    with pytest.raises(LaunchFailed, match="other contents"):
        await get(resolved(gguf_family()), cache)
    assert partial_bytes(cache) == 0
    hub.corrupt = False
    assert digest(Path((await get(resolved(gguf_family()), cache)).path).read_bytes()) == digest(BIG)


async def test_unknown_repository_revision_and_file(hub: Hub, cache: Path) -> None:
    with pytest.raises(LaunchFailed, match="has no repository owner/tiny-GGUF") as caught:
        await get(resolved(gguf_family()), cache)
    assert "HF_TOKEN" in str(caught.value.remedy)
    hub.repos["owner/tiny-GGUF"] = {"tiny-Q5_K_M.gguf": b"x", "config.json": b"{}"}
    with pytest.raises(LaunchFailed, match="no revision 'nope'"):
        await get(resolved(gguf_family(revision="nope")), cache)
    with pytest.raises(LaunchFailed, match="no GGUF file with quantization 'Q4_K_M'") as caught:
        await get(resolved(gguf_family()), cache)
    assert "Q5_K_M" in str(caught.value.remedy)


async def test_a_gated_repository_wants_a_token(hub: Hub, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.repos["owner/tiny-GGUF"] = {"tiny-Q4_K_M.gguf": BIG}
    hub.gated.add("owner/tiny-GGUF")
    with pytest.raises(LaunchFailed, match="gated") as caught:
        await get(resolved(gguf_family()), cache)
    assert f"{hub.endpoint}/owner/tiny-GGUF" in str(caught.value.remedy) and "HF_TOKEN" in str(caught.value.remedy)
    monkeypatch.setenv("HF_TOKEN", hub.token)
    assert Path((await get(resolved(gguf_family()), cache)).path).read_bytes() == BIG


async def test_offline_mode(hub: Hub, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.repos["owner/tiny-GGUF"] = {"tiny-Q4_K_M.gguf": model()}
    plugins = llm_plugins(gguf_family())
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(LaunchFailed, match="offline mode is on") as caught:
        await get(resolved(gguf_family()), cache)
    assert "HF_HUB_OFFLINE" in str(caught.value.remedy)
    assert hub.requests == []
    monkeypatch.delenv("HF_HUB_OFFLINE")
    files = await get(resolved(gguf_family()), cache)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert launch(plugins, cache, model_name="tiny", quantization="Q4_K_M").files == files


async def test_a_hub_that_cannot_be_reached(cache: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf-home"))
    with serving(Hub()) as gone:
        pass
    monkeypatch.setenv("HF_ENDPOINT", gone.endpoint)
    with pytest.raises(LaunchFailed, match="cannot be reached") as caught:
        await get(resolved(gguf_family()), cache)
    assert "HF_ENDPOINT" in str(caught.value.remedy)


async def test_a_repository_without_registration(hub: Hub, cache: Path) -> None:
    """A hub reference is launchable as it is: the format and the facts come from the files."""
    hub.repos["owner/some-model"] = {
        "some-model-Q8_0.gguf": model("eight"),
        "some-model-Q4_K_M.gguf": model("four"),
        "mmproj-F16.gguf": gguf_bytes({"general.architecture": "clip", "clip.has_vision_encoder": True}),
    }
    plugins = llm_plugins()
    found = launch(plugins, cache, model_name="owner/some-model")
    assert (found.variant.format, found.files, found.is_adhoc) == ("gguf", None, True)
    files = await get(found, cache)
    done = complete(found, files, plugins.model_types["LLM"])
    assert files.path.endswith("some-model-Q4_K_M.gguf") and str(files.projector).endswith("mmproj-F16.gguf")
    assert done.family.name == "some-model" and done.quantization == "Q4_K_M"
    assert done.family.abilities == ("chat", "generate", "vision") and done.family.context_length == 2048

    again = launch(plugins, cache, model_name="owner/some-model")
    assert again.files == files and again.family == done.family
    # As it is stored after the first launch, with what was decided then.
    settled = launch(plugins, cache, model_name="owner/some-model", model_format="gguf", quantization="Q4_K_M")
    assert settled.files == files
    other = launch(plugins, cache, model_name="owner/some-model:q8_0")
    assert other.files is None
    assert (await get(other, cache)).path.endswith("some-model-Q8_0.gguf")
    assert {row["quantization"] for row in list_cached(cache)} == {"Q4_K_M", "q8_0"}
    named = launch(plugins, cache, model_name="hf.co/owner/some-model/some-model-Q8_0.gguf")
    assert (await get(named, cache)).path.endswith("some-model-Q8_0.gguf")


async def test_a_folder_without_what_cannot_be_loaded(hub: Hub, cache: Path) -> None:
    hub.repos["owner/full"] = {
        "config.json": b'{"architectures": ["LlamaForCausalLM"], "max_position_embeddings": 512}',
        "tokenizer.json": b"{}",
        "model.safetensors": b"weights",
        "pytorch_model.bin": b"pickle",
        "tf_model.h5": b"other",
        "original/consolidated.00.pth": b"pickle",
        "original/params.json": b"{}",
        "picture.png": b"png",
    }
    place = Source(hub="huggingface", repo="owner/full")
    family = Family(name="full", model_type="LLM", variants=(Variant(format="pytorch", size_b=7, sources=(place,)),))
    files = await get(resolved(family, "none"), cache)
    names = sorted(str(path.relative_to(files.path)) for path in Path(files.path).rglob("*") if path.is_file())
    assert names == ["config.json", "model.safetensors", "tokenizer.json"]

    hub.repos["owner/full"] = {"config.json": b"{}", "pytorch_model.bin": b"pickle"}
    with pytest.raises(LaunchFailed, match="pickle"):
        await get(resolved(family, "none"), cache)
    hub.repos["owner/full"] = {"full-Q4_0.gguf": b"x"}
    with pytest.raises(LaunchFailed, match="holds no pytorch files") as caught:
        await get(resolved(family, "none"), cache)
    assert "--model-format gguf" in str(caught.value.remedy)


async def test_parts_that_are_no_gguf_parts_are_joined(hub: Hub, cache: Path) -> None:
    whole = model() + bytes(3 << 20)
    cut = len(whole) // 2
    hub.repos["owner/tiny-GGUF"] = {
        "tiny-Q8_0.gguf-split-b": whole[cut:],
        "tiny-Q8_0.gguf-split-a": whole[:cut],
        "tiny-Q4_K_M.gguf": b"other",
    }
    family = gguf_family(split_file="tiny-{quantization}.gguf-{part}", parts={"Q8_0": 2})
    files = await get(resolved(family, "Q8_0"), cache)
    assert files.path.endswith("tiny-Q8_0.gguf") and Path(files.path).read_bytes() == whole
    plugins = llm_plugins(family)
    assert launch(plugins, cache, model_name="tiny", quantization="Q8_0").files == files
    assert remove_cached(cache, "tiny--1B--gguf--Q8_0")
    assert not Path(files.path).exists()


async def test_a_full_disk_is_told_before_the_download(hub: Hub, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The listing claims more than any disk holds."""
    free = shutil.disk_usage(cache.parent).free

    class Huge(bytes):
        def __len__(self) -> int:
            return free + (1 << 40)

    hub.repos["owner/tiny-GGUF"] = {"tiny-Q4_K_M.gguf": Huge()}
    with pytest.raises(LaunchFailed, match="too full") as caught:
        await get(resolved(gguf_family()), cache)
    assert "MODELRACK_CACHE" in str(caught.value.remedy)
    assert hub.sent() == []


async def test_two_downloads_of_the_same_file_at_once(hub: Hub, cache: Path) -> None:
    hub.repos["owner/tiny-GGUF"] = {"tiny-Q4_K_M.gguf": BIG}
    both = await asyncio.gather(get(resolved(gguf_family()), cache), get(resolved(gguf_family()), cache))
    assert both[0] == both[1] and Path(both[0].path).read_bytes() == BIG
    assert len(hub.sent()) == 1


async def test_what_is_on_this_machine_needs_no_download(cache: Path, tmp_path: Path) -> None:
    files = ModelFiles(path=str(write_gguf(tmp_path / "a.gguf")), format="gguf")
    assert await get(replace(resolved(gguf_family()), files=files), cache) == files


async def test_a_hub_whose_package_is_missing(cache: Path) -> None:
    hubs = {
        "huggingface": HubType(name="huggingface", fetch="a:b", requires=("no_such_module",), remedy="pip install it")
    }
    with pytest.raises(EngineUnavailable, match="no_such_module") as caught:
        await fetch(resolved(gguf_family()), hubs, cache, lambda progress: None)
    assert caught.value.remedy == "pip install it"


async def test_a_download_ends_with_its_server(hub: Hub, cache: Path) -> None:
    """The server may be killed: the process sees the end of its input, and goes."""
    hub.repos["owner/tiny-GGUF"] = {"tiny-Q4_K_M.gguf": BIG}
    hub.stop_after = 2 << 20
    what = resolved(gguf_family())
    job: dict[str, object] = {
        "fetch": "modelrack.catalog.hubs:fetch_huggingface",
        "cache_dir": str(cache),
        "model_name": "tiny",
    }
    job |= {"model_type": "LLM", "format": "gguf", "size_b": 1, "quantization": "Q4_K_M", "is_adhoc": False}
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-P", "-m", "modelrack.catalog.fetcher"),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.DEVNULL,
    )
    assert process.stdin and what.source
    process.stdin.write(json.dumps({**job, "source": asdict(what.source)}).encode() + b"\n")
    await process.stdin.drain()
    await until(hub.stopped.is_set)
    process.stdin.close()
    assert await asyncio.wait_for(process.wait(), 10) == 130


async def test_a_hub_that_fails_leaves_its_reason(cache: Path) -> None:
    hubs = {"huggingface": HubType(name="huggingface", fetch="modelrack.catalog.hubs:no_such_function")}
    with pytest.raises(LaunchFailed, match="no_such_function"):
        await fetch(resolved(gguf_family()), hubs, cache, lambda progress: None)


def partial_bytes(cache: Path) -> int:
    return sum(path.stat().st_size for path in cache.rglob("*.modelrack.incomplete"))


async def until(condition: Callable[[], bool], timeout_s: float = 30) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "it did not come true in time"
        await asyncio.sleep(0.01)
