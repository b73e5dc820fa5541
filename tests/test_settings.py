"""Settings as an operator's environment gives them, careful or not."""

from pathlib import Path

import pytest
from pydantic import ValidationError

from modelrack.settings import Settings


def test_folders_are_full_paths(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Workers have another working directory, and nobody expands `~` in a service's environment."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MODELRACK_HOME", raising=False)
    assert Settings().home == tmp_path / ".modelrack"
    monkeypatch.setenv("MODELRACK_HOME", "~/rack")
    monkeypatch.setenv("MODELRACK_CACHE", "models")
    assert Settings().home == tmp_path / "rack" and Settings().cache_dir == tmp_path / "models"


def test_an_empty_variable_is_not_given(monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty address would be every address of the machine."""
    for name in ("HOST", "PORT", "HOME", "MAX_BODY_MB"):
        monkeypatch.setenv(f"MODELRACK_{name}", "")
    assert Settings().host == "127.0.0.1"
    with pytest.raises(ValidationError):
        Settings(host="")


@pytest.mark.parametrize("name", ["max_body_mb", "lease_s", "drain_s", "stop_s", "files_ttl_s", "files_max_mb"])
@pytest.mark.parametrize("value", ["inf", "nan"])
def test_seconds_and_sizes_are_finite(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(f"MODELRACK_{name.upper()}", value)
    with pytest.raises(ValidationError):
        Settings()
