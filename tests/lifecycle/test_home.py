"""The home folder: what is kept, swept and bounded in it."""

import os
from pathlib import Path

import pytest

from modelrack.errors import Conflict
from modelrack.lifecycle.home import lock_home, open_home, trim_log


def test_a_home_belongs_to_one_process(tmp_path: Path) -> None:
    held = lock_home(tmp_path / "home")
    with pytest.raises(Conflict, match="Another modelrack server"):
        lock_home(tmp_path / "home")
    os.close(held)
    os.close(lock_home(tmp_path / "home"))


def test_sockets_of_a_long_path_lie_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    long = tmp_path / ("x" * 100)
    sockets = open_home(long).sockets
    assert sockets.parent == tmp_path and sockets.stat().st_mode & 0o777 == 0o700
    sockets.rmdir()
    sockets.symlink_to(tmp_path)
    with pytest.raises(Conflict, match="belongs to another user"):
        open_home(long)


def test_a_sweep_leaves_only_what_belongs_to_a_kept_worker(tmp_path: Path) -> None:
    home = open_home(tmp_path)
    for incarnation in ("kept", "lost"):
        home.run(incarnation).mkdir()
        (home.run(incarnation) / "job.json").touch()
        home.socket(incarnation).touch()
    home.sweep({"kept"})
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == ["kept", "kept.sock"]
    assert (home.run("kept") / "job.json").exists()


def test_a_flooded_log_keeps_its_end_and_its_writer_goes_on(tmp_path: Path) -> None:
    log = tmp_path / "log"
    with log.open("ab", buffering=0) as writer:
        writer.write(b"x" * 5000 + b"\nlast words\n")
        trim_log(log, limit_bytes=10_000)
        assert log.stat().st_size == 5012
        trim_log(log, limit_bytes=1000)
        writer.write(b"more\n")
    text = log.read_bytes()
    assert len(text) < 1100 and text.startswith(b"[the beginning") and text.endswith(b"xx\nlast words\nmore\n")
