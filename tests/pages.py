"""Read the blocks of a page of the documentation, and run them as its reader would.

HTML comments before a block say what is special about it; the reader does not see them:

    <!-- no-test: reason -->     it is not run; the test counts as skipped, with the reason
    <!-- file: path -->          it is the content of a file that later blocks use
    <!-- background -->          it is a server: it runs on while the next blocks do, until the next one of this kind
    <!-- fails -->               it is meant to end with an error
    <!-- needs: demo-chat -->    this model runs before what follows
    <!-- environment: own -->    commands run in an environment of their own from here on: `pip install` may write
"""

import doctest
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from markdown_it import MarkdownIt

from modelrack.testing.serving import wait_until_ready
from virtualenvs import Environment, make_environment

__all__ = ["Block", "Reader", "read_blocks"]

COMMENT = re.compile(r"<!--\s*([a-z-]+)(?::\s*(.*?))?\s*-->", re.DOTALL)
DIRECTIVES = {"no-test", "file", "background", "fails", "needs", "environment"}
LANGUAGES = {"bash", "console", "python"}
ADDRESS = re.compile(r"http://(?:127\.0\.0\.1|localhost):9997")
BLOCK_S = 100


@dataclass(frozen=True)
class Block:
    """One fenced block, with the comments that stand before it."""

    line: int
    language: str
    source: str
    directives: dict[str, str]


def read_blocks(page: Path) -> Iterator[Block]:
    """Yield the blocks of a page that are to be run, written or counted as skipped."""
    pending: dict[str, str] = {}
    for token in MarkdownIt().parse(page.read_text()):
        if token.type == "html_block":
            for name, value in COMMENT.findall(token.content):
                assert name in DIRECTIVES, f"{page.name}:{token.map}: unknown comment '{name}'"
                pending[name] = value
        elif token.type == "fence":
            language = token.info.split(" ")[0]
            if language in LANGUAGES or "file" in pending:
                assert token.map
                yield Block(token.map[0] + 1, language, token.content, pending)
            pending = {}


@dataclass
class Reader:
    """Someone who follows one page from top to bottom, in a folder of their own.

    Args:
        url: address of the server that the page talks to.
        ensure: launches a model by name unless it runs.
    """

    page: Path
    folder: Path
    url: str
    ensure: Callable[[str], None]
    names: dict[str, Any] = field(default_factory=lambda: {"__name__": "__main__"})
    environment: Environment | None = None
    background: subprocess.Popen[bytes] | None = None

    def run(self, block: Block) -> None:
        """Do what the block says; an AssertionError or the block's own exception tells what went wrong."""
        if "environment" in block.directives:
            self.environment = make_environment(self.folder / ".venv")
        if "needs" in block.directives:
            self.ensure(block.directives["needs"])
        if "file" in block.directives:
            path = self.folder / block.directives["file"]
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(block.source)
        elif "background" in block.directives:
            self.start(block)
        else:
            getattr(self, f"run_{block.language}")(block)

    def run_python(self, block: Block) -> None:
        """Run a block in this process; the blocks of a page share their names."""
        source = "\n" * block.line + ADDRESS.sub(self.url, block.source)
        exec(compile(source, str(self.page), "exec"), self.names)

    def run_bash(self, block: Block) -> None:
        """Run a block as one script."""
        self.shell(block.source, fails="fails" in block.directives)

    def run_console(self, block: Block) -> None:
        """Run the lines after `$ ` one by one and compare what they print; `...` stands for anything."""
        for part in re.split(r"^\$ ", block.source, flags=re.MULTILINE)[1:]:
            command, _, expected = part.partition("\n")
            while command.endswith("\\"):
                line, _, expected = expected.partition("\n")
                command += "\n" + line
            output = self.shell(command, fails="fails" in block.directives)
            flags = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
            if expected.strip():
                assert doctest.OutputChecker().check_output(expected, output, flags), f"$ {command}\n{output}"

    def shell(self, script: str, *, fails: bool) -> str:
        """Run a script with bash and return what it printed."""
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", ADDRESS.sub(self.url, script)],
            cwd=self.folder,
            env=self.variables(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=BLOCK_S,
        )
        assert bool(done.returncode) == fails, f"{script}\nended with exit code {done.returncode}:\n{done.stdout}"
        return done.stdout

    def start(self, block: Block) -> None:
        """Start a server of the page's own and wait until it is ready."""
        self.stop()
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"
        environment = {**self.variables(), "MODELRACK_PORT": str(port), "MODELRACK_HOME": str(self.folder / "home")}
        with (self.folder / "server.log").open("ab") as log:
            self.background = subprocess.Popen(
                ["bash", "-c", f"exec {block.source.strip()}"],
                cwd=self.folder,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        wait_until_ready(self.url, self.background)

    def stop(self) -> None:
        """Stop the server of the page's own, if there is one."""
        if self.background is None:
            return
        self.background.send_signal(signal.SIGTERM)
        self.background.wait(60)
        self.background = None

    def variables(self) -> dict[str, str]:
        """Return the environment of the reader's shell."""
        (self.folder / ".curlrc").write_text("silent\nshow-error\nfail-with-body\n")
        inherited = {key: value for key, value in os.environ.items() if not key.startswith("MODELRACK_")}
        path = f"{Path(sys.executable).parent}{os.pathsep}{inherited['PATH']}"
        base = self.environment.variables() if self.environment else {**inherited, "PATH": path}
        return {**base, "HOME": str(self.folder), "MODELRACK_ENDPOINT": self.url, "COLUMNS": "120"}
