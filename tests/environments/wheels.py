"""Distributions made on the spot: environments are built from these, without any network."""

import base64
import hashlib
import io
import re
import tarfile
import zipfile
from importlib.metadata import distribution
from pathlib import Path

from packaging.requirements import Requirement

__all__ = ["make_sdist", "make_wheel", "repack"]

SLOW_BACKEND = """
import os, time
from pathlib import Path

def build_wheel(wheel_directory, config_settings=None, metadata_directory=None):
    place = Path(os.environ["TEST_PLACE"])
    (place / f"started-{os.getpid()}").touch()
    end = time.monotonic() + 60
    while not (place / "go").exists():
        if time.monotonic() > end:
            raise RuntimeError("nobody said go")
        time.sleep(0.02)
    import shutil
    wheel = next(place.glob("built/*.whl"))
    shutil.copy(wheel, wheel_directory)
    return wheel.name
"""
"""Builds once somebody says so: a test can look around in the middle."""

BROKEN_BACKEND = """
def build_wheel(wheel_directory, config_settings=None, metadata_directory=None):
    raise RuntimeError("the compiler is not there")
"""


def _record(name: str, content: bytes) -> str:
    digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
    return f"{name},sha256={digest},{len(content)}\n"


def _write(path: Path, info: str, files: dict[str, bytes]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    record = "".join(_record(name, content) for name, content in files.items()) + f"{info}/RECORD,,\n"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for name, content in {**files, f"{info}/RECORD": record.encode()}.items():
            member = zipfile.ZipInfo(name, (2024, 1, 1, 0, 0, 0))
            member.external_attr = 0o100644 << 16
            archive.writestr(member, content)
    return path


def _metadata(name: str, version: str, requires: tuple[str, ...]) -> bytes:
    lines = ["Metadata-Version: 2.2", f"Name: {name}", f"Version: {version}"]
    return "\n".join([*lines, *(f"Requires-Dist: {text}" for text in requires), ""]).encode()


def make_wheel(
    folder: Path,
    name: str,
    version: str = "1.0",
    *,
    requires: tuple[str, ...] = (),
    size: int = 0,
    script: bool = False,
) -> Path:
    """Make a wheel with one module, some data of `size` bytes, and perhaps a command."""
    plain = re.sub(r"[-_.]+", "_", name)
    info = f"{plain}-{version}.dist-info"
    files = {
        f"{plain}/__init__.py": f"VERSION = {version!r}\n\n\ndef main():\n    print({name!r})\n".encode(),
        f"{plain}/data.bin": hashlib.sha256(name.encode()).digest() * (size // 32),
        f"{info}/METADATA": _metadata(name, version, requires),
        f"{info}/WHEEL": b"Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{info}/entry_points.txt": f"[console_scripts]\n{name} = {plain}:main\n".encode(),
    }
    return _write(folder / f"{plain}-{version}-py3-none-any.whl", info, files)


def make_sdist(folder: Path, name: str, backend: str, version: str = "1.0") -> Path:
    """Make a source distribution that is built by the given module, which needs nothing."""
    root = f"{name}-{version}"
    files = {
        f"{root}/PKG-INFO": _metadata(name, version, ()),
        f"{root}/pyproject.toml": (
            '[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n'
            f'[project]\nname = "{name}"\nversion = "{version}"\n'
        ).encode(),
        f"{root}/backend.py": backend.encode(),
    }
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{root}.tar.gz"
    with tarfile.open(path, "w:gz") as archive:
        for member_name, content in files.items():
            member = tarfile.TarInfo(member_name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


def repack(folder: Path, *names: str) -> None:
    """Make wheels of installed distributions and of what they require, as they are here."""
    pending, done = list(names), set[str]()
    while pending:
        name = pending.pop()
        if name.lower() in done:
            continue
        done.add(name.lower())
        found = distribution(name)
        wheel = found.read_text("WHEEL") or ""
        tags = re.findall(r"^Tag: (\S+)", wheel, re.MULTILINE)
        info = next(str(file).partition("/")[0] for file in found.files or () if ".dist-info/" in str(file))
        files = {
            str(file): Path(str(file.locate())).read_bytes()
            for file in found.files or ()
            if not str(file).startswith("..")
            and not re.search(r"\.pyc$|/(RECORD|INSTALLER|REQUESTED|direct_url\.json)$", str(file))
        }
        _write(folder / f"{info.removesuffix('.dist-info')}-{tags[0]}.whl", info, files)
        for text in found.requires or ():
            requirement = Requirement(text)
            if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
                pending.append(requirement.name)
