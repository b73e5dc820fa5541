"""What engines on PyTorch share, as far as it does without PyTorch."""

import threading
from typing import Any

import pytest
from pydantic import ValidationError

from modelrack.errors import LaunchFailed
from modelrack.hooks import Family, LoadPlan, ModelFiles, Options, Variant
from modelrack.pytorch import RemoteCode, attempt, expected_dtype, has_fast_bfloat16, telling
from modelrack.settings import get_settings
from modelrack.testing.machines import make_machine


def plan(*accelerators: int, size_b: float | None = 1.0, **options: Any) -> LoadPlan:
    return LoadPlan(
        model_uid="it",
        family=Family(name="it", model_type="LLM"),
        variant=Variant(format="pytorch", size_b=size_b),
        quantization="none",
        files=ModelFiles(path="", format="pytorch"),
        options={"dtype": "auto", **options},
        accelerators=accelerators,
    )


class OutOfMemoryError(RuntimeError):
    """Has the name of PyTorch's."""


@pytest.mark.parametrize(
    ("error", "reason", "remedy"),
    [
        (
            OutOfMemoryError("tried to allocate 2 GiB.\nmore"),
            "does not hold the model: tried to allocate 2 GiB",
            "8 bits",
        ),
        (
            ValueError("pass trust_remote_code=True"),
            "Library could not read : it comes with Python code",
            "If you trust",
        ),
        (OSError("no file.\nLook here."), "Library could not read : no file.", None),
        (KeyError(), "Library could not read : KeyError.", None),
        (LaunchFailed("it is too odd"), "it is too odd", None),
    ],
)
def test_failures_say_why_in_one_line(error: Exception, reason: str, remedy: str | None) -> None:
    def fail() -> None:
        raise error

    with pytest.raises(LaunchFailed) as caught:
        attempt(plan(), "Library", fail, verb="read", smaller="with 8 bits")
    assert reason in caught.value.message and "\n" not in caught.value.message
    assert (remedy in (caught.value.remedy or "")) if remedy else caught.value.remedy is None
    assert attempt(plan(), "Library", lambda: 5) == 5


def test_progress_is_told_while_memory_is_taken() -> None:
    told: list[float] = []
    is_told = threading.Event()

    def report(progress: float, stage: str) -> None:
        told.append(progress)
        if progress > 0.5:
            is_told.set()

    with telling(report, 1000, lambda: 750):
        assert is_told.wait(20)
    assert told == [0.05, pytest.approx(0.65)]


def test_the_type_of_numbers_is_expected_by_the_memory_there_is() -> None:
    slow = "auto" if has_fast_bfloat16() else "float32"
    assert expected_dtype(plan(), make_machine()) == slow
    assert expected_dtype(plan(size_b=100.0), make_machine()) == ("auto" if has_fast_bfloat16() else "bfloat16")
    assert expected_dtype(plan(0), make_machine("cuda")) == "auto"
    assert expected_dtype(plan(dtype="float16"), make_machine()) == "float16"


class Trusting(Options):
    trust_remote_code: RemoteCode = False


def test_code_of_models_needs_the_operator(monkeypatch: pytest.MonkeyPatch) -> None:
    assert Trusting().trust_remote_code is False
    with pytest.raises(ValidationError, match="MODELRACK_TRUST_REMOTE_CODE=1"):
        Trusting(trust_remote_code=True)
    monkeypatch.setenv("MODELRACK_TRUST_REMOTE_CODE", "1")
    get_settings.cache_clear()
    try:
        assert Trusting(trust_remote_code=True).trust_remote_code
    finally:
        monkeypatch.undo()
        get_settings.cache_clear()
