"""What engines for encoder models share: folders, options, limits, memory."""

import json
import platform
import subprocess
import sys
from pathlib import Path

import pytest

from modelrack.encoders import EncoderOptions, batch_limits, check_weights, stored_dtype
from modelrack.errors import BadRequest, LaunchFailed


def write_folder(folder: Path, *files: str, **documents: object) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name in files:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"")
    for name, content in documents.items():
        (folder / f"{name}.json").write_text(json.dumps(content))
    return folder


@pytest.mark.parametrize(
    ("files", "is_refused"),
    [
        (("model.safetensors",), False),
        (("model.safetensors", "pytorch_model.bin"), False),
        (("model.safetensors", "2_Dense/model.safetensors"), False),
        (("model.safetensors", "2_Dense/training_args.bin"), False),
        (("pytorch_model.bin",), True),
        (("model.safetensors", "2_Dense/pytorch_model.bin"), True),
        (("model.safetensors", "2_Dense/a_Way/pytorch_model.bin"), True),
        (("model.safetensors", "other/pytorch_model.bin"), False),
    ],
)
def test_weights_in_pickles_alone_are_refused(files: tuple[str, ...], is_refused: bool, tmp_path: Path) -> None:
    modules = [{"type": "a.Transformer", "path": ""}, {"type": "a.Dense", "path": "2_Dense"}]
    folder = write_folder(tmp_path / "model", *files, modules=modules)
    write_folder(folder / "2_Dense", router_config={"types": {"a_Way": "a.Dense"}})
    if not is_refused:
        check_weights(folder)
        return
    with pytest.raises(LaunchFailed, match="pickle") as caught:
        check_weights(folder)
    assert "safetensors" in (caught.value.remedy or "")


def test_modules_outside_of_the_folder_are_refused(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "model", modules=[{"type": "a.Dense", "path": "../other"}])
    with pytest.raises(BadRequest, match="not inside"):
        check_weights(folder)


@pytest.mark.parametrize(
    ("config", "expected"),
    [({"dtype": "bfloat16"}, "bfloat16"), ({"torch_dtype": "torch.float16"}, "float16"), ({}, None), (None, None)],
)
def test_the_type_of_numbers_is_read_from_the_files(config: object, expected: str | None, tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "model", **({} if config is None else {"config": config}))
    assert stored_dtype(folder) == expected


def test_batches_are_as_large_as_the_device_likes_or_the_launch_says() -> None:
    options = EncoderOptions().model_dump()
    here, there = (batch_limits(options, on_cpu=on_cpu) for on_cpu in (True, False))
    assert here.batch_tokens < there.batch_tokens
    chosen = EncoderOptions(batch_tokens=64, batch_items=3, queue_tokens=9, queue_items=2).model_dump()
    limits = batch_limits(chosen, on_cpu=True)
    assert (limits.batch_tokens, limits.batch_items, limits.queue_tokens, limits.queue_items) == (64, 3, 9, 2)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc can be told to keep memory")
def test_memory_that_is_freed_is_kept() -> None:
    """A block that is freed and taken again comes without new pages."""
    code = (
        "import ctypes, resource\n"
        "from modelrack.encoders import keep_freed_memory\n"
        "assert keep_freed_memory()\n"
        "libc = ctypes.CDLL(None)\n"
        "libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]\n"
        "libc.free.argtypes = [ctypes.c_void_p]\n"
        "def use():\n"
        "    block = libc.malloc(16 << 20); ctypes.memset(block, 1, 16 << 20); libc.free(block)\n"
        "use()\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt\n"
        "for _ in range(10): use()\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)\n"
    )
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert int(done.stdout) < 1000  # 40,000 if each block went back to the system
