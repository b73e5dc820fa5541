"""Every code block of the documentation runs, against a real server."""

import subprocess
from pathlib import Path

import pytest

from modelrack.client import Client
from modelrack.testing.serving import Server
from pages import Reader, read_blocks

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")), *sorted(ROOT.glob("plugins/*/README.md"))]


@pytest.mark.timeout(300)
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_blocks(
    page: Path, server: Server, tmp_path: Path, subtests: pytest.Subtests, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = Client(server.url)

    def ensure(name: str) -> None:
        if name not in client.list_models():
            client.launch_model(name)

    for uid in client.list_models():
        client.terminate_model(uid)
    monkeypatch.setenv("MODELRACK_ENDPOINT", server.url)
    monkeypatch.chdir(tmp_path)
    reader = Reader(page, tmp_path, server.url, ensure)
    try:
        for block in read_blocks(page):
            with subtests.test(msg=f"{page.relative_to(ROOT)}:{block.line}"):
                if "no-test" in block.directives:
                    pytest.skip(block.directives["no-test"])
                reader.run(block)
    finally:
        reader.stop()


def test_there_is_a_curl() -> None:
    """The pages use it; without it every one of them would fail in a way that is hard to read."""
    assert subprocess.run(["curl", "--version"], capture_output=True).returncode == 0
