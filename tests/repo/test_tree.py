"""What no file of the repository may hold, and what must lie where."""

import re
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
# Folders that only a machine of a developer has, and addresses of package indexes: neither means anything to a reader.
FOREIGN = re.compile(
    r"(?<![\w.$}])/(?:work|farm|root|Users)/\w|/opt/(?:pypi|wheels)|bash_jobs|pythonhosted\.org|--(?:extra-)?index-url|--find-links"
)
SELF = "tests/repo/test_tree.py"


def files() -> list[Path]:
    """List the files that git tracks or would; in a tree without git, those that are not hidden and not made."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if done.returncode == 0:
        return [path for name in done.stdout.split("\0") if name and (path := ROOT / name).is_file()]
    made = re.compile(r"^(build|__pycache__|.*\.egg-info|\.(?!ci$).*)$")
    return [
        path
        for path in ROOT.rglob("*")
        if path.is_file() and not any(map(made.match, path.relative_to(ROOT).parts[:-1]))
    ]


def test_no_path_of_a_machine_and_no_package_index() -> None:
    found = []
    for path in files():
        name = path.relative_to(ROOT).as_posix()
        content = path.read_bytes()
        if name == SELF or b"\0" in content[:8192]:
            continue
        lines = content.decode(errors="replace").splitlines()
        found += [f"{name}:{number}: {line[:120]}" for number, line in enumerate(lines, 1) if FOREIGN.search(line)]
    assert found == []


def test_constraints_are_exact_versions_only() -> None:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pins = [line for line in lines if line and not line.startswith("#")]
    assert [line for line in pins if not re.fullmatch(r"[A-Za-z0-9._-]+==[A-Za-z0-9.!+]+", line)] == []
    assert not any(line.lower().startswith(("vllm", "nvidia-cu")) for line in pins)


def test_the_licence_is_apache_2() -> None:
    text = (ROOT / "LICENSE").read_text()
    assert "Apache License" in text and "END OF TERMS AND CONDITIONS" in text
