"""A build of torch for the device at hand, and never CUDA for a machine without it."""

import re
import sys
from pathlib import Path

import pytest

from modelrack.environments import EnvironmentFailed, Environments, device_kind
from modelrack.environments.declaration import declare
from modelrack.environments.lock import Locked, cuda_parts, lock_hash, read_lock
from modelrack.environments.resolve import resolve
from modelrack.environments.uv import Uv, UvFailed
from modelrack.hooks import Accelerator, Machine

from .engines import make_engine
from .wheels import make_wheel


@pytest.fixture
def index(tmp_path: Path, wheels: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a folder in the place of the index: its torch is for CUDA, as the usual one is."""
    index = tmp_path / "index"
    make_wheel(index, "torch", "2.9.0", requires=("nvidia-cublas", "triton", "nvidia-nccl-cu13", "cuda-bindings"))
    for name in ("nvidia-cublas", "nvidia-nccl-cu13", "cuda-bindings", "triton", "nvidia-ml-py"):
        make_wheel(index, name)
    make_wheel(index, "grammar", requires=("torch", "triton"))
    monkeypatch.setenv("PIP_FIND_LINKS", f"{wheels} {index}")
    return index


def versions(packages: object) -> dict[str, str]:
    return {package.name: package.version for package in packages}  # type: ignore[attr-defined]


async def test_cuda_is_refused_for_a_cpu(environments: Environments, index: Path) -> None:
    for requirements in (("torch",), ("grammar",)):
        with pytest.raises(EnvironmentFailed) as caught:
            await environments.ensure(make_engine(*requirements), "cpu")
        assert caught.value.message.startswith("The environment of engine 'fruit' for the CPU would bring")
        assert "torch 2.9.0 and cuda-bindings, nvidia-cublas, nvidia-nccl-cu13 (" in caught.value.message
        assert "UV_FIND_LINKS" in str(caught.value.remedy)
    assert environments.list() == []


async def test_a_build_for_the_cpu_is_preferred_where_it_is_at_hand(
    environments: Environments, index: Path, tmp_path: Path
) -> None:
    """Though it is older than what the index has."""
    make_wheel(index, "torch", "2.8.0+cpu")
    make_wheel(index, "torch", "2.7.0+cpu")
    built = await environments.ensure(make_engine("grammar"), "cpu")
    found = versions(built.packages)
    assert found["torch"] == "2.8.0+cpu" and "triton" in found and "nvidia-cublas" not in found
    plan = await environments.plan(make_engine("torch<2.8"), "cpu")
    assert versions(plan.packages)["torch"] == "2.7.0+cpu"
    with pytest.raises(EnvironmentFailed, match=r"torch 2\.9\.0 and"):
        await environments.ensure(make_engine("torch>=2.9"), "cpu")


async def test_a_requirement_of_such_a_build_that_is_not_there_has_a_remedy(
    environments: Environments, index: Path
) -> None:
    with pytest.raises(EnvironmentFailed, match=r"torch==2\.8\.0\+cpu") as caught:
        await environments.ensure(make_engine("torch==2.8.0+cpu"), "cpu")
    assert "UV_FIND_LINKS" in str(caught.value.remedy)


async def test_accelerators_get_the_build_for_them(environments: Environments, index: Path) -> None:
    make_wheel(index, "torch", "2.9.0+cpu")
    for device in ("cuda", "mps"):
        plan = await environments.plan(make_engine("grammar"), device)
        assert versions(plan.packages)["torch"] == "2.9.0"
    plan = await environments.plan(make_engine("torch==2.9.0+cpu"), "cuda")
    assert versions(plan.packages)["torch"] == "2.9.0+cpu", "the requirements themselves want it"


async def test_the_users_choice_of_a_backend_counts(
    environments: Environments, index: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_wheel(index, "torch", "2.8.0+cpu")
    monkeypatch.setenv("UV_TORCH_BACKEND", "cpu")
    monkeypatch.setenv("UV_HTTP_RETRIES", "0")
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:9")
    with pytest.raises(EnvironmentFailed, match="torch"):
        await environments.plan(make_engine("torch"), "cpu")
    plan = await environments.plan(make_engine("apple"), "cpu")
    assert versions(plan.packages)["apple"] == "2.0"


@pytest.mark.network
async def test_the_index_and_its_torch(environments: Environments, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a CPU the real index leads to a build for the CPU or to the refusal, and nothing is downloaded for it."""
    for name in ("PIP_NO_INDEX", "PIP_FIND_LINKS"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("UV_HTTP_RETRIES", "0")
    try:
        plan = await environments.plan(make_engine("torch"), "cpu")
    except EnvironmentFailed as error:
        if error.message.startswith("Failed to fetch"):
            pytest.skip("there is no package index")
        words = ("would bring packages for CUDA", "build of torch for the CPU could not be looked for")
        assert any(text in error.message for text in words)
    else:
        assert cuda_parts(Locked(item.name, item.version, "", "", 0) for item in plan.packages) == ()


TROUBLED = """#!{python}
import sys
if "{option}" in sys.argv:
    sys.exit("error: Failed to write to the cache\\n  Caused by: {reason}")
print('lock-version = "1.0"\\n[[packages]]\\nname = "torch"\\nversion = "{version}"\\n')
print('[[packages]]\\nname = "nvidia-cublas"\\nversion = "1"')
"""
"""Resolves like the usual index, and fails as soon as one option is given."""


@pytest.mark.parametrize(
    ("device", "version", "option"),
    [("cpu", "2.9.0", "--torch-backend"), ("cuda", "2.9.0", "--torch-backend"), ("cuda", "2.9.0+cpu", "--constraints")],
)
@pytest.mark.parametrize(
    ("reason", "remedy"),
    [
        ("No space left on device (os error 28)", "Make room on the disk"),
        ("Permission denied (os error 13)", "See who owns the files"),
        ("Read-only file system (os error 30)", "folder that can be written"),
    ],
)
async def test_trouble_with_the_disk_is_told_as_such(
    tmp_path: Path, device: str, version: str, option: str, reason: str, remedy: str
) -> None:
    program = tmp_path / "uv"
    program.write_text(TROUBLED.format(python=sys.executable, option=option, reason=reason, version=version))
    program.chmod(0o700)
    variables = {"UV_OFFLINE": "1"} if option == "--constraints" else {}
    declaration = declare(make_engine("torch"), device, ())
    with pytest.raises(UvFailed, match=re.escape(reason)) as caught:
        await resolve(Uv(str(program), variables), declaration, tmp_path, sys.executable, {})
    assert remedy in str(caught.value.remedy)


async def test_an_index_of_torch_that_cannot_be_reached(tmp_path: Path) -> None:
    """For the CPU that is the reason; an accelerator's build may be in the user's own index."""
    program = tmp_path / "uv"
    reason = "Failed to fetch: https://host/torch"
    program.write_text(TROUBLED.format(python=sys.executable, option="--torch-backend", reason=reason, version="2.9.0"))
    program.chmod(0o700)
    uv = Uv(str(program), {})
    with pytest.raises(EnvironmentFailed, match=r"could not be looked for.*\n.*Failed to fetch") as caught:
        await resolve(uv, declare(make_engine("torch"), "cpu", ()), tmp_path, sys.executable, {})
    assert "download.pytorch.org" in str(caught.value.remedy)
    found = await resolve(uv, declare(make_engine("torch"), "cuda", ()), tmp_path, sys.executable, {})
    assert versions(found.locked)["torch"] == "2.9.0"


async def test_a_folder_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    with pytest.raises(EnvironmentFailed, match="cannot be written: No such file"):
        nowhere = tmp_path / "nowhere"
        await resolve(Uv("uv", {}), declare(make_engine("torch"), "cpu", ()), nowhere, sys.executable, {})


def test_what_is_of_use_with_cuda_only() -> None:
    names = [
        ("torch", "2.9.0+cu130", True),
        ("torch", "2.9.0+rocm7.0", True),
        ("torch", "2.9.0+cpu", False),
        ("torch", "2.9.0", False),
        ("nvidia-cublas-cu12", "1", True),
        ("nvidia-ml-py", "13", False),
        ("cuda-bindings", "13", True),
        ("triton", "3", False),
        ("numpy", "2", False),
    ]
    for name, version, is_cuda in names:
        assert bool(cuda_parts([Locked(name, version, "", "", 0)])) == is_cuda, (name, version)


def test_a_lock_is_read(tmp_path: Path) -> None:
    (tmp_path / "local-1.2-py3-none-any.whl").write_bytes(bytes(77))
    text = f"""
lock-version = "1.0"
[[packages]]
name = "Remote_Thing"
version = "3"
wheels = [{{ url = "https://host/remote-3-py3-none-any.whl", size = 5, hashes = {{ sha256 = "ab" }} }}]
[[packages]]
name = "local"
archive = {{ path = "{tmp_path}/local-1.2-py3-none-any.whl", hashes = {{ sha256 = "cd" }} }}
[[packages]]
name = "tree"
vcs = {{ type = "git", url = "https://host/tree", commit-id = "e0" }}
[[packages]]
name = "elsewhere"
version = "1"
marker = "sys_platform == 'none'"
[[packages]]
name = "old"
version = "1"
marker = "python_version == '3.99'"
"""
    local, remote, tree = read_lock(text)
    assert (local.name, local.version, local.size_bytes) == ("local", "1.2", 77)
    assert (remote.name, remote.version, remote.size_bytes, remote.sha256) == ("remote-thing", "3", 5, "ab")
    assert (tree.name, tree.version, tree.sha256) == ("tree", "", "e0")
    assert [item.name for item in read_lock(text, {"python_version": "3.99"})] == [
        *("local", "old", "remote-thing", "tree")
    ]
    assert lock_hash([local, tree]) == lock_hash([local, tree]) != lock_hash([local]) != lock_hash([local], "cpu")
    for broken in ("[[packages]", "packages = [1]", "[[packages]]\nversion = '1'"):
        with pytest.raises(EnvironmentFailed, match="The lock of the environment cannot be read"):
            read_lock(broken)


def test_the_kind_of_device() -> None:
    def make(*kinds: str) -> Machine:
        found = tuple(
            Accelerator(index=i, kind=kind, name="", memory_total_bytes=1, memory_free_bytes=1)  # type: ignore[arg-type]
            for i, kind in enumerate(kinds)
        )
        sizes = {"memory_total_bytes": 1, "memory_free_bytes": 1}
        return Machine(platform="linux", architecture="x86_64", cores=1, accelerators=found, **sizes)

    assert device_kind(make()) == "cpu" == device_kind(make("cuda"), ()) == device_kind(make("cuda"), (3,))
    assert device_kind(make("cuda", "rocm")) == "cuda" and device_kind(make("cuda", "rocm"), (1,)) == "rocm"
