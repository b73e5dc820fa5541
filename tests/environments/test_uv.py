"""What the user has set for pip and uv counts, and what uv says is put in few words."""

import json
from pathlib import Path

import pytest

from modelrack.environments.lock import Locked
from modelrack.environments.progress import Progress, Tracker
from modelrack.environments.uv import explain, find_uv, uv_variables, without_index


def test_uv_is_found() -> None:
    assert Path(find_uv()).name == "uv"


def test_the_settings_of_pip_are_taken_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    given = {
        "PIP_INDEX_URL": "https://one/simple",
        "PIP_EXTRA_INDEX_URL": "https://two/simple\n https://three/simple",
        "PIP_FIND_LINKS": f"wheels https://four/wheels  file://{tmp_path}/x",
        "PIP_TRUSTED_HOST": "two three",
        "PIP_CERT": "/certificates.pem",
        "PYTHONPATH": "/somewhere",
        "VIRTUAL_ENV": "/somewhere",
        "UV_PYTHON": "3.9",
        "HOME": "/home/me",
    }
    variables = uv_variables(Path("/home/me/.modelrack"), given)
    assert variables["UV_DEFAULT_INDEX"] == "https://one/simple"
    assert variables["UV_EXTRA_INDEX_URL"] == "https://two/simple https://three/simple"
    assert variables["UV_FIND_LINKS"] == f"{tmp_path}/wheels,https://four/wheels,file://{tmp_path}/x"
    assert variables["UV_INSECURE_HOST"] == "two three" and variables["SSL_CERT_FILE"] == "/certificates.pem"
    assert variables["UV_CACHE_DIR"] == "/home/me/.modelrack/cache/uv" and variables["HOME"] == "/home/me"
    assert not {"PYTHONPATH", "VIRTUAL_ENV", "UV_PYTHON"} & set(variables)


def test_the_settings_of_uv_come_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    given = {
        "PIP_INDEX_URL": "https://one/simple",
        "PIP_EXTRA_INDEX_URL": "https://two/simple",
        "PIP_FIND_LINKS": "/wheels",
        "UV_INDEX_URL": "https://uv/simple",
        "UV_INDEX": "https://uv-more/simple",
        "UV_FIND_LINKS": "links,https://host/links, ",
        "UV_CACHE_DIR": "cache",
        "UV_LINK_MODE": "copy",
        "UV_PYTHON_INSTALL_DIR": "/pythons",
    }
    variables = uv_variables(Path("/home"), given)
    assert not {"UV_DEFAULT_INDEX", "UV_EXTRA_INDEX_URL"} & set(variables)
    assert variables["UV_FIND_LINKS"] == f"{tmp_path}/links,https://host/links"
    assert variables["UV_CACHE_DIR"] == f"{tmp_path}/cache" and variables["UV_LINK_MODE"] == "copy"
    assert variables["UV_PYTHON_INSTALL_DIR"] == "/pythons"


def test_files_are_never_links_into_the_cache() -> None:
    assert uv_variables(Path("/home"), {"UV_LINK_MODE": "symlink"}).get("UV_LINK_MODE") != "symlink"


def test_an_index_can_be_forbidden() -> None:
    assert without_index({"PIP_NO_INDEX": "1"}) and without_index({"PIP_NO_INDEX": "true"})
    assert not without_index({}) and not without_index({"PIP_NO_INDEX": "0"})
    assert not without_index({"PIP_NO_INDEX": "1", "UV_DEFAULT_INDEX": "https://uv/simple"})


def test_reasons_are_short() -> None:
    new = [
        "warning: something",
        "Using Python 3.11.7 environment at: x",
        "error: No solution found when resolving dependencies",
        "  cause: Because there is no version of torch{platform_machine == 'x86_64'}==2+cpu and you require it, …",
        "         And because you require it, we can conclude that your requirements are unsatisfiable.",
        "",
        "hint: Packages were unavailable",
    ]
    assert explain(new).splitlines() == [
        "No solution found when resolving dependencies",
        "Because there is no version of torch==2+cpu and you require it, …",
        "And because you require it, we can conclude that your requirements are unsatisfiable.",
        "Packages were unavailable",
    ]
    old = [
        "Resolved 2 packages",
        "  × No solution found",
        "  ╰─▶ Because of this",
        "      and that.",
        "  × No solution found",
    ]
    assert explain(old).splitlines() == ["No solution found", "Because of this", "and that."]
    long = ["error: Failed to build", *(f"line {number}" for number in range(100)), "the compiler is not there"]
    assert explain(long).splitlines()[0] == "Failed to build" and explain(long).endswith("the compiler is not there")
    assert len(explain(long).splitlines()) == 12 and "…" in explain(long)
    assert len(explain(["error: " + "x" * 5000])) < 1600 and explain([]) == ""


def test_progress_never_goes_back() -> None:
    heard: list[Progress] = []
    tracker = Tracker(heard.append)
    tracker.tell("resolving requirements")
    tracker.resolved(
        [Locked("big", "1", "", "", 900), Locked("more", "1", "", "", 90), Locked("small", "1", "", "", 10)]
    )
    tracker.unpacked(100)  # of something else: nothing is being fetched
    for line in ("Downloading big (900B)", "   Building more==1", "noise"):
        tracker.on_line(line)
    assert heard[-1].detail == "fetching big, more" and heard[-1].done_bytes == 0
    for size in (300, 300, 900, 90000, 600):
        tracker.unpacked(size)
    assert [progress.done_bytes for progress in heard[-4:]] == [100, 300, 940, 940]
    tracker.on_line(" Downloaded big")
    assert heard[-1].done_bytes == 940 and heard[-1].detail == "fetching more"
    for line in ("      Built more==1", "Prepared 3 packages in 1s", "Installed 3 packages in 1s"):
        tracker.on_line(line)
    assert heard[-1].done_bytes == heard[-1].total_bytes == 1000 and heard[-1].fraction == 0.95
    fractions = [progress.fraction for progress in heard]
    amounts = [progress.done_bytes for progress in heard]
    assert fractions == sorted(fractions) and amounts == sorted(amounts)
    tracker.follow(b'[0.2, "fetching", 1, 2]')
    assert (heard[-1].fraction, heard[-1].detail, heard[-1].total_bytes) == (0.95, "fetching", 2)
    for said in (b"", b"{", b"[1]", b"7"):
        tracker.follow(said)
        assert heard[-1].detail.startswith("waiting for another process")


def test_who_takes_over_begins_at_what_was_told_before() -> None:
    """Another process made the environment and was killed: megabytes counted twice, or backwards."""
    heard: list[Progress] = []
    tracker = Tracker(heard.append)
    for done in (300, 200, 500):
        tracker.follow(json.dumps([0.5, "fetching big", done, 1000]).encode())
    tracker.resolved([Locked("big", "1", "", "", 900), Locked("small", "1", "", "", 100)])
    for line in ("Downloading big (900B)", " Downloaded big", "Downloading small (100B)", " Downloaded small"):
        tracker.on_line(line)
    assert [progress.done_bytes for progress in heard] == [300, 300, 500, 500, 500, 900, 900, 1000]
